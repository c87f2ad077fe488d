"""Exchanges on Redis: which queues are tied to them.

They are written where kombu looks for them, so that Celery's clients reach queues that only our workers take
from. (Of a fanout too: a client of Celery's that has not declared the exchange takes it for a direct one, and
pushes to the queues it finds there.) Those on fanout exchanges are in keys of ours as well: see keys.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol

from celeriac.engines.redis.address import SEP
from celeriac.engines.redis.connection import Link, Links, Word, pack
from celeriac.engines.redis.keys import Keys
from celeriac.engines.redis.relay import Relay
from celeriac.engines.redis.scripts import Scripts
from celeriac.routing.queues import Binding

_WILDCARDS: Final = {"*": r"[^\.]+", "#": r".*?"}


class Server(Protocol):
    """What is needed of an engine here."""

    keys: Keys
    links: Links
    scripts: Scripts


class RedisBindings:
    """The part of the engine that knows exchanges (:class:`celeriac.engines.base.Broker`)."""

    keys: Keys
    links: Links
    scripts: Scripts

    def bind(self, bindings: Sequence[Binding], node: str = "") -> None:
        """Tie queues to exchanges; with ``node`` they are its own."""
        commands: list[tuple[Word, ...]] = []
        for tie in bindings:
            if tie.type == "fanout":
                commands.append(("HSET", self.keys.own(f"bound:{tie.exchange}"), tie.queue, node))
                if node:
                    commands.append(("SADD", self.keys.own(f"exchanges:{node}"), tie.exchange))
            member = SEP.join((tie.routing_key, _pattern(tie), tie.queue))
            for name in ("binding", "binding_permanent"):
                commands.append(("SADD", f"{self.keys.prefix}_kombu.{name}.{tie.exchange}", member))
        if commands:
            commands = [("MULTI",), *commands, ("EXEC",)]
            with self.links.borrow() as link:
                for answer in link.calls(b"".join(map(pack, commands)), len(commands))[-1]:
                    if isinstance(answer, Exception):
                        link.fail(answer)

    def bindings(self, exchange: str) -> list[Binding]:
        """The queues tied to an exchange: nodes' own ones, and those that Celery or we declared."""
        commands: list[tuple[Word, ...]] = [
            ("HKEYS", self.keys.own(f"bound:{exchange}")),
            ("SMEMBERS", self.keys.bindings(exchange)),
        ]
        with self.links.borrow() as link:
            own, members = link.calls(b"".join(map(pack, commands)), len(commands))
        ties = [Binding(exchange, "fanout", "", queue.decode()) for queue in sorted(own)]
        for member in sorted(members):
            key, pattern, queue = member.decode().split(SEP)
            if queue.encode() in own:
                continue
            # Celery's broadcast queues are no lists: their workers listen on the channel.
            kind = "fanout" if queue.startswith("bcast.") else "topic" if pattern else "direct"
            ties.append(Binding(exchange, kind, key, queue))
        return ties

    def ties(self) -> list[Binding]:
        """All bindings of queues that are no node's own, Celery's and ours."""
        prefix = self.keys.bindings("")
        with self.links.borrow() as link:
            exchanges: set[str] = set()
            cursor = b"0"
            while True:
                cursor, found = link.call(
                    pack(("SCAN", cursor, "MATCH", f"{_literal(prefix)}*", "COUNT", 1000))
                )
                exchanges.update(name.decode()[len(prefix) :] for name in found)
                if cursor == b"0":
                    break
            names = sorted(exchanges)
            commands = [("HGETALL", self.keys.own(f"bound:{exchange}")) for exchange in names]
            owners = link.calls(b"".join(map(pack, commands)), len(commands)) if commands else []
        ties = []
        for exchange, flat in zip(names, owners, strict=True):
            own = {queue.decode() for queue, node in zip(flat[::2], flat[1::2], strict=True) if node}
            ties += [tie for tie in self.bindings(exchange) if tie.queue not in own]
        return ties

    def relay_foreign(self, bindings: Sequence[Binding], stop_fd: int) -> None:
        """Bring what Celery's clients publish to fanout exchanges into a node's own queues, until ``stop_fd``
        is readable. Blocks. An extra of this engine: there Celery's copies are published, not stored, so
        what is published while nobody listens is lost."""
        Relay(self, bindings).run(stop_fd)


def unbind(server: Server, link: Link, node: str) -> None:
    """Forget a node's own queues with what waits in them; dead letters stay."""
    own, of = server.keys.own, server.keys.of
    for name in server.scripts["unbind"].run(link, [own(f"exchanges:{node}")], [node]):
        queue = name.decode()
        server.scripts["purge"].run(link, [], [queue])
        commands: list[tuple[Word, ...]] = [("DEL", of(queue, "wake")), ("EXISTS", of(queue, "dead"))]
        if not link.calls(b"".join(map(pack, commands)), 2)[1]:
            link.call(pack(("SREM", own("queues"), queue)))


def _literal(text: str) -> str:
    """The text as a pattern that matches only itself."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def _pattern(tie: Binding) -> str:
    """The expression by which kombu finds the keys of a topic."""
    if tie.type != "topic":
        return ""
    words = (_WILDCARDS.get(word, re.escape(word)) for word in tie.routing_key.split("."))
    return "^" + r"\.".join(words) + "$"
