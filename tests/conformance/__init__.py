"""The conformance suite on our own engines."""

import pytest

pytest.register_assert_rewrite("celeriac.contrib.conformance")
