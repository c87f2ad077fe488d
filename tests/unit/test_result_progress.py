"""Progress: what tasks tell of it, and what callers see."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.app import results
from celeriac.app.request import Context
from celeriac.exceptions import TimeoutError
from celeriac.result import Progress

from .helpers import make_app

Store = Callable[..., None]


@pytest.fixture
def app() -> Celeriac:
    return make_app()


@pytest.fixture
def store(app: Celeriac) -> Store:
    def store(id: str, state: str, value: Any = None) -> None:
        assert app.backend is not None
        app.backend.store([app.results.record(state, value, Context(id=id))])

    return store


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(results, "time", clock)
    return clock


def test_a_task_tells_ten_times_a_second_at_most_and_always_the_last(app: Celeriac, clock: Clock) -> None:
    task = app.task(lambda: None, name="t")
    task.push_request(Context(id="i", called_directly=False))
    told = []
    for done in range(1, 101):
        task.progress(done, 100, note=f"row {done}")
        told.append(app.AsyncResult("i").progress)
        clock.now += 0.01
    task.pop_request()
    changes = list(dict.fromkeys(told))
    assert changes[0] == Progress(1, 100, "row 1")
    assert changes[-1] == Progress(100, 100, "row 100")
    assert 10 <= len(changes) <= 12
    assert app.AsyncResult("i").info == {"current": 100, "total": 100, "note": "row 100"}


def test_calls_of_one_task_in_threads_and_coroutines_are_told_apart(app: Celeriac) -> None:
    task = app.task(lambda: None, name="t")

    def work(id: str) -> None:
        task.push_request(Context(id=id, called_directly=False))
        task.progress(int(id))

    async def awork(id: str) -> None:
        task.push_request(Context(id=id, called_directly=False))
        await asyncio.sleep(0)
        await task.aprogress(int(id))

    async def main() -> None:
        await asyncio.gather(awork("3"), awork("4"))

    threads = [threading.Thread(target=work, args=(id,)) for id in "12"]
    for thread in threads:
        thread.start()
    asyncio.run(main())
    for thread in threads:
        thread.join()
    assert [app.AsyncResult(id).progress for id in "1234"] == [Progress(n) for n in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("state", "meta", "seen"),
    [
        ("PROGRESS", {"current": 1, "total": 4}, Progress(1, 4)),
        ("IMPORTING", {"done": 0.5, "note": "half"}, Progress(0.5, None, "half")),
        ("PROGRESS", {"current": 1, "total": "many", "note": None}, Progress(1)),
        ("PROGRESS", {"current": True}, None),
        ("PROGRESS", {"step": 1}, None),
        ("PROGRESS", [1, 2], None),
        ("STARTED", {"current": 1}, None),
        ("SUCCESS", {"current": 1}, None),
    ],
)
def test_states_of_the_users_own_are_understood(
    app: Celeriac, store: Store, state: str, meta: Any, seen: Any
) -> None:
    store("i", state, meta)
    assert app.AsyncResult("i").progress == seen


def test_the_fraction() -> None:
    assert Progress(1, 4).fraction == 0.25
    assert Progress(1).fraction is None
    assert (Progress(0, 0).fraction, Progress(5, 4).fraction, Progress(-1, 4).fraction) == (1.0, 1.0, 0.0)


def test_updates_follow_a_task_to_its_end(app: Celeriac, store: Store) -> None:
    result = app.AsyncResult("i")
    updates = result.updates(timeout=5)
    store("i", "PROGRESS", {"current": 1})
    assert next(updates) == Progress(1)
    store("i", "STARTED", {"pid": 1})
    store("i", "PROGRESS", {"current": 1})
    store("i", "PROGRESS", {"current": 2})
    assert next(updates) == Progress(2)
    store("i", "FAILURE", ValueError("x"))
    assert list(updates) == []
    assert result.state == "FAILURE"
    assert list(result.updates()) == []
    with pytest.raises(TimeoutError):
        list(app.AsyncResult("none").updates(timeout=0.01))


def test_updates_for_coroutines(app: Celeriac, store: Store) -> None:
    async def main() -> list[Progress]:
        seen = []
        store("i", "PROGRESS", {"current": 1})
        async for progress in app.AsyncResult("i").aupdates(timeout=5):
            seen.append(progress)
            store("i", *(("PROGRESS", {"current": 2}) if progress.done == 1 else ("SUCCESS", 7)))
        with pytest.raises(TimeoutError):
            async for _ in app.AsyncResult("none").aupdates(timeout=0.01):
                pass
        with pytest.raises(RuntimeError, match="await"):
            app.AsyncResult("none").updates()
        return seen

    assert asyncio.run(main()) == [Progress(1), Progress(2)]


def test_eager_tasks_and_direct_calls(app: Celeriac) -> None:
    @app.task(bind=True)
    def work(self: Any) -> int:
        self.progress(1, 2, "half")
        return 5

    @app.task(bind=True)
    def update(self: Any) -> None:
        self.update_state(state="PROGRESS", meta={"current": 3})

    assert work() == 5
    result = work.apply()
    assert (result.get(), result.progress, list(result.updates())) == (
        5, Progress(1, 2, "half"), [Progress(1, 2, "half")]
    )  # fmt: skip
    assert update.apply().progress == Progress(3)
    assert app.task(lambda: 1).apply().progress is None

    async def main() -> list[Progress]:
        return [progress async for progress in result.aupdates()]

    assert asyncio.run(main()) == [Progress(1, 2, "half")]
