from celeriac.contrib.conformance.test_carrier import *  # noqa: F403  (see conftest.py)
