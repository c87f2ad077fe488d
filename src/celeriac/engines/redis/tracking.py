"""The sentinel: wakes idle workers when a producer that is not ours pushes a message.

Our producers set a marker with each push, on which idle workers sleep; Celery's and others' do not. One
sentinel a store (whoever holds the key ``watcher``) has the server track the queues' lists for it (RESP3,
CLIENT TRACKING): a write to a list is told once, the sentinel sets the marker, and reads the list again to be
told of the next write. Tracking needs no server configuration and costs a busy queue nothing, because it is
one telling a read.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Final

import hiredis
from redis import exceptions as errors

from celeriac.engines.readiness import readable
from celeriac.engines.redis.connection import Link, pack
from celeriac.exceptions import CeleriacError

if TYPE_CHECKING:
    from celeriac.engines.redis import RedisEngine

logger = logging.getLogger(__name__)

LEASE: Final = 3.0
"""Seconds the office of watcher lasts without renewal."""
RETRY: Final = 1.0
"""Seconds between two looks whether the office is free."""
FIRST_REMARK: Final = 0.005
LAST_REMARK: Final = 1.0
"""A list that stays non-empty is marked again after 5, 10, 20 ms ... 1 s: a marker may have been lost."""


class Sentinel:
    """Watches ``queues`` and those of every living node."""

    def __init__(self, engine: RedisEngine, queues: list[str]) -> None:
        self._engine = engine
        self._own = list(queues)
        self._name = os.urandom(8).hex()
        self._lists: dict[str, str] = {}
        self._pauses: dict[str, float] = {}
        self._due: dict[str, float] = {}

    def run(self, stop_fd: int) -> None:
        """Watch whenever no one else does, until ``stop_fd`` is readable.

        Returns early, with a line in the log, if the server does not let us track keys.
        """
        while not _readable(stop_fd, 0):
            try:
                if self._renew(claim=True):
                    self._watch(stop_fd)
            except _NotPermittedError as error:
                logger.info("Foreign producers are noticed by polling: %s", error)
                return
            except (CeleriacError, errors.RedisError, OSError) as error:
                logger.debug("Watching the lists: %s", error)
            if _readable(stop_fd, RETRY):
                break
        self._resign()

    def _watch(self, stop_fd: int) -> None:
        link = Link(self._engine.address, protocol=3)
        try:
            # redis-py swallows what the server pushes unless somebody takes it.
            link.connection._parser.set_invalidation_push_handler(lambda push: push)
            _send(link, "CLIENT", "TRACKING", "ON")
            answer = _read(link)
            if isinstance(answer, Exception):
                raise _NotPermittedError(str(answer))
            self._lists, self._pauses, self._due = {}, {}, {}
            next_renewal = 0.0
            while True:
                now = time.monotonic()
                if now >= next_renewal:
                    next_renewal = now + LEASE / 3
                    if not self._renew(claim=False):
                        return
                    self._look(link, self._new_queues())
                self._look(link, [queue for queue, due in self._due.items() if due <= now])
                # What came in one piece with an answer lies in the client: its socket tells of it no more.
                written = self._written(link)
                self._look(link, written, fresh=True)
                until = now if written else min([next_renewal, *self._due.values()])
                if stop_fd in readable((link.fileno, stop_fd), max(0.0, until - time.monotonic())):
                    return
        finally:
            link.close()

    def _new_queues(self) -> list[str]:
        """Queues watched from now on: those of nodes that have come since."""
        queues = {*self._own, *(queue for node in self._engine.nodes() for queue in node.queues)}
        new = [queue for queue in queues if queue not in self._pauses]
        for queue in new:
            self._lists.update(dict.fromkeys(self._engine.keys.lines(queue), queue))
            self._pauses[queue] = FIRST_REMARK
        return new

    def _look(self, link: Link, queues: list[str], fresh: bool = False) -> None:
        """Read the lists, by which the server tracks them anew, and mark those that hold messages."""
        if not queues:
            return
        keys = self._engine.keys
        for queue in queues:
            _send(link, "EXISTS", *keys.lines(queue))
        written: list[str] = []
        filled: list[str] = []
        for queue in queues:
            answer = _read(link, written)
            if answer:
                filled.append(queue)
                pause = FIRST_REMARK if fresh else min(LAST_REMARK, self._pauses[queue] * 2)
                self._pauses[queue] = pause
                self._due[queue] = time.monotonic() + pause
            else:
                self._pauses[queue] = FIRST_REMARK
                self._due.pop(queue, None)
        if filled:
            for queue in filled:
                _send(link, "ZADD", keys.of(queue, "wake"), 0, "1")
            for _ in filled:
                _read(link, written)
        again = {self._lists[name] for name in written if name in self._lists}
        for queue in again:
            self._due[queue] = 0.0

    def _written(self, link: Link) -> list[str]:
        """The queues of which the server tells that they were written to."""
        written: list[str] = []
        while link.connection.can_read(0):
            _note(link.connection.read_response(push_request=True), written)
        return list(dict.fromkeys(self._lists[name] for name in written if name in self._lists))

    def _renew(self, claim: bool) -> bool:
        """Take or keep the office of watcher; whether we hold it."""
        key = self._engine.keys.own("watcher")
        milliseconds = int(LEASE * 1000)
        with self._engine.links.borrow() as link:
            if claim and link.call(pack(("SET", key, self._name, "NX", "PX", milliseconds))):
                return True
            if link.call(pack(("GET", key))) != self._name.encode():
                return False
            return bool(link.call(pack(("PEXPIRE", key, milliseconds))))

    def _resign(self) -> None:
        try:
            if self._renew(claim=False):
                with self._engine.links.borrow() as link:
                    link.call(pack(("DEL", self._engine.keys.own("watcher"))))
        except CeleriacError as error:
            logger.debug("Leaving the office of watcher: %s", error)


class _NotPermittedError(Exception):
    """The server or its ACL does not let us track keys."""


def _send(link: Link, *words: str | int) -> None:
    link.connection.send_packed_command([pack(words)])


def _read(link: Link, written: list[str] | None = None) -> object:
    """The answer to a command; what is pushed before it goes to ``written``."""
    while True:
        try:
            answer = link.connection.read_response(push_request=True)
        except errors.ResponseError as error:
            return error
        if not _is_push(answer):
            return answer
        _note(answer, [] if written is None else written)


def _is_push(answer: object) -> bool:
    return isinstance(answer, hiredis.PushNotification)


def _note(answer: object, written: list[str]) -> None:
    if isinstance(answer, list) and len(answer) == 2 and answer[0] == b"invalidate":
        written += [name.decode() for name in answer[1] or ()]


def _readable(fd: int, timeout: float) -> bool:
    return bool(readable((fd,), timeout))
