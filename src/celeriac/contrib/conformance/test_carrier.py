"""Walk at random through what every broker gives, and lose and double nothing."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis", reason="the state machine needs the library hypothesis")

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from celeriac.contrib.conformance.carrier import Carrier
from celeriac.contrib.conformance.rig import Rig


def test_nothing_is_lost_or_doubled(rig: Rig, request: pytest.FixtureRequest) -> None:
    run_state_machine_as_test(
        lambda: Carrier(lambda: type(rig)(request)),  # type: ignore[arg-type]
        settings=settings(
            max_examples=100 if rig.drives_clock else 10,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            stateful_step_count=25,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
