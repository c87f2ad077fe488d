"""An application with tasks on the memory engine, and a worker's loop without a process."""

from __future__ import annotations

from typing import Any

from celeriac import Celeriac
from celeriac.engines.base import Incarnation, Outcome
from celeriac.worker.line import Line
from celeriac.worker.runner import Runner
from tests.unit.helpers import make_app

Task = Any


class Bench:
    """``add``, ``total`` and friends; ``calls`` notes what error callbacks were called with."""

    def __init__(self, **settings: Any) -> None:
        self.app: Celeriac = make_app(**settings)
        self.calls: list[Any] = []
        self._lives = 0
        app, calls = self.app, self.calls

        @app.task(name="t.add")
        def add(x: Any, y: Any) -> Any:
            return x + y

        @app.task(name="t.total")
        def total(values: Any) -> Any:
            return sum(values)

        @app.task(name="t.listed")
        def listed(*values: Any, **more: Any) -> Any:
            return [*values, *([more] if more else [])]

        @app.task(name="t.fail")
        def fail(*args: Any) -> None:
            raise ValueError(*args)

        @app.task(name="t.replace", bind=True)
        def replace(self: Task, sig: Any) -> Any:
            return self.replace(self.app.signature(sig))

        @app.task(name="t.more", bind=True)
        def more(self: Task, value: Any, lazy: bool = False) -> Any:
            added = self.add_to_chord(add.s(value, 100), lazy=lazy)
            if lazy:
                added.delay()
            return value

        @app.task(name="t.start", bind=True)
        def start(self: Task, sig: Any) -> Any:
            return self.app.signature(sig).delay().id

        @app.task(name="t.stamps", bind=True)
        def stamps(self: Task, *args: Any) -> Any:
            return self.request.stamps

        @app.task(name="t.old")
        def old(task_id: str) -> None:
            calls.append(("old", task_id))

        @app.task(name="t.new")
        def new(request: Any, error: BaseException, traceback: Any) -> None:
            calls.append(("new", request.id, type(error).__name__))

        @app.task(name="t.note")
        def note(*args: Any) -> None:
            calls.append(("note", *args))

        self.add, self.total, self.listed, self.fail = add, total, listed, fail
        self.replace, self.more, self.start, self.stamps = replace, more, start, stamps
        self.old, self.new, self.note = old, new, note

    def work(self) -> list[Outcome]:
        """Be a worker until the queue is empty; return the outcomes."""
        self._lives += 1
        owner = Incarnation(f"n{self._lives}", 0, 1)
        line = Line(self.app, owner, ["celery"])
        runner = Runner(self.app, "w@host", owner.name, max_deliveries=3)
        coordinator = self.app.coordinator
        assert coordinator is not None
        runner.obey(coordinator.control())
        done: list[Outcome] = []
        outcomes: list[Outcome] = []
        while True:
            answer = line.exchange(outcomes, 1)
            outcomes = []
            if answer.owed:
                line.finish_chords(answer.owed)
            if not answer.deliveries and not answer.owed:
                line.close()
                return done
            for delivery in answer.deliveries:
                job = runner.prepare(delivery)
                outcomes.append(job if isinstance(job, Outcome) else runner.run(job))
            done += outcomes

    def value(self, sig: Any) -> Any:
        """Send a canvas, work, and return its result."""
        result = sig.apply_async()
        self.work()
        return result.get(timeout=1)
