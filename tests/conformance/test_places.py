from celeriac.contrib.conformance.test_places import *  # noqa: F403  (see conftest.py)
