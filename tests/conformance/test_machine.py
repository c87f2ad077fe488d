from celeriac.contrib.conformance.test_machine import *  # noqa: F403  (see conftest.py)
