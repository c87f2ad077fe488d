from celeriac.contrib.conformance.test_bindings import *  # noqa: F403  (see conftest.py)
