from celeriac.contrib.conformance.test_schedules import *  # noqa: F403  (see conftest.py)
