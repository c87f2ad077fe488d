from celeriac.contrib.conformance.test_concurrency import *  # noqa: F403  (see conftest.py)
