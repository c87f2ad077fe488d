from celeriac.contrib.conformance.test_wait import *  # noqa: F403  (see conftest.py)
