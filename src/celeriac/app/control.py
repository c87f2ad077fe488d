"""Remote control, the client's side: orders to workers, and what they answer.

What must outlive a restart is kept in the store that workers agree by, and is broadcast as well: Celery's
workers hear that, and whoever asks for replies gets them.
"""

from __future__ import annotations

import logging
import signal as os_signals
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac.app.chords import is_ours
from celeriac.app.coroutines import in_thread
from celeriac.app.inspector import Inspect, flatten_reply
from celeriac.app.names import bound
from celeriac.app.rates import interval
from celeriac.app.request import Context
from celeriac.app.stamps import marks
from celeriac.engines.remote import Order, RemoteControl
from celeriac.exceptions import (
    DecodeError,
    ImproperlyConfigured,
    OperationalError,
    SecurityError,
    TaskRevokedError,
)
from celeriac.message import decode_body, decode_envelope, new_id

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

__all__ = ["Control", "Inspect", "flatten_reply"]

logger = logging.getLogger("celeriac.control")

Replies = list[dict[str, Any]] | None
"""One ``{node name: answer}`` an answer; ``None`` where none were asked for."""

_LONG = 86400.0
"""Seconds that ``timeout=None`` waits."""
_PAGE = 500
"""Leased messages that are looked at in one step."""


class Control:
    """``app.control``.

    The methods that send an order take ``destination`` (names of nodes) and the other arguments of
    :meth:`broadcast`: ``reply``, ``timeout``, ``limit``, ``callback``, ``pattern``, ``matcher``. They return
    the answers with ``reply=True``, else ``None``: then nobody is waited for. Arguments ``connection`` and
    ``channel`` are taken as Celery takes them; the application's own connections are used.
    """

    def __init__(self, app: Celeriac) -> None:
        self.app = app

    @cached_property
    def inspect(self) -> type[Inspect]:
        """Questions to workers: ``app.control.inspect(destination, timeout, ...)`` makes an ``Inspect``."""
        made: type[Inspect] = bound(self.app, Inspect)
        return made

    # -- sending -----------------------------------------------------------------------------------------

    def broadcast(
        self,
        /,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: str | Sequence[str] | None = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float | None = 1.0,
        limit: int | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra: Any,
    ) -> Replies:
        """Send ``command`` to all workers, or to those in ``destination``, or whose names match ``pattern``.

        ``matcher`` is ``"glob"`` (default) or ``"pcre"``; ``arguments`` and ``extra`` are the command's. With
        ``reply`` the answers are returned, ``{node name: answer}`` each, and ``callback`` is called with each
        as it comes: until as many have answered as were reached, ``limit`` have, or ``timeout`` seconds have
        passed (``None``: a day). Raises ``OperationalError`` if the broker cannot be reached, ``EncodeError``
        for arguments that cannot be sent.
        """
        names = [destination] if isinstance(destination, str) else list(destination or ())
        given = {**(arguments or {}), **extra}
        clock = self.app.clock
        order = Order(command, given, names or None, pattern, matcher, clock=clock.forward())
        if not reply:
            self._remote.tell(order)
            return None
        replies = []
        for answer in self._remote.ask(order, _LONG if timeout is None else timeout, limit):
            replies.append(answer)
            if callback is not None:
                callback(answer)
        clock.adjust(order.clock)
        return replies

    abroadcast = in_thread(broadcast)
    """:meth:`broadcast` for coroutines: it waits in a thread."""

    def ping(
        self, /, destination: Sequence[str] | None = None, timeout: float | None = 1.0, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """Ask who is there: ``[{"celery@host": {"ok": "pong"}}, ...]``."""
        options = {"reply": True, **kwargs}
        return self.broadcast("ping", {}, destination, timeout=timeout, **options) or []

    aping = in_thread(ping)
    """:meth:`ping` for coroutines: it waits in a thread."""

    @property
    def _remote(self) -> RemoteControl:
        broker: Any = self.app.broker
        if not hasattr(broker, "ask"):
            raise ImproperlyConfigured(
                f"{self.app.broker_shown} carries no remote control: set broker_url to Redis, RabbitMQ, "
                "PostgreSQL or SQLite"
            )
        remote: RemoteControl = broker
        return remote

    # -- orders that are kept ----------------------------------------------------------------------------

    def revoke(
        self,
        /,
        task_id: str | Iterable[str],
        destination: Any = None,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        **kwargs: Any,
    ) -> Replies:
        """Do not let these tasks run (an id or several).

        Delayed ones are removed at once and get the state REVOKED; waiting ones when a worker comes to
        them. Running ones go on, unless ``terminate``: their process gets ``signal``. The order is kept for
        ``revoke_expires`` seconds, for workers that start later too, and it concerns all workers; a
        ``destination`` says who else is told of it, and answers. Without a store that keeps orders it is told
        to the workers that run now, as Celery does it; raises ``ImproperlyConfigured`` if none takes it.
        """
        ids = [task_id] if isinstance(task_id, str) else [str(each) for each in task_id]
        if not ids:
            return [] if kwargs.get("reply") else None
        name = signal_name(signal)
        arguments: dict[str, Any] = {"task_id": ids, "terminate": terminate, "signal": name}
        kept = self.app.coordinator is not None
        if kept and (ended := self.keep_revoked(ids, name if terminate else "")):
            arguments["ended"] = ended
            arguments["teller"] = self._teller(destination, kwargs)
        return self._announce("revoke", arguments, destination, kwargs, kept)

    def _teller(self, destination: Any, options: Mapping[str, Any]) -> str:
        """The worker that is to tell, by events, of what has ended here: they speak of a worker's tasks."""
        names = [destination] if isinstance(destination, str) else destination
        order = Order("", {}, names, options.get("pattern"), options.get("matcher"))
        nodes = [] if self.app.coordinator is None else self.app.coordinator.nodes()
        return min((node.name for node in nodes if order.concerns(node.name)), default="")

    arevoke = in_thread(revoke)
    """:meth:`revoke` for coroutines: it waits in a thread."""

    def keep_revoked(self, ids: Sequence[str], signal: str = "") -> dict[str, str]:
        """Keep the order to revoke in the store, and revoke what is delayed; :meth:`revoke` without a word to
        the workers. ``signal`` names what ends those that run already.

        Returns the ids of those that were delayed, with their tasks' names. Raises ``ImproperlyConfigured``.
        """
        orders = self.app.coordinator
        if orders is None:
            raise self._homeless("revoke")
        orders.revoke(ids, float(self.app.conf.revoke_expires), signal)
        delayed = {
            task_id: self._request(task_id, found) for task_id, found in self.app.broker.find(ids).items()
        }
        self._record_delayed(delayed)
        self.app.broker.cancel(ids)
        return {task_id: getattr(request, "task", "") for task_id, request in delayed.items()}

    def _record_delayed(self, delayed: Mapping[str, Context]) -> None:
        """Store that delayed tasks are revoked: their states, and what it means for chains and chords.

        If this process dies at any point, a worker completes it. The order to revoke is kept already, so a
        message that has not been removed is dropped when it falls due, and what is recorded then counts
        once. It is therefore removed last: a chord waits for the part of a task that has no message.
        """
        backend = self.app.backend
        if backend is None or not delayed:
            return
        error = TaskRevokedError("revoked")
        records, parts = [], []
        for request in delayed.values():
            records.append(self.app.results.record(states.REVOKED, error, request))
            own = self.app.chords.part_of(request, states.REVOKED, error)
            lost = self.app.chords.unreached(
                reversed(request.chain or ()), states.REVOKED, error, ours=is_ours(request.message)
            )
            records.extend(lost[0])
            parts.extend(lost[1] if own is None else [own, *lost[1]])
        backend.store(records)
        if parts:
            # What is owed by this is left to workers: error callbacks may have to run where it is taken, and
            # this may be any program. They come to it when this taker's time is up.
            backend.record_parts(parts, f"{self.app.oid}:{new_id()}")

    def _request(self, task_id: str, payload: bytes) -> Context:
        try:
            message = decode_envelope(payload)
            args, kwargs, embed = decode_body(message, self.app.accept_content)
        except (DecodeError, SecurityError):
            return Context(id=task_id)
        return Context(message, args, kwargs, embed)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: Any = None,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        **kwargs: Any,
    ) -> Replies:
        """Do not let tasks run that carry one of these stamps: ``{"name": value}``, or a list of values.

        The order is kept, obeyed and told as that of :meth:`revoke`, and holds for tasks that are sent later
        too; delayed tasks get the state REVOKED when they are due. With ``terminate`` those that run now are
        looked for and killed.
        """
        wanted = set(marks(headers))
        if not wanted:
            return [] if kwargs.get("reply") else None
        name = signal_name(signal)
        orders = self.app.coordinator
        if orders is not None:
            orders.revoke(sorted(wanted), float(self.app.conf.revoke_expires))
            if terminate and getattr(self.app.broker, "reaches_leases", True):
                queues = self.app.broker.queues()
                running = [each for queue in queues for each in self._stamped(queue, wanted)]
                self.revoke(running, terminate=True, signal=name)
        arguments = {"headers": dict(headers), "terminate": terminate, "signal": name}
        command = "revoke_by_stamped_headers"
        return self._announce(command, arguments, destination, kwargs, kept=orders is not None)

    def _stamped(self, queue: str, wanted: set[str]) -> Iterator[str]:
        """The ids of leased messages that carry one of the stamps."""
        offset = 0
        while page := self.app.broker.peek(queue, offset, _PAGE, "leased"):
            offset += len(page)
            for payload in page:
                try:
                    headers = decode_envelope(payload).headers
                except DecodeError:
                    continue
                if not wanted.isdisjoint(marks(headers.get("stamps") or {})):
                    yield str(headers["id"])

    def terminate(
        self,
        task_id: str | Iterable[str],
        destination: Any = None,
        signal: str | int = "SIGTERM",
        **kwargs: Any,
    ) -> Replies:
        """:meth:`revoke` with ``terminate=True``."""
        return self.revoke(task_id, destination, terminate=True, signal=signal, **kwargs)

    def purge(self, connection: Any = None) -> int:
        """Delete all waiting messages, delayed ones too, of the queues that the application consumes; return
        how many."""
        return self.app.broker.purge(list(self.app.queues.consumed))

    discard_all = purge

    def rate_limit(
        self, task_name: str, rate_limit: str | float | None, destination: Any = None, **kwargs: Any
    ) -> Replies:
        """Change a task's rate limit everywhere (``"10/m"``; 0 or ``""``: none), also after restarts.

        ``None`` goes back to the limit in the code; Celery's workers take it for no limit. Kept and told as
        the order of :meth:`revoke`. Raises ``ImproperlyConfigured`` for what is no rate.
        """
        interval(rate_limit)
        rate = None if rate_limit is None else "" if not rate_limit else str(rate_limit)
        orders = self.app.coordinator
        if orders is not None:
            orders.limit_rate(task_name, rate)
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self._announce("rate_limit", arguments, destination, kwargs, kept=orders is not None)

    def _announce(
        self, command: str, arguments: dict[str, Any], destination: Any, options: dict[str, Any], kept: bool
    ) -> Replies:
        """Broadcast an order that has been kept, or if not, that somebody must take now."""
        if not kept:
            replies = self.broadcast(command, arguments, destination, **{**options, "reply": True}) or []
            if not any(isinstance(told, dict) and "ok" in told for one in replies for told in one.values()):
                raise self._homeless(command)
            return replies if options.get("reply") else None
        try:
            return self.broadcast(command, arguments, destination, **options)
        except OperationalError as error:
            if options.get("reply"):
                raise
            logger.warning("The order %s is stored; Celery's workers were not told of it: %s", command, error)
            return None

    def _homeless(self, command: str) -> ImproperlyConfigured:
        return ImproperlyConfigured(
            f"{command} needs a store that keeps orders, which {self.app.broker_shown} is not: set "
            "result_backend to SQLite, PostgreSQL or Redis"
        )

    # -- orders that running workers hear ------------------------------------------------------------------

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Replies:
        """Change a task's time limits, in seconds, on the workers that run now; ``None``: no limit."""
        arguments = {"task_name": task_name, "hard": hard, "soft": soft}
        return self.broadcast("time_limit", arguments, destination, **kwargs)

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Replies:
        """Let workers take from one more queue.

        Exchange and routing key are called as the queue if they are not given. ``options`` are further ones
        of a queue (``durable``, ``queue_arguments``, ...).
        """
        arguments = {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
            **(options or {}),
        }
        return self.broadcast("add_consumer", arguments, destination, **kwargs)

    def cancel_consumer(self, queue: str, destination: Sequence[str] | None = None, **kwargs: Any) -> Replies:
        """Let workers take no more from a queue."""
        return self.broadcast("cancel_consumer", {"queue": queue}, destination, **kwargs)

    def enable_events(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Replies:
        """Let workers send events about tasks."""
        return self.broadcast("enable_events", {}, destination, **kwargs)

    def disable_events(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Replies:
        """Let workers send no more events about tasks."""
        return self.broadcast("disable_events", {}, destination, **kwargs)

    def pool_grow(self, n: int = 1, destination: Sequence[str] | None = None, **kwargs: Any) -> Replies:
        """Add ``n`` processes (or slots) to the workers' pools."""
        return self.broadcast("pool_grow", {"n": n}, destination, **kwargs)

    def pool_shrink(self, n: int = 1, destination: Sequence[str] | None = None, **kwargs: Any) -> Replies:
        """Take ``n`` processes (or slots) from the workers' pools, when they are free."""
        return self.broadcast("pool_shrink", {"n": n}, destination, **kwargs)

    def pool_restart(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,
        reloader: Any = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Replies:
        """Replace the processes of the pools, where ``worker_pool_restarts`` allows it.

        ``modules`` are imported (with ``reload`` again) by the new ones.
        """
        arguments = {"modules": modules, "reload": reload, "reloader": reloader}
        return self.broadcast("pool_restart", arguments, destination, **kwargs)

    def autoscale(
        self, max: int, min: int, destination: Sequence[str] | None = None, **kwargs: Any
    ) -> Replies:
        """Change the bounds between which workers that scale themselves do so."""
        return self.broadcast("autoscale", {"max": max, "min": min}, destination, **kwargs)

    def shutdown(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Replies:
        """Let workers stop as at SIGTERM."""
        return self.broadcast("shutdown", {}, destination, **kwargs)

    def heartbeat(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Replies:
        """Let workers send a heartbeat event at once."""
        return self.broadcast("heartbeat", {}, destination, **kwargs)

    def election(self, id: str, topic: str, action: Any = None, connection: Any = None) -> None:
        """Hold an election among Celery's workers; ours do not take part, for they agree in the store."""
        self.broadcast("election", {"id": id, "topic": topic, "action": action})


def signal_name(signal: str | int) -> str:
    """The name of a signal given by number or name, with or without SIG. Raises ``ValueError``."""
    if isinstance(signal, int):
        return os_signals.Signals(signal).name
    name = signal.upper() if signal.upper().startswith("SIG") else f"SIG{signal.upper()}"
    if name not in os_signals.Signals.__members__:
        raise ValueError(f"there is no signal {signal!r}")
    return name
