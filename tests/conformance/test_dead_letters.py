from celeriac.contrib.conformance.test_dead_letters import *  # noqa: F403  (see conftest.py)
