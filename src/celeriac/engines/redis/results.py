"""Redis as a result backend: Celery's keys, written by a script that never replaces a SUCCESS."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from celeriac.engines.attempts import encode
from celeriac.engines.history import Attempt
from celeriac.engines.redis.address import Address
from celeriac.engines.redis.connection import Links, Word, pack
from celeriac.engines.redis.consumer import record_words
from celeriac.engines.redis.keys import Keys
from celeriac.engines.redis.listener import Listener
from celeriac.engines.redis.scripts import Scripts
from celeriac.engines.results import Presence, ResultRecord, Subscription

FETCH_CHUNK: Final = 500
STORE_CHUNK: Final = 200
SENT_HERE: dict[str, dict[str, None]] = {}
"""Reply address -> ids sent with it by this process, the newest last: their results come to that address, so
nothing else need be subscribed for them. Bounded; what falls out is subscribed by name."""
SENT_HERE_MAX: Final = 200_000


class RedisResults:
    """The part of the engine that is a :class:`celeriac.engines.results.ResultBackend`."""

    address: Address
    keys: Keys
    links: Links
    scripts: Scripts
    is_broker: bool
    hold_delays: bool
    lease_store: RedisResults | None
    """The engine whose database holds the leases that records speak of; ``None`` if that is not known."""
    _listener: Listener | None
    _reply: str | None

    def store(self, records: Sequence[ResultRecord], attempts: Sequence[Attempt] = ()) -> list[str]:
        """Store and announce states, in order, and note attempts; return the ids that were refused."""
        refused: list[str] = []
        leases = self.lease_store or (self if self.is_broker else None)
        for start in range(0, max(len(records), len(attempts)), STORE_CHUNK):
            chunk = records[start : start + STORE_CHUNK]
            # Leases are looked at from the broker's side, whose script knows where the results are.
            checked = leases is not None and any(record.lease for record in chunk)
            engine = leases if checked and leases is not None else self
            words: list[Word] = [len(chunk)]
            for record in chunk:
                owner, queue, token = record.lease if checked and record.lease else ("", "", 0)
                words += record_words(record)
                words += (owner, queue, token)
            words += map(encode, attempts[start : start + STORE_CHUNK])
            with engine.links.borrow() as link:
                indices = engine.scripts["store"].run(link, [], words)
            refused += [chunk[index].id for index in indices]
        return refused

    def fetch(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The stored payloads of those ids that have one."""
        found: dict[str, bytes] = {}
        with self.links.borrow() as link:
            for start in range(0, len(ids), FETCH_CHUNK):
                chunk = ids[start : start + FETCH_CHUNK]
                values = link.call(pack(("MGET", *map(self.keys.result, chunk))))
                found.update(
                    (key, value) for key, value in zip(chunk, values, strict=True) if value is not None
                )
        return found

    def subscribe(self, ids: Iterable[str], callback: Callable[[str, bytes], None]) -> Subscription:
        """Call ``callback(id, payload)`` for every state already stored and every one to come."""
        ids = list(ids)
        sent = SENT_HERE.get(self._reply or "", {})
        return self._the_listener().add(ids, [task_id for task_id in ids if task_id not in sent], callback)

    def forget(self, ids: Sequence[str]) -> None:
        """Delete stored states, and what is remembered of the ids."""
        if not ids:
            return
        own = self.keys.own
        keys = [
            key
            for task_id in ids
            for key in (
                self.keys.result(task_id),
                own(f"success:{task_id}"),
                own(f"tombstone:{task_id}"),
                own(f"queued:{task_id}"),
            )
        ]
        with self.links.borrow() as link:
            link.call(pack(("DEL", *keys)))

    def presence(self, ids: Sequence[str]) -> dict[str, Presence]:
        """What is known of each id."""
        own = self.keys.own
        commands = [
            ("EXISTS", key)
            for task_id in ids
            for key in (self.keys.result(task_id), own(f"tombstone:{task_id}"), own(f"queued:{task_id}"))
        ]
        if not commands:
            return {}
        with self.links.borrow() as link:
            flags = link.calls(b"".join(pack(command) for command in commands), len(commands))
        states = (Presence.KNOWN, Presence.EXPIRED, Presence.QUEUED)
        found = {}
        for number, task_id in enumerate(ids):
            known = zip(states, flags[3 * number : 3 * number + 3], strict=True)
            found[task_id] = next((state for state, flag in known if flag), Presence.UNKNOWN)
        return found

    def reply_address(self) -> str | None:
        """The channel of this process on which workers of ours announce results."""
        if self._reply is None:
            self._reply = self.keys.own(f"reply:{uuid.uuid4().hex}")
            SENT_HERE[self._reply] = {}
        return self._reply

    def note_sent(self, reply: str, task_id: str) -> None:
        """Remember that the result of ``task_id`` will come to ``reply``, if that is this process."""
        sent = SENT_HERE.get(reply)
        if sent is None:
            return
        if len(sent) >= SENT_HERE_MAX:
            for old in list(sent)[: SENT_HERE_MAX // 10]:
                sent.pop(old, None)
        sent[task_id] = None

    supports_autoexpire = True
    """The server deletes expired results: no periodic ``celery.backend_cleanup`` is needed."""

    def cleanup(self) -> int:
        """Nothing to do: the server expires results."""
        return 0

    def _the_listener(self) -> Listener:
        listener = self._listener
        if listener is None:
            listener = self._listener = Listener(
                self.address, self.keys, self.reply_address() or "", self.fetch
            )
        return listener
