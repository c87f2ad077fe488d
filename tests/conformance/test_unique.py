from celeriac.contrib.conformance.test_unique import *  # noqa: F403  (see conftest.py)
