"""Walk the state diagram at random, on every engine."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis", reason="the state machine needs the library hypothesis")

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from celeriac.contrib.conformance.machine import Diagram
from celeriac.contrib.conformance.rig import Rig

WALKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""Without shrinking: on a real store, whose clock goes on by itself, that takes minutes."""


def test_the_diagram_holds(rig: Rig, request: pytest.FixtureRequest) -> None:
    quick = rig.drives_clock
    run_state_machine_as_test(
        lambda: Diagram(lambda: type(rig)(request)),  # type: ignore[arg-type]
        settings=settings(
            max_examples=100 if quick else 15,
            phases=(*WALKING, Phase.shrink) if quick else WALKING,
            stateful_step_count=60,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
