"""Walk the state diagram at random, on every engine."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conformance.machine import Diagram
from tests.conformance.rigs import RIGS


@pytest.mark.timeout(600)  # a failing walk takes its time to be made short
@pytest.mark.parametrize("name", sorted(RIGS))
def test_the_diagram_holds(name: str, request: pytest.FixtureRequest) -> None:
    run_state_machine_as_test(
        lambda: Diagram(lambda: RIGS[name](request)),
        settings=settings(
            max_examples=100 if name == "memory" else 15,
            stateful_step_count=60,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
