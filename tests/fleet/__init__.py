"""Mixed fleets: workers, clients, beats and monitors of Celery's releases and ours on one broker."""

import pytest

pytest.register_assert_rewrite("tests.fleet.scenarios")
