"""``rpc://``: results as messages to the process that waits for them, in Celery's form.

Each client has one queue, named as the ``reply_to`` of what it sends. A result reaches that process only,
once, and is gone with it: there are no chords, no groups that can be restored, and nothing to be looked up by
another process or by a worker that meets a message again.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

from celeriac.engines.base import Publication
from celeriac.engines.groups import ChordPart, Owed
from celeriac.engines.rabbitmq.broker import RabbitBroker
from celeriac.engines.rabbitmq.errors import FAILURES
from celeriac.engines.rabbitmq.session import Parcel, Session
from celeriac.engines.rabbitmq.wire import Content
from celeriac.engines.results import Presence, ResultRecord
from celeriac.exceptions import ImproperlyConfigured, OperationalError

logger = logging.getLogger("celeriac.rabbitmq")

REMEMBERED: Final = 10_000
"""Results that are kept for tasks that nobody has asked for yet; the oldest make room."""
_START: Final = 5.0

Callback = Callable[[str, bytes], None]


class RpcResults:
    """The engine's :class:`celeriac.engines.base.ResultBackend`, as far as there can be one."""

    url = "rpc://"
    sends_replies = True
    """Results go to the ``reply_to`` of the task's message, whoever sent it."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._broker = RabbitBroker(url, options)
        self._name: Callable[[], str] = options["reply_queue"]
        self._expires = options.get("result_expires")
        self._mode = 2 if options.get("result_persistent") else 1
        self._content_type, self._encoding = options["content_type"]
        self._inbox: _Inbox | None = None
        self._lock = threading.Lock()

    def store(self, records: Sequence[ResultRecord]) -> list[str]:
        """Send states to the clients that wait for them. Without an address nobody does."""
        parcels = []
        for record in records:
            if record.reply:
                content = Content(
                    record.payload,
                    content_type=self._content_type,
                    content_encoding=self._encoding,
                    correlation_id=record.id,
                    delivery_mode=self._mode,
                    application_headers={},
                )
                parcels.append(Parcel("", record.reply, content, mandatory=False))
        if parcels:
            with self._broker.session("send results") as session:
                session.publish(parcels, self._broker.publish_timeout)
        return []

    def fetch(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The newest states that have come to this process."""
        return {} if self._inbox is None else self._inbox.known(ids)

    def subscribe(self, ids: Iterable[str], callback: Callback) -> RpcSubscription:
        """Call ``callback(id, payload)`` for every state that is here or comes."""
        return self._listening().subscribe(list(ids), callback)

    def forget(self, ids: Sequence[str]) -> None:
        """Drop what has come for these tasks."""
        if self._inbox is not None:
            self._inbox.drop(ids)

    def presence(self, ids: Sequence[str]) -> dict[str, Presence]:
        """Known is what has come to this process."""
        known = self.fetch(ids)
        return {one: Presence.KNOWN if one in known else Presence.UNKNOWN for one in ids}

    def reply_address(self) -> str | None:
        """This process's queue, which is there when this returns, unless the server is away."""
        self._listening()
        return self._name()

    def cleanup(self) -> int:
        """Nothing: the server drops what nobody fetches (``result_expires``)."""
        return 0

    def close(self) -> None:
        """End the listener and the connection; the queue goes with them."""
        if self._inbox is not None:
            self._inbox.close()
            self._inbox = None
        self._broker.close()

    def drop_after_fork(self) -> None:
        """In a forked child: the parent's listener is not there."""
        self._inbox = None
        self._lock = threading.Lock()
        self._broker.drop_after_fork()

    def _listening(self) -> _Inbox:
        with self._lock:
            if self._inbox is None:
                self._inbox = _Inbox(self._broker, self._name(), self._expires)
                self._inbox.start()
            return self._inbox

    # -- groups and chords, which there are none -----------------------------------------------------

    def store_group(self, group: str, payload: bytes, ttl: float | None) -> NoReturn:
        """Raises ``ImproperlyConfigured``, as everything about chords does but the looking for owed ones."""
        _unsupported("save groups")

    def fetch_group(self, group: str) -> bytes | None:
        """None: no group is ever saved."""
        return None

    def forget_group(self, group: str) -> None:
        """Nothing: no group is ever saved."""

    def open_chord(self, group: str, size: int, body: bytes, ttl: float | None) -> NoReturn:
        """Raises ``ImproperlyConfigured``."""
        _unsupported("count the parts of chords")

    def record_parts(self, parts: Sequence[ChordPart], by: str) -> NoReturn:
        """Raises ``ImproperlyConfigured``."""
        _unsupported("count the parts of chords")

    def owed(self) -> list[str]:
        """None: no chord is ever begun."""
        return []

    def take_owed(self, group: str, by: str) -> Owed | None:
        """None: no chord is ever begun."""
        return None

    def settle_owed(
        self,
        group: str,
        by: str,
        publications: Sequence[Publication] = (),
        records: Sequence[ResultRecord] = (),
        parts: Sequence[ChordPart] = (),
    ) -> list[str] | None:
        """None: no chord is ever begun."""
        return None


class RpcSubscription:
    """Interest in results, until it is closed."""

    def __init__(self, inbox: _Inbox, ids: list[str], callback: Callback) -> None:
        self.ids = ids
        self.callback = callback
        self._inbox = inbox

    def close(self) -> None:
        """Stop listening."""
        self._inbox.unsubscribe(self)


class _Inbox(threading.Thread):
    """Takes what comes to this process's queue, and tells who wants to know."""

    def __init__(self, broker: RabbitBroker, name: str, expires: float | None) -> None:
        super().__init__(name="celeriac-results", daemon=True)
        self._broker, self._queue, self._expires = broker, name, expires
        self._known: OrderedDict[str, bytes] = OrderedDict()
        self._wanted: dict[str, list[RpcSubscription]] = {}
        self._lock = threading.Lock()
        self._there = threading.Event()
        self._near, self._far = os.pipe()
        self._closing = False

    def start(self) -> None:
        """Start, and wait a moment until the queue is there."""
        super().start()
        self._there.wait(_START)

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        os.write(self._far, b"!")
        self.join(_START)

    def known(self, ids: Sequence[str]) -> dict[str, bytes]:
        with self._lock:
            return {one: self._known[one] for one in ids if one in self._known}

    def drop(self, ids: Sequence[str]) -> None:
        with self._lock:
            for one in ids:
                self._known.pop(one, None)

    def subscribe(self, ids: list[str], callback: Callback) -> RpcSubscription:
        subscription = RpcSubscription(self, ids, callback)
        with self._lock:
            here = [(one, self._known[one]) for one in ids if one in self._known]
            for one in ids:
                self._wanted.setdefault(one, []).append(subscription)
        for task_id, payload in here:
            callback(task_id, payload)
        return subscription

    def unsubscribe(self, subscription: RpcSubscription) -> None:
        with self._lock:
            for one in subscription.ids:
                left = [other for other in self._wanted.get(one, ()) if other is not subscription]
                if left:
                    self._wanted[one] = left
                else:
                    self._wanted.pop(one, None)

    def run(self) -> None:
        """Listen until closed; a lost connection is opened again."""
        pause = 0.1
        while not self._closing:
            try:
                self._listen()
                pause = 0.1
            except (*FAILURES, OperationalError) as error:
                logger.warning("Lost the way to results: %s. Those sent meanwhile are lost", error)
                self._there.set()
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, 5.0)

    def _listen(self) -> None:
        session = Session(self._broker.dialler.dial())
        try:
            channel = session.link.channel()
            channel.auto_decode = False
            arguments = {"x-expires": int(self._expires * 1000)} if self._expires else None
            channel.queue_declare(self._queue, durable=True, auto_delete=True, arguments=arguments)
            channel.basic_consume(self._queue, "celeriac-results", no_ack=True, callback=self._arrived)
            self._there.set()
            heartbeat = self._broker.address.heartbeat / 3 or 10.0
            while not self._closing:
                if not session.link.await_bytes(heartbeat, self._near):
                    session.alive()
                session.link.pump()
                session.link.beat()
        finally:
            session.link.end() if self._closing else session.link.drop()

    def _arrived(self, content: Any) -> None:
        task_id = content.properties.get("correlation_id")
        if not task_id:
            return
        with self._lock:
            self._known[task_id] = content.body
            self._known.move_to_end(task_id)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            wanted = list(self._wanted.get(task_id, ()))
        for subscription in wanted:
            subscription.callback(task_id, content.body)


def _unsupported(what: str) -> NoReturn:
    raise ImproperlyConfigured(
        f"result_backend rpc:// cannot {what}: its results go to one process and are kept nowhere. "
        "Set result_backend to Redis, SQLite or PostgreSQL"
    )
