"""What the server has pushed to a child and the child has not been given.

Three kinds wait here: messages in line; those that came back from another process (suspects), for the moment
that its agent takes to note how it ended; and those that are over a rate limit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from celeriac.engines.base import Loss
from celeriac.engines.envelopes import after_loss
from celeriac.engines.rabbitmq.ledger import Note
from celeriac.engines.rabbitmq.wire import Content, body_of, envelope, task_id_of
from celeriac.message import OWN_HEADER

SUSPECT_WAIT: Final = 0.5
"""Seconds that a message waits which the server delivers again: so long its last worker's agent has to note
what happened to it there."""
MOST_SUSPECTS: Final = 64
"""How many of those may wait beside a batch that is pushed."""
CROWD: Final = 128
"""How many have to come back one behind the other until the server is taken to be the cause, whose crash
brings back everything in its queues, and not who held them."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0


class Entry:
    """One message that has arrived."""

    __slots__ = (
        "applied", "bucket", "content", "crowd", "note", "noted", "payload", "queue", "ready_at", "suspect",
        "tag",
    )  # fmt: skip

    def __init__(self, queue: str, content: Any) -> None:
        info = content.delivery_info
        self.queue = queue
        self.content = content
        self.tag: int = info["delivery_tag"]
        self.suspect: bool = info["redelivered"]
        self.payload = envelope(content, queue, self.suspect)
        self.ready_at = time.monotonic() + SUSPECT_WAIT if self.suspect else 0.0
        self.crowd = False
        """It came back behind so many others that the server must be the cause (``CROWD``)."""
        self.note: Note | None = None
        """What is known of its earlier runs, once that has been looked up."""
        self.noted = False
        """Whether the server has that note."""
        self.applied = False
        """What is known of its earlier runs stands in the payload."""
        self.bucket = ""

    @property
    def task_id(self) -> str:
        """The id of its task; "" if it has none."""
        return task_id_of(self.content)

    def apply(self, note: Note) -> None:
        """Write into the envelope what is known of the message's earlier runs: once, however often it is
        handed out here and parked again."""
        if self.applied:
            return
        self.applied = True
        if note.started:
            note.deliveries += 1  # a whole node died with it: nobody was left to say how
        if note.once and note.lost is None:
            note.lost = "once"
        # A copy that was given back tells what was known then; its note has that and what followed.
        for _ in range(note.deliveries - self._counted()):
            self.payload = after_loss(self.payload, Loss(counted=True))
        if note.lost is not None:
            self.payload = after_loss(self.payload, Loss(counted=False, mark=note.lost))

    def again(self) -> Content:
        """The message for sending it once more, marked as a copy: before it runs, its result is looked for.

        If the server takes the copy, and the connection breaks before it hears that the original is done
        with, it delivers both. The copy does not say that it was delivered before: so it brings along what is
        known of its runs, and for what came back already a result of any time counts.
        """
        properties = dict(self.content.properties)
        headers = properties.get("application_headers")
        own = (headers or {}).get(OWN_HEADER, {"foreign": True})
        if headers and "id" in headers and isinstance(own, dict):
            # What came back may itself be the run of which there is a trace: no copy of it is another one.
            own = {**own, "returned": 0.0} if self.suspect else {"returned": time.time(), **own}
            if self.applied and self.note is not None:
                known = {"deliveries": self.note.deliveries, "lost": self.note.lost}
                own |= {name: value for name, value in known.items() if value}
            properties["application_headers"] = {**headers, OWN_HEADER: own}
        return Content(body_of(self.content), **properties)

    def _counted(self) -> int:
        """How many lost deliveries the message itself tells of."""
        own = (self.content.properties.get("application_headers") or {}).get(OWN_HEADER)
        told = own.get("deliveries", 0) if isinstance(own, dict) else 0
        return told if isinstance(told, int) else 0


class Buffer:
    """Messages by queue, in the order of their arrival."""

    def __init__(self, starts: bool = True) -> None:
        """``starts=False``: what is taken here is not started, so what came back is as good as any other."""
        self._starts = starts
        self._lines: dict[str, deque[Entry]] = {}
        self._suspects: deque[Entry] = deque()
        self._parked: dict[str, deque[Entry]] = {}
        self._again: dict[str, tuple[float, float]] = {}
        """Rate limits: when to ask again, and how long the pause was."""
        self._in_row = 0
        """How many have come back since a message that had not."""
        self._row_began = 0.0
        self._excused = False
        self.count = 0

    def add(self, queue: str, content: Any) -> None:
        """A message has arrived."""
        entry = Entry(queue, content)
        entry.suspect = entry.suspect and self._starts
        self.count += 1
        if entry.suspect:
            if not self._in_row:
                self._row_began = time.monotonic()
            # Those that some worker held, and some agent has to note something of, come first.
            entry.crowd = self._in_row >= CROWD
            if entry.crowd or self._excused:
                entry.ready_at = self._row_began + SUSPECT_WAIT
            self._in_row += 1
            self._suspects.append(entry)
        else:
            line = self._lines.get(queue)
            if line is None:
                line = self._lines[queue] = deque()
            line.append(entry)

    def take(self, queues: Sequence[str], now: float, alone: bool) -> Entry | None:
        """The next message of these queues, first of the queue named first; a suspect only ``alone``."""
        entry = self._take_parked(now)
        if entry is None and alone and self._suspects and self._suspects[0].ready_at <= now:
            entry = self._suspects.popleft()
        if entry is None:
            for queue in queues:
                line = self._lines.get(queue)
                if line:
                    entry = line.popleft()
                    if not self._suspects:
                        self._in_row, self._excused = 0, False
                    break
        if entry is not None:
            self.count -= 1
        return entry

    def take_suspect(self, now: float) -> Entry | None:
        """The next of those that came back, if it has waited long enough."""
        if not (self._suspects and self._suspects[0].ready_at <= now):
            return None
        self.count -= 1
        return self._suspects.popleft()

    def put_back(self, entry: Entry) -> None:
        """Take back what :meth:`take_suspect` gave: it is the next one again."""
        self._suspects.appendleft(entry)
        self.count += 1

    def ready(self, queues: Sequence[str], now: float) -> bool:
        """Whether :meth:`take` would find one."""
        if any(self._lines.get(queue) for queue in queues):
            return True
        upcoming = self.next_ready(0.0)
        return bool(upcoming) and upcoming <= now

    def next_ready(self, otherwise: float) -> float:
        """When the next of those that wait for a moment is to be taken; ``otherwise`` if none waits."""
        moments = [self._again[bucket][0] for bucket, line in self._parked.items() if line]
        if self._suspects:
            moments.append(self._suspects[0].ready_at)
        return min(moments, default=otherwise)

    @property
    def kept(self) -> int:
        """How many wait for a moment to come: they must not count as the next batch.

        Of those that came back only some: after a crash of the server all of a queue has come back, and who
        had more pushed for each of them would soon hold everything.
        """
        early = 0
        if self._suspects:
            now = time.monotonic()
            early = min(sum(entry.ready_at > now for entry in self._suspects), MOST_SUSPECTS)
        return early + sum(map(len, self._parked.values()))

    def excuses(self, entry: Entry) -> bool:
        """Whether a message came back for the server's sake: no worker's end is to be learned from it."""
        return self._excused or entry.crowd

    def excuse(self) -> None:
        """A living worker's connection has ended: that is why things come back, until something new comes."""
        self._excused = True

    @property
    def waiting(self) -> int:
        """How many could be handed out now or in a moment: here, or by another child."""
        return sum(map(len, self._lines.values())) + len(self._suspects)

    def park(self, entry: Entry, bucket: str) -> None:
        """Keep a message that was over a limit; it is offered again soon, before later ones of its limit."""
        pause = min(2 * self._again.get(bucket, (0.0, _FIRST_PAUSE / 2))[1], _LONGEST_PAUSE)
        self._again[bucket] = (time.monotonic() + pause, pause)
        line = self._parked.setdefault(bucket, deque())
        if entry.bucket == bucket:
            line.appendleft(entry)
        else:
            line.append(entry)
        entry.bucket = bucket
        self.count += 1

    def admitted(self, entry: Entry) -> None:
        """A message that had been parked has had its turn: the next one of its limit may ask."""
        if entry.bucket:
            self._again[entry.bucket] = (time.monotonic(), _FIRST_PAUSE / 2)

    def take_unmarked(self) -> list[Entry]:
        """Take out what is simply in line."""
        entries = [entry for line in self._lines.values() for entry in line]
        self._lines.clear()
        self.count -= len(entries)
        return entries

    def take_suspects(self, now: float) -> list[Entry]:
        """Take out those that came back and have waited long enough."""
        return list(iter(lambda: self.take_suspect(now), None))

    def clear(self) -> None:
        """Forget everything."""
        self._in_row = 0
        self._lines.clear()
        self._suspects.clear()
        self._parked.clear()
        self._again.clear()
        self.count = 0

    def _take_parked(self, now: float) -> Entry | None:
        for bucket, line in self._parked.items():
            if line and self._again[bucket][0] <= now:
                # Not before this one's answer is known may the next one ask.
                self._again[bucket] = (now + _LONGEST_PAUSE, self._again[bucket][1])
                return line.popleft()
        return None
