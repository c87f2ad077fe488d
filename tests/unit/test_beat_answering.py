"""A beat that answers pings."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.beat import Beat
from celeriac.beat.answering import Answering
from celeriac.contrib.conformance.helpers import eventually


@pytest.fixture
def app() -> Iterator[Celeriac]:
    with Celeriac("beaten", broker=f"memory://{uuid.uuid4().hex}", set_as_current=False) as app:
        yield app


def ping(app: Celeriac, **options: Any) -> list[dict[str, Any]]:
    return app.control.ping(timeout=0.2, **options)  # type: ignore[no-any-return]


def test_it_answers_pings_and_nothing_else(app: Celeriac) -> None:
    beat = Beat(app, hostname="celerybeat@h")
    pong = [{"celerybeat@h": {"ok": "pong"}}]
    with Answering(beat):
        eventually(lambda: ping(app) == pong)
        assert ping(app, destination=["celerybeat@h"]) == pong
        assert ping(app, destination=["celery@h"]) == []
        assert app.control.broadcast("stats", reply=True, timeout=0.2) == []
    assert ping(app) == []


@pytest.mark.parametrize(("configured", "silence"), [(None, 61.0), (5.0, 6.0)])
def test_it_is_silent_when_its_loop_hangs(app: Celeriac, configured: float | None, silence: float) -> None:
    app.conf.beat_remote_control_max_tick_age = configured
    beat = Beat(app, hostname="celerybeat@h")
    with Answering(beat):
        eventually(lambda: ping(app))
        beat.ticked -= silence
        assert ping(app) == []
        app.conf.beat_remote_control_max_tick_age = 0
        assert len(ping(app)) == 1, "0: never"
        app.conf.beat_remote_control_max_tick_age = configured
        beat.attempt()
        assert len(ping(app)) == 1
