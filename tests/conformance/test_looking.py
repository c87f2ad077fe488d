from celeriac.contrib.conformance.test_looking import *  # noqa: F403  (see conftest.py)
