"""Options of a worker: flags over settings, and mistakes named where they are made."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.app.rates import interval
from celeriac.exceptions import ImproperlyConfigured
from celeriac.worker.options import resolve
from celeriac.worker.worker import _check_tables, _store_notes


@pytest.fixture
def app() -> Celeriac:
    return Celeriac("options", broker="memory://options", set_as_current=False)


def test_defaults_are_the_safe_ones(app: Celeriac) -> None:
    options = resolve(app, {})
    assert (options.pool, options.prefetch, options.grace, options.lease) == ("prefork", 0, 25.0, 15.0)
    assert options.queues == ["celery"]
    assert options.slots == 1


def test_flags_go_before_settings(app: Celeriac) -> None:
    app.conf.worker_concurrency = 3
    app.conf.worker_prefetch_multiplier = 4
    assert resolve(app, {}).concurrency == 3
    options = resolve(app, {"concurrency": 5, "prefetch_multiplier": 1, "shutdown_grace": None})
    assert (options.concurrency, options.prefetch, options.grace) == (5, 1, None)


def test_disabling_prefetch_holds_nothing_unstarted(app: Celeriac) -> None:
    assert resolve(app, {"disable_prefetch": True, "prefetch_multiplier": 8}).prefetch == 1


def test_a_pool_of_slots_has_one_process(app: Celeriac) -> None:
    options = resolve(app, {"pool": "threads", "concurrency": 50})
    assert (options.room, options.slots) == (1, 50)


def test_autoscale_counts_processes(app: Celeriac) -> None:
    options = resolve(app, {"autoscale": "10,3"})
    assert (options.autoscale, options.concurrency, options.room) == ((10, 3), 3, 42)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"pool": "prefrok"}, "did you mean 'prefork'"),
        ({"pool": "threads", "autoscale": "10,3"}, "use --pool=prefork"),
        ({"concurrency": "many"}, "a number of 1 or more"),
        ({"autoscale": "x"}, "MAX,MIN"),
        ({"time_limit": 5, "soft_time_limit": 10}, "make it shorter"),
        ({"prefetch_multiplier": -1}, "'auto' or a number from 0"),
        ({"exclude_queues": ["celery"]}, "no queue is left"),
    ],
)
def test_mistakes_say_what_to_do(app: Celeriac, flags: dict[str, Any], said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        resolve(app, flags)


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [(None, 0.0), ("", 0.0), (0, 0.0), ("10/s", 0.1), ("10/m", 6.0), ("2/h", 1800.0), (4, 0.25), ("5", 0.2)],
)
def test_rates_become_intervals(rate: Any, seconds: float) -> None:
    assert interval(rate) == pytest.approx(seconds)


@pytest.mark.parametrize("rate", ["ten a minute", "-1/m", "nan", "10/d", -1])
def test_a_rate_that_cannot_be_read_is_an_error(rate: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="10/m"):
        interval(rate)


def test_each_store_s_tables_are_looked_at_once_at_the_start(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Any] = []
    look = looked.append
    monkeypatch.setattr(type(app.broker), "check_tables", lambda store: look(store), raising=False)
    _check_tables(app)
    assert len(looked) == 1


def test_what_the_stores_cannot_keep_is_said_at_the_start() -> None:
    def notes(broker: str, backend: str | None, **task: Any) -> list[str]:
        with Celeriac("notes", broker=broker, backend=backend, set_as_current=False) as app:
            app.task(name="limited", **task)(lambda: None)
            for other in app.tasks.keys() - {"limited"}:
                del app.tasks[other]  # other tests' shared ones
            return _store_notes(app, resolve(app, {"task_events": True}))

    rabbit = "amqp://me:secret@127.0.0.1:1//"
    assert [text for text in notes(rabbit, None) if "no result_backend can coordinate" in text]
    assert [text for text in notes(rabbit, "rpc://") if "no result_backend can coordinate" in text]
    assert notes(rabbit, "memory://notes") == []
    (told,) = notes(rabbit, "memory://notes", max_concurrency=2)
    assert "max_concurrency is not kept (limited)" in told
    (told,) = notes(rabbit, "memory://notes", debounce=5.0)
    assert "debounce does not work (limited)" in told
    assert "secret" not in told
    (told,) = notes("memory://notes", None, max_concurrency=2, debounce=5.0)
    assert "carries no events" in told
