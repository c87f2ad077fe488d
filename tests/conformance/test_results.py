from celeriac.contrib.conformance.test_results import *  # noqa: F403  (see conftest.py)
