from celeriac.contrib.conformance.test_lost_owners import *  # noqa: F403  (see conftest.py)
