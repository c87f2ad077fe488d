"""Redis and Valkey (6.2 or newer): Celery's own lists and result keys, claimed and settled by Lua.

URLs: ``redis://user:password@host:6379/0``, ``rediss://`` (TLS), ``unix:///path?db=0`` (or
``redis+socket://``), ``sentinel://host:26379/0;sentinel://host2:26379`` with the option ``master_name``.

Options (Celery's transport options):

* ``global_keyprefix``, ``sep``, ``priority_steps``, ``fanout_prefix``, ``fanout_patterns``: names of keys
  and channels, as in kombu;
* ``socket_timeout`` (15 s), ``socket_connect_timeout`` (5 s), ``socket_keepalive``,
  ``socket_keepalive_options``, ``health_check_interval``, ``client_name``, ``username``, ``password``,
  ``master_name``, ``sentinel_kwargs``;
* ``ssl`` (or ``broker_use_ssl``, ``redis_backend_use_ssl``): a dict of ``ssl_*`` arguments;
* ``visibility_timeout`` (1 hour), ``unacked_restore_interval`` (10 s), ``unacked_restore_throttle`` (10),
  ``unacked_key``, ``unacked_index_key``, ``unacked_mutex_key``: what Celery's workers left behind and when
  it is put back (adoption.py).

Ours: ``broker_delay`` (``"store"``; ``"celery"`` leaves delays to the worker, for queues that Celery's
workers share), ``publish_timeout`` (seconds that a publish waits for its answer), ``dead_letters_max``
(10,000 a queue), ``dead_letters_expires`` (30 days, in seconds), ``result_tombstone_expires`` (7 days, in
seconds; 0: none. It costs a key of about 100 bytes a result), ``schedule_scope`` (""; whose schedule it is:
each scope has entries and a leader of its own).

Keys stand in keys.py, scripts in scripts/. Cluster is not supported: results, wake-ups and several queues lie
in different slots.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from celeriac.engines.base import LOWER_FIRST
from celeriac.engines.events import EventOptions
from celeriac.engines.mailbox import Mailbox
from celeriac.engines.redis import connection
from celeriac.engines.redis.address import Address, parse
from celeriac.engines.redis.adoption import Adoption
from celeriac.engines.redis.bindings import RedisBindings
from celeriac.engines.redis.connection import Links
from celeriac.engines.redis.coordinator import RedisCoordinator
from celeriac.engines.redis.diagnosis import diagnose
from celeriac.engines.redis.events import RedisEvents
from celeriac.engines.redis.groups import RedisGroups
from celeriac.engines.redis.history import RedisHistory
from celeriac.engines.redis.inspection import RedisInspection
from celeriac.engines.redis.keys import Keys
from celeriac.engines.redis.listener import Listener
from celeriac.engines.redis.remote import RedisRemote
from celeriac.engines.redis.results import RedisResults
from celeriac.engines.redis.schedules import RedisSchedules
from celeriac.engines.redis.scripts import Layout, Scripts
from celeriac.engines.redis.tracking import Sentinel
from celeriac.exceptions import ImproperlyConfigured

DAY = 86400


class RedisEngine(
    RedisGroups,
    RedisInspection,
    RedisSchedules,
    RedisCoordinator,
    RedisBindings,
    RedisRemote,
    RedisEvents,
    RedisHistory,
):
    """One server as broker, result backend and coordinator (:class:`celeriac.engines.base.Engine`)."""

    urgencies = LOWER_FIRST

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.address: Address = parse(url, options)
        self.scheme = url.partition(":")[0].partition("+")[0].lower()
        self.url = self.address.masked
        self.keys = Keys(self.address)
        self.event_options = EventOptions.of(options)
        self.hold_delays = _holds_delays(options.get("broker_delay", "store"))
        self.publish_timeout = options.get("publish_timeout")
        self.mailbox: Callable[[], Mailbox] = options.get("mailbox", Mailbox)
        self.dead_expires = float(options.get("dead_letters_expires", 30 * DAY))
        most = options.get("history_max")
        self.history_max = 100_000 if most is None else int(most)
        own: dict[str, float] = {
            "dead_max": int(options.get("dead_letters_max", 10_000)),
            "dead_age": self.dead_expires,
            "tombstone": float(options.get("result_tombstone_expires", 7 * DAY)),
            "history_max": self.history_max,
        }
        self.scope = str(options.get("schedule_scope", ""))
        self.scripts = Scripts(Layout.of(self.keys, self.address.db, own, self.scope))
        self.adoption = Adoption(self.keys, self.scripts, options)
        self.lease_store: RedisResults | None = None
        self.is_broker = False
        self._reply: str | None = None
        self._forget_connections()
        _ENGINES.add(self)

    def shares_store(self, other: object) -> bool:
        """Whether ``other`` is the same server under the same user.

        If so, this engine's settling steps store results where ``other`` keeps them (its database and
        prefix), and ``other`` looks at this one's leases when a record carries one.
        """
        if not isinstance(other, RedisEngine) or not self.address.same_server(other.address):
            return False
        if other is not self:
            layout, results = self.scripts.layout, other.scripts.layout
            shared = layout._replace(
                result_prefix=results.prefix, result_db=results.db, tombstone=results.tombstone
            )
            if shared != layout:
                self.scripts = Scripts(shared)
        other.lease_store = self
        return True

    def sentinel(self, queues: list[str]) -> Sentinel:
        """A watcher that wakes idle workers for producers that are not ours (tracking.py)."""
        return Sentinel(self, queues)

    def watch_foreign(self, queues: list[str], stop_fd: int) -> None:
        """Run :meth:`sentinel` until ``stop_fd`` is readable. Blocks: give it a thread or a process.

        An extra of this engine: without it, and where the server lets us not track keys, messages of foreign
        producers are found by the workers' poll within a second.
        """
        self.sentinel(queues).run(stop_fd)

    def preload(self) -> None:
        """Load what connections will need, without connecting: before a fork, so that processes share it.

        An extra of this engine (redis-py's metadata, the host name's encoding and the scripts: 3 MiB in
        each process that would load them by itself).
        """
        connection.make(self.address, 2, None)
        "localhost".encode("idna")
        for name in ("attach", "beat", "exchange", "overdue"):
            self.scripts[name]

    def check(self) -> list[str]:
        """What about the server endangers messages, in sentences fit for start-up."""
        return diagnose(self.links, self.address)

    def close(self) -> None:
        """Close every connection; the engine connects again when it is used."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.links.close()

    def drop_after_fork(self) -> None:
        """In a forked child: let go of the parent's sockets without a word to the server."""
        if self._listener is not None:
            self._listener.abandon()
        self.links.close()
        self._reply = None
        self._forget_connections()

    def _forget_connections(self) -> None:
        self.links = Links(self.address)
        self._listener: Listener | None = None
        self._known_queues: set[str] = set()
        self._attempts: dict[str, str] = {}


_ENGINES: weakref.WeakSet[RedisEngine] = weakref.WeakSet()


def create(url: str, options: Mapping[str, Any]) -> RedisEngine:
    """Return an engine for ``url``, not yet connected. Raises ``ImproperlyConfigured``."""
    return RedisEngine(url, options)


def _holds_delays(value: str) -> bool:
    if value not in ("store", "celery"):
        raise ImproperlyConfigured(f"broker_delay must be 'store' or 'celery', not {value!r}")
    return value == "store"


def _after_fork() -> None:
    for engine in list(_ENGINES):
        engine.drop_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
