"""What the command proposes for a mistyped word."""

from __future__ import annotations

import pytest

from celeriac.cli.errors import did_you_mean

TASKS = ["myapp.tasks.add_numbers", "myapp.tasks.bad", "myapp.tasks.waits", "shop.add"]


@pytest.mark.parametrize(
    ("word", "proposal"),
    [
        ("myapp.tasks.add_number", " Did you mean myapp.tasks.add_numbers?"),
        ("myap.tasks.bad", " Did you mean myapp.tasks.bad?"),
        ("shop.sub", " Did you mean shop.add?"),
        ("elsewhere", ""),
    ],
)
def test_names_of_one_module_are_told_apart_by_their_last_part(word: str, proposal: str) -> None:
    assert did_you_mean(word, TASKS) == proposal
