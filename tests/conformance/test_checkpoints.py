from celeriac.contrib.conformance.test_checkpoints import *  # noqa: F403  (see conftest.py)
