from celeriac.contrib.conformance.test_ticks import *  # noqa: F403  (see conftest.py)
