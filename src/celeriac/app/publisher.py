"""Publisher: from a call to messages in the broker.

:meth:`Publisher.build` writes a message (protocol 2) without any I/O; :meth:`Publisher.send` stores
messages within a bounded time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from celeriac import clock, signals
from celeriac.app import times
from celeriac.app.defaults import complete, priority_of
from celeriac.app.headers import embed_of, head_of
from celeriac.app.options import CallOptions, check_others, read_options
from celeriac.app.state import Frame, worker_frame
from celeriac.app.watch import QueueWatch
from celeriac.canvas.signature import frozen_links
from celeriac.engines.base import Hold, Publication, Unique
from celeriac.exceptions import EncodeError, OperationalError, StoreFull
from celeriac.message import OWN_HEADER, Message, decode_body, encode_body, new_id, notes
from celeriac.routing.router import Target, has_own
from celeriac.routing.routes import PLACE

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.task import Task

T = TypeVar("T")

_YEAR = 365 * 86400.0

_FOR_ROUTES = (
    "task_id", "countdown", "eta", "expires", "priority", "group_id", "serializer", "headers", "retries",
)  # fmt: skip
"""What routes with arguments are told of a call, beside the options that are not its message's own."""

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
        reply: str | None = None,
        unique: Unique | None = None,
        **options: Any,
    ) -> Publication:
        """Return the message of a call, addressed; nothing is sent.

        The options are those of ``Task.apply_async`` and mean the same (:class:`CallOptions`); ``task`` gives
        the defaults of those that are not set. ``reply`` is the client's address for the result, if it is not
        this process; ``unique`` is the condition of a call (``app.keys``). Raises ``EncodeError``,
        ``TypeError``, ``ValueError``, ``QueueNotFound``.
        """
        app = self._app
        kwargs = kwargs if kwargs is not None else {}
        call, others = read_options(options)
        stamps = call.take_stamps(others) if call.stamped_headers else {}
        if others:
            check_others(name, others)
        frame = worker_frame()
        target = self._address(call, name, args, kwargs, task, others, frame)
        timed = call.countdown is not None or call.eta is not None
        when = times.when(call.countdown, call.eta, app.timezone) if timed else times.NOW
        if call.argsrepr is None or call.kwargsrepr is None:
            call.show(*app.redact.args_repr(task, args, kwargs))
        headers, properties = head_of(app, name, call, target, others, when.eta, stamps)
        embed = embed_of(call.link, call.link_error, call.chain, call.chord)
        body, content_type, encoding, added = encode_body(
            args, kwargs, embed, call.serializer, call.compression
        )
        self.check_size(name, body)
        if added:
            headers.update(added)
        held = when is not times.NOW and app.conf.broker_delay == "store"
        headers[OWN_HEADER] = self._note(held, _behalf_of(frame), reply, unique, call.ignore_result)
        if unique is not None and unique.until is Hold.ENDED:
            # The time counts from when it falls due: it shall be held while it waits.
            unique = msgspec.structs.replace(unique, ttl=unique.ttl + _wait(when))
        message = Message(headers, properties, body, content_type, encoding)
        return Publication(
            message if app.signing is None else app.signing.sign(message),
            target.queue,
            properties["priority"],
            when.delay if held else None,
            when.due if held else None,
            target.exchange,
            target.routing_key,
            self._track(when) if not call.ignore_result and app.tracks_queued else None,
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

    def coding(
        self, name: str, task: Task[..., Any] | None, options: Mapping[str, Any]
    ) -> tuple[str, str | None]:
        """The serializer and compression of a call with these options."""
        call, others = read_options(dict(options))
        place = {key: others[key] for key in PLACE if key in others}
        complete(call, self._app, task, self._app.router.target(name, place, task))
        return call.serializer, call.compression

    def check_size(self, name: str, body: bytes) -> None:
        """Raise ``EncodeError`` if a body is larger than ``message_max_size``."""
        limit = self._app.conf.message_max_size
        if limit is not None and len(body) > limit:
            raise EncodeError(
                f"the arguments of {name} take {len(body)} bytes, more than message_max_size allows "
                f"({limit}): store them elsewhere and pass a reference, or raise the setting"
            )

    def _address(
        self,
        call: CallOptions,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        task: Task[..., Any] | None,
        others: Mapping[str, Any],
        frame: Frame | None,
    ) -> Target:
        """Find out where the call goes, and with that fill in what it does not say itself."""
        app = self._app
        if call.link is not None:
            call.link = frozen_links(call.link, app)
        if call.link_error is not None:
            call.link_error = frozen_links(call.link_error, app)
        if call.urgency is not None:
            call.priority = priority_of(app, call.urgency, call.priority)
        place = {key: others[key] for key in PLACE if key in others} if others else None
        router = app.router
        if router.dynamic:
            given = {key: getattr(call, key) for key in _FOR_ROUTES}
            told = {k: v for k, v in {**given, **others}.items() if v is not None}
            target = router.target(call.route_name or name, place, task, args, kwargs, told)
        else:
            target = router.target(call.route_name or name, place, task)
        if frame is not None and frame.request.id != call.task_id:
            parent = frame.request
            call.root_id = call.root_id or parent.root_id or parent.id
            call.parent_id = call.parent_id or parent.id
            if call.priority is None and app.conf.task_inherit_parent_priority and parent.delivery_info:
                call.priority = _inherited_priority(parent.delivery_info, task, target)
        complete(call, app, task, target)
        call.task_id = call.task_id or new_id()
        return target

    def _note(
        self,
        held: bool,
        behalf: _Behalf,
        reply: str | None,
        unique: Unique | None,
        ignore_result: bool | None,
    ) -> dict[str, Any]:
        """The header of our own."""
        note: dict[str, Any] = {"sent": clock.now()}
        if held:
            note["held"] = True
        if behalf.foreign:
            note["foreign"] = True
        if not ignore_result:
            address = reply or behalf.reply or self._app.reply_address()
            if address is not None:
                note["reply"] = address
        if unique is not None and unique.until is Hold.ENDED:
            note["unique"] = unique.key
        return note

    def _track(self, when: times.When) -> float:
        """For how long to remember that the task is queued: as long as its result would be kept, at least."""
        return _wait(when) + (self._app.conf.result_expires or _YEAR)

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
        watched, copied = self.watch.queues, False
        for publication in publications:
            if publication.queue not in watched:
                self.watch.begin(publication.queue)
            if publication.also:
                copied = True
        if copied:
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
        if conf.task_send_sent_event:
            self._app.events.sent([p for index, p in enumerate(publications) if index not in held])
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
        full = isinstance(error, StoreFull)
        advice = "Make room there" if full else "Check that the broker runs and broker_url is right"
        again = " (a task with unique_for= is not stored twice)" if error.maybe_done else ""
        failed = OperationalError(
            f"{len(publications)} message(s) could not be sent to {self._app.broker_shown}: {reason}{doubt} "
            f"{advice}, then call again{again}"
        )
        failed.maybe_done = error.maybe_done
        raise failed from error

    def patiently(self, step: Callable[[], T], retry_policy: Mapping[str, Any] | None = None) -> T:
        """Do something that may be repeated: again if the store is away, as often as messages are sent again
        (``task_publish_retry_policy``, within ``broker_publish_timeout``). Then ``OperationalError``."""
        conf = self._app.conf
        policy = {**conf.task_publish_retry_policy, **(retry_policy or {})}
        deadline = time.monotonic() + conf.broker_publish_timeout
        for pause in _pauses(policy if conf.task_publish_retry else None):
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


def _wait(when: times.When) -> float:
    """Seconds until a message falls due."""
    return when.delay or (max(0.0, when.due - clock.now()) if when.due is not None else 0.0)


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
