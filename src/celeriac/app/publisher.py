"""Publisher: from a call to messages in the broker.

:meth:`Publisher.build` writes a message (protocol 2) without any I/O; :meth:`Publisher.send` stores
messages within a bounded time.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from celeriac import clock, signals
from celeriac.app import ids, times
from celeriac.app.defaults import call_defaults, priority_of
from celeriac.app.state import Frame, worker_frame
from celeriac.app.watch import QueueWatch
from celeriac.canvas.signature import frozen_links
from celeriac.engines.base import Hold, Publication, Unique
from celeriac.exceptions import EncodeError, OperationalError
from celeriac.message import OWN_HEADER, Embed, Message, decode_body, encode_body, new_id, notes
from celeriac.routing.router import Target, has_own
from celeriac.routing.routes import PLACE

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.task import Task

T = TypeVar("T")

_NO_EMBED: Embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

_YEAR = 365 * 86400.0

_PROPERTIES = frozenset(
    ("expiration", "user_id", "app_id", "message_id", "type", "mandatory", "immediate", "cluster_id",
     "correlation_id", "content_encoding", "timestamp")
)  # fmt: skip
"""Options that become message properties."""

_OPTIONS = frozenset(
    ("add_to_parent", "argsrepr", "chain", "chord", "compression", "confirm_timeout", "connection",
     "countdown",
     "debounce", "delivery_mode", "eta", "exchange", "exchange_type", "expires", "group_id",
     "group_index", "headers",
     "ignore_result", "kwargsrepr", "link", "link_error", "parent_id", "priority", "queue",
     "replaced_task_nesting", "reply_to", "retries", "retry", "retry_policy", "root_id", "route_name",
     "routing_key", "serializer", "shadow", "soft_time_limit", "stamped_headers", "task_id", "time_limit",
     "timeout", "unique_for", "unique_key", "urgency")
)  # fmt: skip


_collected: ContextVar[list[Publication] | None] = ContextVar("celeriac_collected", default=None)


class _Behalf(NamedTuple):
    """For whom a message is sent, where it is not this process itself."""

    reply: str | None = None
    foreign: bool = False


_NOBODY = _Behalf()
_behalf: ContextVar[_Behalf] = ContextVar("celeriac_behalf", default=_NOBODY)


class Publisher:
    """Builds and sends the messages of one application."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app
        self.watch = QueueWatch(app)
        """Warns of queues that nobody takes from."""

    def build(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        task: Task[..., Any] | None = None,
        task_id: str | None = None,
        countdown: float | None = None,
        eta: Any = None,
        expires: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        chain: list[Any] | None = None,
        chord: Any = None,
        group_id: str | None = None,
        group_index: int | None = None,
        retries: int = 0,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        priority: int | None = None,
        urgency: str | None = None,
        serializer: str | None = None,
        compression: str | None = None,
        ignore_result: bool | None = None,
        headers: Mapping[str, Any] | None = None,
        reply_to: str | None = None,
        reply: str | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        delivery_mode: int | str | None = None,
        argsrepr: str | None = None,
        kwargsrepr: str | None = None,
        stamped_headers: list[str] | None = None,
        replaced_task_nesting: int = 0,
        route_name: str | None = None,
        unique: Unique | None = None,
        **options: Any,
    ) -> Publication:
        """Return the message of a call, addressed; nothing is sent.

        The options are those of ``Task.apply_async`` and mean the same; ``task`` gives the defaults of those
        that are not set, and ``route_name`` its name for routing. ``retries`` and ``reply`` (the client's
        address for the result, if it is not this process) serve the worker; ``unique`` is the condition of a
        call (``app.keys``). Raises ``EncodeError``, ``TypeError``, ``ValueError``, ``QueueNotFound``.
        """
        app = self._app
        kwargs = kwargs if kwargs is not None else {}
        stamps: dict[str, Any] = {}
        if link is not None:
            link = frozen_links(link, app)
        if link_error is not None:
            link_error = frozen_links(link_error, app)
        if stamped_headers:
            stamps = {key: options.pop(key, (headers or {}).get(key)) for key in stamped_headers}
        if options:
            _check_options(name, options)
        if urgency is not None:
            priority = priority_of(app, urgency, priority)
        place = {key: options[key] for key in PLACE if key in options}
        router = app.router
        if router.dynamic:
            given = {
                "task_id": task_id, "countdown": countdown, "eta": eta, "expires": expires,
                "priority": priority, "group_id": group_id, "serializer": serializer, "headers": headers,
                "retries": retries, **options,
            }  # fmt: skip
            told = {key: value for key, value in given.items() if value is not None}
            target = router.target(route_name or name, place, task, args, kwargs, told)
        else:
            target = router.target(route_name or name, place, task)
        defaults = call_defaults(app, task, target)
        frame = worker_frame()
        if frame is not None and frame.request.id != task_id:
            parent = frame.request
            root_id = root_id or parent.root_id or parent.id
            parent_id = parent_id or parent.id
            if priority is None and app.conf.task_inherit_parent_priority and parent.delivery_info:
                priority = _inherited_priority(parent.delivery_info, task, target)
        if priority is None:
            priority = defaults.priority
        if time_limit is None:
            time_limit = defaults.time_limit
        if soft_time_limit is None:
            soft_time_limit = defaults.soft_time_limit
        if time_limit is not None and soft_time_limit is not None and soft_time_limit > time_limit:
            raise ValueError("soft_time_limit must be less than or equal to time_limit")
        if ignore_result is None:
            ignore_result = defaults.ignore_result
        if expires is None:
            expires = defaults.expires
        when = times.NOW if countdown is None and eta is None else times.when(countdown, eta, app.timezone)
        task_id = task_id or new_id()
        if argsrepr is None or kwargsrepr is None:
            shown = app.redact.args_repr(task, args, kwargs)
            argsrepr = shown[0] if argsrepr is None else argsrepr
            kwargsrepr = shown[1] if kwargsrepr is None else kwargsrepr
        header: dict[str, Any] = {
            "lang": "py",
            "task": name,
            "id": task_id,
            "shadow": shadow,
            "eta": when.eta,
            "expires": None,
            "group": group_id,
            "group_index": group_index,
            "retries": retries,
            "timelimit": [time_limit, soft_time_limit],
            "root_id": root_id or task_id,
            "parent_id": parent_id,
            "argsrepr": argsrepr,
            "kwargsrepr": kwargsrepr,
            "origin": ids.origin(),
            "ignore_result": ignore_result,
            "replaced_task_nesting": replaced_task_nesting,
            "stamped_headers": stamped_headers,
            "stamps": stamps,
        }
        properties: dict[str, Any] = {
            "correlation_id": task_id,
            "reply_to": reply_to or ids.oid(),
            "delivery_mode": _delivery_mode(delivery_mode or defaults.delivery_mode),
            "delivery_info": {"exchange": target.exchange, "routing_key": target.routing_key},
            "priority": priority,
        }
        if expires is not None:
            header["expires"], seconds = times.expiry(expires, app.timezone)
            if seconds is not None:
                properties["expiration"] = str(int(seconds * 1000))
        if options:
            properties.update({k: v for k, v in options.items() if k in _PROPERTIES and v is not None})
            if "expiration" in options:
                properties["expiration"] = str(int(float(options["expiration"]) * 1000))
        if headers or "headers" in target.extra:
            header.update({**(target.extra.get("headers") or {}), **(headers or {})})
        body, content_type, encoding, added = encode_body(
            args,
            kwargs,
            _embed(link, link_error, chain, chord),
            serializer or defaults.serializer,
            compression or defaults.compression,
        )
        self.check_size(name, body)
        if added:
            header.update(added)
        held = when is not times.NOW and app.conf.broker_delay == "store"
        note: dict[str, Any] = {"sent": clock.now()}
        if held:
            note["held"] = True
        behalf = _behalf_of(frame)
        if behalf.foreign:
            note["foreign"] = True
        if not ignore_result:
            address = reply or behalf.reply or app.reply_address()
            if address is not None:
                note["reply"] = address
        if unique is not None and unique.until is Hold.ENDED:
            note["unique"] = unique.key
        header[OWN_HEADER] = note
        message = Message(header, properties, body, content_type, encoding)
        return Publication(
            message if app.signing is None else app.signing.sign(message),
            target.queue,
            priority,
            when.delay if held else None,
            when.due if held else None,
            target.exchange,
            target.routing_key,
            self._track(when) if not ignore_result and app.tracks_queued else None,
            unique,
            also=target.also,
        )

    @contextmanager
    def collecting(self) -> Iterator[list[Publication]]:
        """In this block (and thread, or coroutine) :meth:`send` only appends to the list that it gives.

        A worker stores follow-ups with it in the step that ends the task.
        """
        batch: list[Publication] = []
        token = _collected.set(batch)
        try:
            yield batch
        finally:
            _collected.reset(token)

    @contextmanager
    def together(self, options: Mapping[str, Any]) -> Iterator[None]:
        """What is sent in this block goes out at its end in one step, all or none; nothing if it raises.

        ``options`` may hold those of :meth:`send`.
        """
        with self.collecting() as batch:
            yield
        collected = _collected.get()
        if collected is not None:
            collected.extend(batch)
        elif batch:
            timeout = options.get("timeout")
            self._store(
                batch,
                options.get("confirm_timeout") if timeout is None else timeout,
                options.get("retry"),
                options.get("retry_policy"),
                options.get("connection"),
            )

    @contextmanager
    def on_behalf(self, reply: str | None, foreign: bool = False) -> Iterator[None]:
        """In this block messages are sent, outside of tasks, for the client with the address ``reply``.

        ``foreign`` notes that another program is behind it (``Notes.foreign``).
        """
        token = _behalf.set(_Behalf(reply, foreign))
        try:
            yield
        finally:
            _behalf.reset(token)

    def client(self) -> str | None:
        """The reply address of the client for which messages are sent here: this process's own, or that of
        whoever called the running task."""
        return _behalf_of(worker_frame()).reply or self._app.reply_address()

    @property
    def is_collecting(self) -> bool:
        """Whether what is sent here is only collected (:meth:`collecting`)."""
        return _collected.get() is not None

    def embed(self, options: Mapping[str, Any]) -> Embed:
        """What follows a call with these options, for its body."""
        return _embed(*(options.get(key) for key in ("link", "link_error", "chain", "chord")))

    def coding(
        self, name: str, task: Task[..., Any] | None, options: Mapping[str, Any]
    ) -> tuple[str, str | None]:
        """The serializer and compression of a call with these options."""
        place = {key: options[key] for key in PLACE if key in options}
        defaults = call_defaults(self._app, task, self._app.router.target(name, place, task))
        return (
            options.get("serializer") or defaults.serializer,
            options.get("compression") or defaults.compression,
        )

    def check_size(self, name: str, body: bytes) -> None:
        """Raise ``EncodeError`` if a body is larger than ``message_max_size``."""
        limit = self._app.conf.message_max_size
        if limit is not None and len(body) > limit:
            raise EncodeError(
                f"the arguments of {name} take {len(body)} bytes, more than message_max_size allows "
                f"({limit}): store them elsewhere and pass a reference, or raise the setting"
            )

    def _track(self, when: times.When) -> float:
        """For how long to remember that the task is queued: as long as its result would be kept, at least."""
        wait = when.delay or (max(0.0, when.due - clock.now()) if when.due is not None else 0.0)
        return wait + (self._app.conf.result_expires or _YEAR)

    def send(
        self,
        publications: Sequence[Publication],
        *,
        timeout: float | None = None,
        retry: bool | None = None,
        retry_policy: Mapping[str, Any] | None = None,
        connection: Any = None,
    ) -> dict[int, str]:
        """Store the messages, all or none but those whose unique key is held.

        With ``connection``, a database connection or session of the application's, they are stored in its
        transaction, by the PostgreSQL engine: they are there when it commits. Those left out are returned as
        ``Broker.publish`` returns them: index -> the task id that holds the key.

        A broker that cannot be reached is tried again as ``task_publish_retry_policy`` says, until
        ``broker_publish_timeout`` (or ``timeout``) seconds have passed in all; then ``OperationalError`` is
        raised. If the answer to a request got lost, the messages may be stored already: they are sent again
        only with an explicit ``retry=True``, under the same ids, and may then be there twice.
        """
        watched = self.watch.queues
        for publication in publications:
            if publication.queue not in watched:
                self.watch.begin(publication.queue)
            if publication.also:
                publications = _with_copies(publications)
        if signals.before_task_publish.receivers:
            self.announce_before(publications, retry_policy)
        collected = _collected.get()
        if collected is not None:
            collected.extend(publications)
            return {}
        return self._store(publications, timeout, retry, retry_policy, connection)

    def _store(
        self,
        publications: Sequence[Publication],
        timeout: float | None,
        retry: bool | None,
        retry_policy: Mapping[str, Any] | None,
        connection: Any = None,
    ) -> dict[int, str]:
        conf = self._app.conf
        if connection is not None:
            return self._store_within(connection, publications)
        started = time.monotonic()
        try:
            held = self._app.write_broker.publish(publications)
        except OperationalError as exc:
            policy = {**conf.task_publish_retry_policy, **(retry_policy or {})}
            wanted = conf.task_publish_retry if retry is None else retry
            held = self._send_again(
                publications, exc, started, policy if wanted else None, timeout, bool(retry)
            )
        if signals.after_task_publish.receivers:
            self.announce_after(p.message for index, p in enumerate(publications) if index not in held)
        return held

    def _store_within(self, connection: Any, publications: Sequence[Publication]) -> dict[int, str]:
        """Store the messages in the transaction of ``connection``."""
        publish_within = getattr(self._app.write_broker, "publish_within", None)
        if publish_within is None:
            raise TypeError(
                f"connection= is not supported on {self._app.broker_shown}: it stores a message in the "
                "transaction of a PostgreSQL connection. Elsewhere messages go over the application's own "
                "connections, which are shared and thread-safe. Leave it out, or use another Celeriac() for "
                "another broker"
            )
        held: dict[int, str] = publish_within(connection, publications)
        if signals.after_task_publish.receivers:
            self.announce_after(p.message for index, p in enumerate(publications) if index not in held)
        return held

    def _send_again(
        self,
        publications: Sequence[Publication],
        error: OperationalError,
        started: float,
        policy: Mapping[str, Any] | None,
        timeout: float | None,
        told: bool,
    ) -> dict[int, str]:
        seconds = self._app.conf.broker_publish_timeout if timeout is None else timeout
        deadline = started + seconds
        for pause in _pauses(policy):
            # The next attempt may take as long as the last one did.
            took = time.monotonic() - started
            if (error.maybe_done and not told) or time.monotonic() + pause + took >= deadline:
                break
            time.sleep(pause)
            started = time.monotonic()
            try:
                return self._app.write_broker.publish(publications)
            except OperationalError as exc:
                error = exc
        doubt = " The messages may have been stored: the answer got lost." if error.maybe_done else ""
        reason = str(error) if str(error).endswith((".", "?", "!")) else f"{error}."
        failed = OperationalError(
            f"{len(publications)} message(s) could not be sent to {self._app.broker_shown}: {reason}{doubt} "
            "Check that the broker runs and broker_url is right, then call again"
        )
        failed.maybe_done = error.maybe_done
        raise failed from error

    def patiently(self, step: Callable[[], T]) -> T:
        """Do something that may be repeated: again if the store is away, as often as messages are sent again
        (``task_publish_retry_policy``, within ``broker_publish_timeout``). Then ``OperationalError``."""
        conf = self._app.conf
        deadline = time.monotonic() + conf.broker_publish_timeout
        for pause in _pauses(conf.task_publish_retry_policy if conf.task_publish_retry else None):
            started = time.monotonic()
            try:
                return step()
            except OperationalError:
                if 2 * time.monotonic() - started + pause >= deadline:
                    raise
            time.sleep(pause)
        return step()

    def announce_before(
        self, publications: Sequence[Publication], retry_policy: Mapping[str, Any] | None = None
    ) -> None:
        """Send ``before_task_publish`` for messages that are about to be stored."""
        policy = {**self._app.conf.task_publish_retry_policy, **(retry_policy or {})}
        for publication in publications:
            message = publication.message
            body = _body(self._app, message)
            signals.before_task_publish.send(
                sender=message.headers["task"],
                body=body,
                exchange=publication.exchange,
                routing_key=publication.routing_key,
                declare=[self._app.queues[publication.queue]] if publication.queue else [],
                headers=message.headers,
                properties=message.properties,
                retry_policy=policy,
            )
            if self._app.signing is not None:
                # A receiver may have changed a header that is under the signature.
                publication.message = self._app.signing.renew(message)

    def announce_after(self, messages: Iterable[Message]) -> None:
        """Send ``after_task_publish`` for messages that have been stored."""
        for message in messages:
            place = message.properties["delivery_info"]
            signals.after_task_publish.send(
                sender=message.headers["task"],
                body=_body(self._app, message),
                headers=message.headers,
                exchange=place["exchange"],
                routing_key=place["routing_key"],
            )


def _body(app: Celeriac, message: Message) -> Any:
    if app.signing is not None:
        message = app.signing.open(message)
    return decode_body(message, {message.content_type})


def _pauses(policy: Mapping[str, Any] | None) -> Iterable[float]:
    """Seconds to wait before each repeat."""
    if policy is None:
        return
    pause = float(policy.get("interval_start", 0) or 0)
    step = float(policy.get("interval_step", 0.2) or 0)
    most = float(policy.get("interval_max", 1) or 0)
    limit = policy.get("max_retries", 3)
    attempt = 0
    while limit is None or attempt < limit:
        yield min(pause, most) if most else pause
        pause += step
        attempt += 1


def _with_copies(publications: Sequence[Publication]) -> list[Publication]:
    """The same with a publication for each further queue, at the end: the first ones keep their places."""
    return [
        *(msgspec.structs.replace(publication, also=()) for publication in publications),
        *(
            msgspec.structs.replace(publication, queue=queue, also=(), unique=None)
            for publication in publications
            for queue in publication.also
        ),
    ]


def _inherited_priority(info: Mapping[str, Any], task: Any, target: Target) -> int | None:
    """The priority of the task that sends this one, unless this one has its own."""
    own = has_own(task, "priority") or "priority" in target.extra or "urgency" in target.extra
    return None if own else info.get("priority")


def _behalf_of(frame: Frame | None) -> _Behalf:
    """What a running task sets off is for the client that waits for the task."""
    if frame is None:
        return _behalf.get()
    message = frame.request.message
    if message is None:
        return _NOBODY
    noted = notes(message)
    return _Behalf(noted.reply, noted.foreign or OWN_HEADER not in message.headers)


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    for key in ("producer", "publisher", "router"):
        if options.get(key) is not None:
            raise TypeError(
                f"{name}: {key}= is not supported: messages go over the application's own connections, "
                "which are shared and thread-safe. Leave it out, or use another Celeriac() for another broker"
            )
    for key in options.keys() - _OPTIONS - _PROPERTIES:
        near = _near_miss(key)
        if near:
            raise TypeError(f"{name}: there is no option {key!r} of apply_async; did you mean {near!r}?")


@lru_cache(maxsize=256)
def _near_miss(option: str) -> str | None:
    # Applications may have options of their own, which their routes and signal receivers read.
    return next(iter(difflib.get_close_matches(option, _OPTIONS, 1, 0.75)), None)


def _delivery_mode(mode: int | str | None) -> int:
    if mode in (1, "1", "transient"):
        return 1
    return 2


def _embed(link: Any, link_error: Any, chain: list[Any] | None, chord: Any) -> Embed:
    if link is None and link_error is None and chain is None and chord is None:
        return _NO_EMBED
    return {"callbacks": _listed(link), "errbacks": _listed(link_error), "chain": chain, "chord": chord}


def _listed(value: Any) -> list[Any] | None:
    if value is None:
        return None
    return list(value) if isinstance(value, list | tuple) else [value]
