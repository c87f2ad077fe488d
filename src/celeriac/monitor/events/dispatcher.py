"""Dispatcher: sends events of one's own, as a worker would."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from celeriac.app import app_or_default, ids
from celeriac.app.event import group_from, routing_key
from celeriac.exceptions import ImproperlyConfigured, OperationalError

MOST_BUFFERED = 10_000
"""Events that are kept for a broker that is away; more drop the oldest."""


class EventDispatcher:
    """Sends events over the application's connections. Threads may share it; it is to be closed after use.

    ``connection``, ``channel`` and ``delivery_mode`` are accepted as in Celery and have no meaning here.
    """

    app: Any = None

    def __init__(
        self,
        connection: Any = None,
        hostname: str | None = None,
        enabled: bool = True,
        channel: Any = None,
        buffer_while_offline: bool = True,
        app: Any = None,
        serializer: str | None = None,
        groups: Iterable[str] | None = None,
        delivery_mode: int = 1,
        buffer_group: Iterable[str] | None = None,
        buffer_limit: int = 24,
        on_send_buffered: Callable[[], Any] | None = None,
    ) -> None:
        """``hostname`` is the name under which it sends, by default ``gen<pid>@<host>``.

        Only events of ``groups`` are sent, if there are any. What cannot be sent is kept until :meth:`flush`,
        with ``buffer_while_offline``. Events of ``buffer_group`` are collected and sent ``buffer_limit`` at a
        time, or by :meth:`flush`; ``on_send_buffered`` is called when one has been collected. Brokers that
        carry no events turn it off (``enabled``).
        """
        if serializer not in (None, "json"):
            raise ImproperlyConfigured(
                "events are sent as JSON, which every receiver reads: leave serializer out"
            )
        self.app = app_or_default(app or self.app)
        self.connection = connection
        self.channel = channel
        self.hostname = hostname or ids.origin()
        self.groups = set(groups or ())
        self.buffer_while_offline = buffer_while_offline
        self.buffer_group = frozenset(buffer_group or ())
        self.buffer_limit = buffer_limit
        self.on_send_buffered = on_send_buffered
        self.on_enabled: set[Callable[[], Any]] = set()
        self.on_disabled: set[Callable[[], Any]] = set()
        self.mutex = threading.RLock()
        self._unsent: deque[tuple[str, Any]] = deque(maxlen=MOST_BUFFERED)
        self._collected: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.enabled = bool(enabled) and self.app.events.carrier is not None

    @property
    def clock(self) -> Any:
        """The process's logical clock."""
        return self.app.clock

    def send(
        self,
        type: str,
        blind: bool = False,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        """Send an event of this type: ``send("task-progress", uuid=..., done=0.5)``.

        ``blind`` leaves the logical clock alone; with ``retry`` a broker that is away is tried again as
        ``retry_policy`` says. Raises ``EncodeError`` for what JSON cannot carry, and ``OperationalError``
        unless it is kept for later.
        """
        group = group_from(type)
        if not self.enabled or (self.groups and group not in self.groups):
            return
        event = self.app.events.complete(type, fields, self.hostname, blind)
        if group not in self.buffer_group:
            self._publish(routing_key(type), event, retry, retry_policy)
            return
        with self.mutex:
            self._collected[group].append(event)
            full = len(self._collected[group]) >= self.buffer_limit
        if full:
            self.flush()
        elif self.on_send_buffered is not None:
            self.on_send_buffered()

    def publish(
        self,
        type: str,
        fields: Mapping[str, Any],
        producer: Any = None,
        blind: bool = False,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
    ) -> None:
        """Send an event whatever is turned on and whatever its group; ``producer`` has no meaning."""
        event = self.app.events.complete(type, fields, self.hostname, blind)
        self._publish(routing_key(type), event, retry, retry_policy)

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """Send what could not be sent (``errors``) and what has been collected (``groups``)."""
        with self.mutex:
            unsent = list(self._unsent) if errors else []
            if errors:
                self._unsent.clear()
            collected = dict(self._collected) if groups else {}
            if groups:
                self._collected.clear()
        for key, event in unsent:
            self._publish(key, event)
        for group, events in collected.items():
            self._publish(f"{group}.multi", events)

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over what another one could not send."""
        self._unsent.extend(other._unsent)

    def enable(self) -> None:
        """Send from now on, if the broker carries events."""
        self.enabled = self.app.events.carrier is not None
        for callback in self.on_enabled:
            callback()

    def disable(self) -> None:
        """Send no more."""
        if self.enabled:
            self.close()
            for callback in self.on_disabled:
                callback()

    def close(self) -> None:
        """Send no more; what was not sent stays here."""
        self.enabled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _publish(
        self, key: str, events: Any, retry: bool = False, policy: Mapping[str, Any] | None = None
    ) -> None:
        try:
            if retry:
                self.app.publisher.patiently(lambda: self.app.events.publish(key, events), policy)
            else:
                self.app.events.publish(key, events)
        except OperationalError:
            if not self.buffer_while_offline:
                raise
            self._unsent.append((key, events))
