from celeriac.contrib.conformance.test_groups import *  # noqa: F403  (see conftest.py)
