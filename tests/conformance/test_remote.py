from celeriac.contrib.conformance.test_remote import *  # noqa: F403  (see conftest.py)
