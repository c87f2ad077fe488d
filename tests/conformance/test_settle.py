from celeriac.contrib.conformance.test_settle import *  # noqa: F403  (see conftest.py)
