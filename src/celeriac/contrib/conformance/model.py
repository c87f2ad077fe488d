"""What the state machine in ``machine`` remembers: messages and workers, in plain Python."""

from __future__ import annotations

from dataclasses import dataclass, field

from celeriac.contrib.conformance.helpers import id_of
from celeriac.engines.base import Consumer, Delivery, Loss

QUEUES = ("q1", "q2")
PLACES = 2
"""How many may be inside of each place."""
FAR = 1e6
"""A delay that never passes, in seconds."""

Line = tuple[str, bool]
"""A queue and whether it is its urgent lane."""


@dataclass
class Known:
    """What the model knows of one message."""

    line: Line
    state: str = "ready"
    place: int = 0
    """When it last went to the back of its line."""
    step: int | None = None
    """The step that returned it to the front of its line; ``None`` while it has not been claimed."""
    token: int = 0
    due: float = 0.0
    order: int = 0
    """When it was delayed or parked: settles equal due times."""
    deliveries: int = 0
    lost: str | None = None
    once: bool = False
    key: str = ""
    """Its dead letter's."""
    waits_for: str = ""
    """What it is parked for: a bucket or a place."""
    admitted: bool = False
    unique: str = ""
    """The unique key it holds."""


@dataclass
class Worker:
    """A consumer and what it holds."""

    consumer: Consumer
    held: dict[int, Delivery] = field(default_factory=dict)
    """By token."""


class Model:
    """What a store holds, as the state diagram has it.

    ``interval`` is that of the rate limit, in seconds; ``marks_apart`` is the rig's.
    """

    def __init__(self, interval: float, marks_apart: bool) -> None:
        self.interval = interval
        self.marks_apart = marks_apart
        self.known: dict[str, Known] = {}
        """Task id -> what is known of its message."""
        self.ended: list[tuple[str, int]] = []
        """Tokens that were settled or lost."""
        self.taken: dict[str, float] = {}
        """When each queue's bucket gave its last token."""
        self.inside: dict[str, set[int]] = {queue: set() for queue in QUEUES}
        """The tokens inside of each queue's place."""
        self.count = 0

    def tick(self) -> int:
        """The number of the next step."""
        self.count += 1
        return self.count

    def ids(self, state: str, queue: str | None = None) -> list[str]:
        """The tasks in a state, of one queue or of all."""
        return [
            task_id
            for task_id, known in self.known.items()
            if known.state == state and queue in (None, known.line[0])
        ]

    def line_up(self, task_id: str) -> None:
        """To the back of its line."""
        known = self.known[task_id]
        known.state, known.place, known.step = "ready", self.tick(), None

    def put_off(self, task_id: str, due: float) -> None:
        """Delay it until then."""
        known = self.known[task_id]
        known.state, known.due, known.order = "delayed", due, self.tick()

    def wait_in_line(self, task_id: str, what: str) -> None:
        """Park it, for a token of its queue's ``"bucket"`` or for its ``"place"``."""
        known = self.known[task_id]
        known.state, known.order, known.waits_for = "parked", self.tick(), what

    def return_all(self, worker: Worker, losses: dict[int, Loss] | None = None) -> None:
        """All leases of a worker end: to the front of their lines."""
        step = self.tick()
        for token, delivery in worker.held.items():
            known = self.known[id_of(delivery.payload)]
            loss = (losses or {}).get(token, Loss(counted=False))
            known.deliveries += loss.counted
            known.lost = loss.mark or ("once" if known.once else known.lost)
            known.state, known.step, known.token, known.once = "ready", step, token, False
            self.let_go(delivery.queue, token)
        worker.held.clear()

    def let_go(self, queue: str, token: int) -> None:
        """A lease has ended, and with it its place."""
        self.inside[queue].discard(token)
        self.ended.append((queue, token))

    def holder(self, key: str) -> str | None:
        """The task that holds a unique key."""
        return next((task_id for task_id, known in self.known.items() if known.unique == key), None)

    def gone(self, task_id: str) -> None:
        """It has ended, and holds its key no more."""
        self.known[task_id].state, self.known[task_id].unique = "gone", ""

    def promote(self, queues: list[str], now: float) -> None:
        """What has fallen due joins its line."""
        due = [
            (self.known[task_id].due, self.known[task_id].order, task_id)
            for queue in queues
            for task_id in self.ids("delayed", queue)
            if self.known[task_id].due <= now
        ]
        for _, _, task_id in sorted(due):
            self.line_up(task_id)

    def has_token(self, queue: str, now: float) -> bool:
        """Whether the queue's bucket has a token."""
        return self.taken.get(queue, 0.0) + self.interval <= now

    def admissible(self, queue: str, now: float) -> list[str]:
        """The queue's parked messages in order, if there is a token for the first."""
        return self.line_for("bucket", queue) if self.has_token(queue, now) else []

    def placeable(self, queue: str) -> list[str]:
        """The queue's parked messages in order for which there is a place."""
        return self.line_for("place", queue)[: PLACES - len(self.inside[queue])]

    def line_for(self, what: str, queue: str) -> list[str]:
        """The queue's messages that are parked for a token of its bucket or for its place, in order."""
        waiting = [task_id for task_id in self.ids("parked", queue) if self.known[task_id].waits_for == what]
        return sorted(waiting, key=lambda task_id: self.known[task_id].order)

    def check_order(self, deliveries: list[Delivery], queues: list[str]) -> None:
        """Urgent lanes first, in each the queues in order, in each queue the line in order."""
        claimed = [self.known[id_of(delivery.payload)] for delivery in deliveries]
        marked = [each for queue in queues for each in self.known.values() if self.waits_apart(each, queue)]
        apart, claimed = claimed[: len(marked)], claimed[len(marked) :]
        assert all(known in marked for known in apart), "those that must only be ended come first"
        for line in [(queue, urgent) for urgent in (True, False) for queue in queues]:
            waiting = [
                known
                for known in self.known.values()
                if known.line == line and known.state == "ready" and known not in marked
            ]
            returned = [known for known in waiting if known.step is not None]
            fresh = sorted((known for known in waiting if known.step is None), key=lambda known: known.place)
            got, claimed = claimed[: len(waiting)], claimed[len(waiting) :]
            front, back = got[: len(returned)], got[len(returned) :]
            assert all(known in returned for known in front), "those returned to the line come first"
            assert back == fresh[: len(back)], "first in, first out"
            self.check_returned(front, returned)

    def waits_apart(self, known: Known, queue: str) -> bool:
        """Whether it comes before the lines, because it must only be ended (``Rig.marks_apart``)."""
        return (
            self.marks_apart and known.state == "ready" and known.lost is not None and known.line[0] == queue
        )

    def check_returned(self, front: list[Known], returned: list[Known]) -> None:
        """Messages returned by one step keep their claim order.

        An engine may put them at the front of the line or into their old places: where the two differ,
        both are right.
        """
        for index, known in enumerate(front):
            for other in returned:
                if other not in front[: index + 1] and other.step == known.step:
                    assert other.token > known.token or other.place > known.place
