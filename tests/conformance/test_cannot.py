"""The list of what engines cannot give names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance.cannot import CANNOT

HERE = Path(__file__).parent


@pytest.mark.parametrize("engine", sorted(CANNOT))
def test_what_is_left_out_exists_and_has_a_reason(engine: str) -> None:
    for listed, reason in CANNOT[engine].items():
        file, _, name = listed.partition("::")
        text = (HERE / f"test_{file}.py").read_text()
        assert not name or re.search(rf"^def test_{name}\(", text, re.MULTILINE), listed
        assert reason.endswith("."), listed
