"""An application with tasks on the memory engine, and a worker's loop without a process."""

from __future__ import annotations

from typing import Any

from celeriac import Celeriac
from celeriac.engines.base import Incarnation, Outcome
from celeriac.worker.line import Line
from celeriac.worker.runner import Runner
from tests.canvas_tasks import define
from tests.unit.helpers import make_app


class Bench:
    """``add``, ``total`` and friends; ``calls`` notes what error callbacks were called with."""

    def __init__(self, **settings: Any) -> None:
        self.app: Celeriac = make_app(**settings)
        self.calls: list[Any] = []
        self._lives = 0
        tasks = define(self.app, self.calls)
        self.add, self.total, self.listed, self.fail = tasks.add, tasks.total, tasks.listed, tasks.fail
        self.replace, self.more, self.start = tasks.replace, tasks.more, tasks.start
        self.stamps, self.old, self.new, self.note = tasks.stamps, tasks.old, tasks.new, tasks.note

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
