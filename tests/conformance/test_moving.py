from celeriac.contrib.conformance.test_moving import *  # noqa: F403  (see conftest.py)
