from celeriac.contrib.conformance.test_history import *  # noqa: F403  (see conftest.py)
