"""Redis as a broker: publishing, losing leases, beats. (Looking and dead letters: inspection.py.)"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from celeriac.engines.base import Incarnation, Loss, NodeInfo, Publication, Recovered
from celeriac.engines.envelopes import after_loss
from celeriac.engines.redis.address import Address
from celeriac.engines.redis.adoption import Adoption
from celeriac.engines.redis.bindings import unbind
from celeriac.engines.redis.connection import Link, Links, Word, pack
from celeriac.engines.redis.consumer import RedisConsumer
from celeriac.engines.redis.keys import Keys
from celeriac.engines.redis.publishing import (
    all_words_of,
    is_plain,
    many_pushes,
    one_push,
    reply_of,
)
from celeriac.engines.redis.scripts import Scripts
from celeriac.exceptions import OperationalError
from celeriac.message import task_id_of

DEFAULT_LEASE: Final = 15
"""Seconds, for a node that never told its own."""
BATCH_CHUNK: Final = 10_000
"""Messages in one transaction; a larger batch is stored chunk by chunk."""
SCRIPT_CHUNK: Final = 1000
"""Messages in one run of a script (a script's arguments are bounded)."""


class RedisBroker:
    """The part of the engine that is a :class:`celeriac.engines.base.Broker`."""

    address: Address
    adoption: Adoption
    keys: Keys
    links: Links
    publish_timeout: float | None
    """Seconds that a publish waits for its answer, if less than ``socket_timeout``."""
    scripts: Scripts
    hold_delays: bool
    is_broker: bool
    _known_queues: set[str]
    _attempts: dict[str, str]
    """Owners whose attaching had no answer -> what marks it as ours."""

    def note_sent(self, reply: str, task_id: str) -> None:
        """Remember that the result of ``task_id`` will come to ``reply`` (results.py)."""
        raise NotImplementedError

    # -- publishing ----------------------------------------------------------------------------------

    def publish(self, batch: Sequence[Publication]) -> dict[int, str]:
        """Store messages, all or none but those whose unique key is held, in one round trip.

        A batch of more than 10,000 messages (1,000 where some are delayed, tracked or unique) is stored in
        chunks of that size, in order, each all or none: if one fails, those before it are stored.
        Returns what was left out: index in the batch -> task id that holds its key, or "".
        Raises ``OperationalError`` or, at maxmemory, ``StoreFull``.
        """
        left_out: dict[int, str] = {}
        if not batch:
            return left_out
        plain = all(is_plain(publication, self.hold_delays) for publication in batch)
        with self.links.borrow(self.publish_timeout) as link:
            if len(batch) == 1 and plain:
                self._publish_one(link, batch[0])
            else:
                step = BATCH_CHUNK if plain else SCRIPT_CHUNK
                for start in range(0, len(batch), step):
                    chunk = batch[start : start + step]
                    if plain:
                        self._push_chunk(link, chunk)
                    else:
                        left = self._publish_chunk(link, chunk)
                        left_out.update((start + index, holder) for index, holder in left)
        for index, publication in enumerate(batch):
            reply = reply_of(publication.message)
            if reply is not None and index not in left_out:
                self.note_sent(reply, task_id_of(publication.message))
        return left_out

    def _publish_one(self, link: Link, publication: Publication) -> None:
        commands = one_push(publication, self.keys)
        if publication.queue in self._known_queues:
            link.calls(commands, 2)
        else:
            link.calls(commands + self._introduce([publication]), 3)
            self._known_queues.add(publication.queue)

    def _publish_chunk(self, link: Link, batch: Sequence[Publication]) -> list[tuple[int, str]]:
        words: list[Word] = []
        for publication in batch:
            words += all_words_of(publication, self.keys, self.hold_delays)
        left = self.scripts["publish"].run(link, [self.keys.own("queues")], words)
        return [(index, holder.decode()) for index, holder in zip(left[::2], left[1::2], strict=True)]

    def _push_chunk(self, link: Link, batch: Sequence[Publication]) -> None:
        commands, count = many_pushes(batch, self.keys)
        answers = link.calls(commands + self._introduce(batch), count + 1)
        for answer in answers[count - 1] or ():
            if isinstance(answer, Exception):
                link.fail(answer)
        self._known_queues.update(publication.queue for publication in batch)

    def _introduce(self, batch: Sequence[Publication]) -> bytes:
        names = dict.fromkeys(publication.queue for publication in batch)
        return pack(("SADD", self.keys.own("queues"), *names))

    # -- leases --------------------------------------------------------------------------------------

    def attach(self, owner: Incarnation) -> RedisConsumer:
        """Register a lease owner and return its consumer.

        Raises ``Fenced`` if its node was recovered by others, ``ValueError`` if the name is taken. After a
        lost answer it may be called again, by the same engine.
        """
        self.is_broker = True
        attempt = self._attempts.pop(owner.name, None) or os.urandom(8).hex()
        own = self.keys.own
        keys = [
            own(f"owner:{owner.name}"),
            own(f"owners:{owner.node}"),
            own("beats"),
            own(f"gone:{owner.node}"),
        ]
        with self.links.borrow() as link:
            try:
                self.scripts["attach"].run(link, keys, [owner.name, owner.node, owner.slots, attempt])
            except OperationalError as error:
                if error.maybe_done:
                    self._attempts[owner.name] = attempt
                if "EXISTS lease owner" in str(error):
                    raise ValueError(
                        f"a lease owner {owner.name!r} exists already: attach under the next epoch"
                    ) from error
                raise
        return RedisConsumer(self, owner)

    def give_back(self, owner: str, leases: Sequence[tuple[str, int]]) -> int:
        """Return not-started messages of a living owner to the front of their lines."""
        if not leases:
            return 0
        words: list[Word] = [owner]
        for queue, token in sorted(leases, key=lambda lease: -lease[1]):
            words += (queue, token)
        with self.links.borrow() as link:
            return int(self.scripts["give_back"].run(link, [self.keys.own(f"owner:{owner}")], words))

    def release(self, owner: str, started: Mapping[int, Loss]) -> int:
        """End a dead owner: give back what it held and forget it."""
        with self.links.borrow() as link:
            self._fence(link, owners=[owner])
            return self._hand_over(link, owner, started)[0]

    def beat(self, node: NodeInfo) -> float:
        """Register the node and renew its leases; return the store's clock. Raises ``Fenced``."""
        self.is_broker = True
        own = self.keys.own
        keys = [own("beats"), own("nodes"), own(f"gone:{node.id}")]
        with self.links.borrow() as link:
            now = self.scripts["beat"].run(link, keys, [node.id, msgspec.json.encode(node)])
        return int(now) / 1e6

    def recover(self, host: str, alive: Callable[[int, float], bool]) -> list[Recovered]:
        """Take over the leases of nodes that stopped beating, and at once of dead ones on this ``host``; and
        what Celery's workers left behind (adoption.py)."""
        own = self.keys.own
        recovered: list[Recovered] = []
        gone_nodes: list[str] = []
        with self.links.borrow() as link:
            keys = [own("beats"), own("nodes"), own("recovered")]
            rows = self.scripts["overdue"].run(link, keys, [DEFAULT_LEASE])
            for node, beat, info, overdue in zip(*[iter(rows)] * 4, strict=True):
                gone = not overdue and _is_dead_here(info, host, alive)
                if (overdue or gone) and self._fence(
                    link, node.decode(), "" if gone else beat, remember=True
                ):
                    gone_nodes.append(node.decode())
                    recovered.append(Recovered(node.decode(), 0, 0))
            for orphan in link.call(pack(("SMEMBERS", own("orphans")))):
                name = orphan.decode()
                messages, started = self._hand_over(link, name, None)
                recovered = [row for row in recovered if row.messages or not name.startswith(f"{row.owner}:")]
                recovered.append(Recovered(name, messages, started))
            # Last: what was handed over to the dead nodes' own queues goes with them.
            for name in gone_nodes:
                unbind(self, link, name)
            if adopted := self.adoption.run(link):
                recovered.append(Recovered("Celery's workers", adopted, 0))
        return recovered

    def leave(self, node: str) -> None:
        """Forget a node that stopped in order; what its children still held is given back, uncounted."""
        with self.links.borrow() as link:
            owners = link.call(pack(("SMEMBERS", self.keys.own(f"owners:{node}"))))
            self._fence(link, node)
            for owner in owners:
                self._hand_over(link, owner.decode(), {})
            unbind(self, link, node)

    def _fence(
        self,
        link: Link,
        node: str = "",
        beat: bytes | str = "",
        remember: bool = False,
        owners: Sequence[str] = (),
    ) -> bool:
        own = self.keys.own
        keys = [own("beats"), own("nodes"), own("orphans")]
        return bool(self.scripts["fence"].run(link, keys, [node, beat, "1" if remember else "", *owners]))

    def _hand_over(self, link: Link, owner: str, losses: Mapping[int, Loss] | None) -> tuple[int, int]:
        """Give back all that a fenced owner holds, and forget it; return (messages, started).

        ``losses=None`` takes its lowest tokens for started, as many as it has slots.
        """
        own = self.keys.own
        fields = link.call(pack(("HGETALL", own(f"owner:{owner}"))))
        record = dict(zip(fields[::2], fields[1::2], strict=True))
        leases = self._leases_of(link, owner, record)
        if losses is None:
            slots = int(record.get(b"slots", b"1"))
            losses = {token: Loss() for token, _, _ in leases[:slots]}
        # The youngest goes first: a second node that helps here still finds the started ones lowest.
        moved = 0
        for queue, words in _runs(leases[::-1], losses):
            moved += self.scripts["hand_over"].run(link, [self._lease(owner, queue)], [queue, *words])
        node = record.get(b"node", b"").decode()
        commands = [
            ("DEL", own(f"owner:{owner}")),
            ("SREM", own(f"owners:{node}"), owner),
            ("SREM", own("orphans"), owner),
        ]
        link.calls(b"".join(pack(command) for command in commands), len(commands))
        return moved, sum(token in losses for token, _, _ in leases)

    def _lease(self, owner: str, queue: str) -> str:
        return self.keys.of(queue, f"lease:{owner}")

    def _leases_of(
        self, link: Link, owner: str, record: Mapping[bytes, bytes]
    ) -> list[tuple[int, str, bytes]]:
        """``(token, queue, value)`` of all it holds, in claim order."""
        queues = [field[2:].decode() for field in record if field.startswith(b"q:")]
        if not queues:
            return []
        commands = b"".join(pack(("HGETALL", self._lease(owner, queue))) for queue in queues)
        leases: list[tuple[int, str, bytes]] = []
        for queue, flat in zip(queues, link.calls(commands, len(queues)), strict=True):
            pairs = zip(flat[::2], flat[1::2], strict=True)
            leases += [(int(token), queue, value) for token, value in pairs]
        return sorted(leases)

    def control_changed(self, *commands: tuple[Any, ...]) -> int:
        """Run ``commands`` and count an operator's order, in one transaction; return the version."""
        control = self.keys.own("control")
        parts = [("MULTI",), *commands, ("HINCRBY", control, "version", 1), ("EXEC",)]
        with self.links.borrow() as link:
            answers = link.calls(b"".join(pack(part) for part in parts), len(parts))
        return int(answers[-1][-1])


def lost_value(value: bytes, loss: Loss | None) -> bytes:
    """The value with which a lost lease's message goes back in line."""
    lane, flags, envelope = value.split(b"|", 2)
    if b"o" in flags and (loss is None or loss.mark is None):
        loss = Loss(counted=loss.counted if loss else False, mark="once")
    flags = flags.replace(b"o", b"").replace(b"p", b"")
    if loss is not None:
        envelope = after_loss(envelope, loss)
        flags = flags.replace(b"a", b"")
        if loss.mark is not None and b"r" not in flags:
            flags += b"r"
    return b"|".join((lane, flags, envelope))


def _runs(
    leases: Sequence[tuple[int, str, bytes]], losses: Mapping[int, Loss]
) -> list[tuple[str, list[int | bytes]]]:
    """The leases as arguments of hand_over.lua: consecutive ones of the same queue together, 200 at most."""
    runs: list[tuple[str, list[int | bytes]]] = []
    for token, queue, value in leases:
        if not runs or runs[-1][0] != queue or len(runs[-1][1]) >= 400:
            runs.append((queue, []))
        runs[-1][1].extend((token, lost_value(value, losses.get(token))))
    return runs


def _is_dead_here(info: bytes, host: str, alive: Callable[[int, float], bool]) -> bool:
    if not info:
        return False
    try:
        node = msgspec.json.decode(info, type=NodeInfo)
    except msgspec.DecodeError:
        return False
    return node.host == host and not alive(node.pid, node.started)
