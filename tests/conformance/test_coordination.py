from celeriac.contrib.conformance.test_coordination import *  # noqa: F403  (see conftest.py)
