"""The node's health: what its endpoint answers.

``/livez`` is about the processes alone: a broker that is away must not get a worker killed. ``/readyz`` says
whether the node can take work. ``/metrics`` has celery-exporter's names and labels, so that the dashboards
and alerts made for it find their series, and ours beside them.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from celeriac.engines.base import Depth, NodeInfo
from celeriac.exceptions import CeleriacError
from celeriac.monitor.endpoint import Endpoint, Page, verdict
from celeriac.monitor.metrics import CONTENT_TYPE, Metrics
from celeriac.worker.board import Board, Life
from celeriac.worker.counters import Counted, Counters, Histograms, Names
from celeriac.worker.sent import SentTasks

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

logger = logging.getLogger("celeriac.worker")

HUNG: Final = 30.0
"""Seconds without a sign from the supervisor after which the node counts as hung."""
FRESH: Final = 5.0
"""Seconds for which figures of the store are good enough: many may ask, the store is asked once."""

_TASK: Final = {
    Counted.RECEIVED: ("celery_task_received_total", "Tasks that a worker has taken up."),
    Counted.STARTED: ("celery_task_started_total", "Tasks that were begun."),
    Counted.SUCCEEDED: ("celery_task_succeeded_total", "Tasks that ended well."),
    Counted.RETRIED: ("celery_task_retried_total", "Runs that ended with a retry."),
    Counted.REVOKED: ("celery_task_revoked_total", "Tasks that were revoked, or had expired."),
    Counted.REJECTED: ("celery_task_rejected_total", "Tasks that were rejected."),
    Counted.SENT: ("celery_task_sent_total", "Tasks that were sent, as far as events tell of it."),
}
_FAILED: Final = ("celery_task_failed_total", "counter", "Tasks that failed, by their exception.")


class Health:
    """Answers for one node, in the agent's process."""

    def __init__(
        self,
        app: Celeriac,
        board: Board,
        node: NodeInfo,
        queues: Callable[[], list[str]],
        listening: socket.socket,
    ) -> None:
        self.ready = False
        """All children have been up once."""
        self.stopping = False
        self._node = node
        self._board = board
        self._figures = Figures(app, queues)
        carrier = app.events.carrier
        self._sent = SentTasks(carrier) if carrier is not None else None
        node.details["metrics"] = True  # for those who choose one that counts for all
        pages = {"/livez": self.live, "/readyz": self.prepared, "/metrics": self.metrics}
        self._endpoint = Endpoint(listening, pages)

    def start(self) -> None:
        self._endpoint.start()
        logger.info("Health checks and metrics at %s", self._endpoint.url)

    def close(self) -> None:
        self._endpoint.close()
        if self._sent is not None:
            self._sent.listen(False)

    # -- checks ------------------------------------------------------------------------------------------

    def live(self) -> Page:
        """Whether the node's processes work. (That this answers at all shows that the agent lives.)"""
        silent = self._board.pulse_age
        if silent is not None and silent > HUNG:
            return verdict([f"the supervisor has given no sign for {silent:.0f} s"])
        return verdict([])

    def prepared(self) -> Page:
        """Whether the node takes work."""
        problems = []
        if self.stopping:
            problems.append("the worker is shutting down")
        elif not self.ready:
            problems.append("the worker is starting")
        elif not any(record.life == Life.READY for record in self._board.records()[: self._board.used]):
            problems.append("no child is ready")
        if self._board.leased_until < time.monotonic():
            problems.append("the store has not been reached within the lease")
        return verdict(problems)

    # -- metrics -----------------------------------------------------------------------------------------

    def metrics(self) -> Page:
        """All there is to count and measure."""
        metrics = Metrics()
        self._add_tasks(metrics)
        self._add_node(metrics)
        self._figures.add_to(metrics)
        self._add_sent(metrics)
        return Page(200, metrics.text(), CONTENT_TYPE)

    def _add_tasks(self, metrics: Metrics) -> None:
        counts: Counter[tuple[Names, Counted]] = Counter()
        failures: Counter[Names] = Counter()
        runs: Histograms = {}
        waits: Histograms = {}
        for child in range(self._board.used):
            area = Counters(self._board, child)
            area.add_to(counts, runs, waits)
            area.add_failures_to(failures)
        for ((task, queue), what), count in counts.items():
            if count or what is not Counted.SENT:  # where a task is sent it is not run, as a rule
                name, text = _TASK[what]
                metrics.add(name, "counter", text, count, self._labels(task, queue))
        for (task, queue, exception), count in failures.items():
            metrics.add(*_FAILED, count, {**self._labels(task, queue), "exception": exception})
        for (task, queue), run in runs.items():
            text = "Seconds that the runs took which ended well."
            metrics.histogram("celery_task_runtime", text, run, self._labels(task, queue))
        for (task, queue), wait in waits.items():
            text = "Seconds from the sending of tasks to their first run, without those that were delayed."
            metrics.histogram("celery_task_queue_wait_time", text, wait, self._labels(task, queue))

    def _add_sent(self, metrics: Metrics) -> None:
        """What clients send: one node, the first by name of those with an endpoint, counts for all."""
        if self._sent is not None:
            self._sent.listen(self._figures.counts_for_all(self._node.name))
            name, text = _TASK[Counted.SENT]
            for (task, machine, queue), count in self._sent.counts().items():
                labels = {"name": task, "hostname": machine, "queue_name": queue}
                metrics.add(name, "counter", text, count, labels)

    def _labels(self, task: str, queue: str) -> dict[str, str]:
        return {"name": task, "hostname": self._node.name, "queue_name": queue}

    def _add_node(self, metrics: Metrics) -> None:
        records = self._board.records()[: self._board.used]
        busy = sum(1 for record in records for _ in record.running())
        up = [record for record in records if record.life == Life.READY]
        gauges = (
            ("celery_worker_up", "Whether the worker can take work.", self.prepared().status == 200),
            ("celery_worker_tasks_active", "Tasks that run on the worker now.", busy),
            ("celeriac_worker_processes", "Processes of the worker that run tasks.", len(up)),
            ("celeriac_worker_slots", "Tasks that it can run at once.", len(up) * self._board.slots),
        )
        for name, text, value in gauges:
            metrics.add(name, "gauge", text, value, {"hostname": self._node.name})


class Figures:
    """What the store knows of the node's queues, asked for at most every few seconds."""

    def __init__(self, app: Celeriac, queues: Callable[[], list[str]]) -> None:
        self._app = app
        self._consumed = queues
        self._queues: list[str] = []
        self._mutex = threading.Lock()
        self._read_at = -FRESH
        self._depths: dict[str, Depth] = {}
        self._nodes: list[NodeInfo] = []
        self._reached = False

    def add_to(self, metrics: Metrics) -> None:
        """Add the figures; if the store is away, none but that it is."""
        with self._mutex:
            if time.monotonic() - self._read_at > FRESH:
                self._reached = self._read()
                self._read_at = time.monotonic()
            text = "Whether the store could be asked."
            metrics.add("celeriac_store_up", "gauge", text, self._reached)
            if self._reached:
                for queue in self._queues:
                    self._add_queue(metrics, queue)

    def counts_for_all(self, name: str) -> bool:
        """Whether the node of this name is the one among those with metrics that counts for all."""
        measured = [node.name for node in self._nodes if node.details.get("metrics")]
        return name == min(measured, default=name)

    def _read(self) -> bool:
        try:
            self._queues = self._consumed()
            self._depths = self._app.broker.depth(self._queues)
            coordinator = self._app.coordinator
            self._nodes = [] if coordinator is None else coordinator.nodes()
        except CeleriacError:
            return False
        return True

    def _add_queue(self, metrics: Metrics, queue: str) -> None:
        depth = self._depths.get(queue, Depth())
        nodes = [node for node in self._nodes if queue in node.queues]
        processes = [_processes(node) for node in nodes]
        slots = sum(int(node.details.get("concurrency", 1)) for node in nodes)
        gauges = (
            ("celery_queue_length", "Messages that are ready in the queue.", depth.ready),
            ("celery_active_worker_count", "Workers that take from the queue.", len(nodes)),
            ("celery_active_process_count", "Their processes.", sum(processes)),
            ("celery_active_consumer_count", "Those of their processes that take from it.", sum(processes)),
        )
        for name, text, value in gauges:
            metrics.add(name, "gauge", text, value, {"queue_name": queue})
        text = "Messages of the queue, by state."
        for state in ("ready", "delayed", "leased", "parked", "dead"):
            count = getattr(depth, state)
            metrics.add("celeriac_queue_depth", "gauge", text, count, {"queue": queue, "state": state})
        ours = (
            ("celeriac_queue_demand", "Tasks that run or could run now: the slots wanted.", _demand(depth)),
            ("celeriac_queue_slots", "Tasks that its workers can run at once.", slots),
            ("celeriac_queue_oldest_age_seconds", "Age of the oldest ready message.", depth.age or 0.0),
        )
        for name, text, figure in ours:
            metrics.add(name, "gauge", text, figure, {"queue": queue})


def _demand(depth: Depth) -> int:
    """How many slots the queue could use: what is ready or leased. (Parked messages wait for a limit.)"""
    return depth.ready + depth.leased


def _processes(node: NodeInfo) -> int:
    return int(node.details.get("concurrency", 1)) if node.details.get("pool") == "prefork" else 1
