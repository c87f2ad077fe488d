"""Walk the state diagram at random, on every engine."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conformance.machine import Diagram
from tests.conformance.rigs import RIGS

WALKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""Without shrinking: on a real store, whose clock goes on by itself, that takes minutes."""


@pytest.mark.parametrize("name", sorted(RIGS))
def test_the_diagram_holds(name: str, request: pytest.FixtureRequest) -> None:
    in_memory = name == "memory"
    run_state_machine_as_test(
        lambda: Diagram(lambda: RIGS[name](request)),
        settings=settings(
            max_examples=100 if in_memory else 15,
            phases=(*WALKING, Phase.shrink) if in_memory else WALKING,
            stateful_step_count=60,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
