from celeriac.contrib.conformance.test_claim import *  # noqa: F403  (see conftest.py)
