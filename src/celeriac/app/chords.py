"""Chords: a body that runs once when its header is done (DESIGN, G10).

The store counts the header's parts and knows when the body is owed (``engines.groups``). Here stands what it
cannot know: how a part is written, and what an owed body becomes. It is the body's message if every part is
a success; else a :class:`~celeriac.exceptions.ChordError` for the body and for all that would have followed.
Either goes out in the step that ends the owed entry, with ids that were fixed beforehand: whoever dies in
between, the next one to take the entry does the same again, and only one of them is believed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from celeriac import serialization, states
from celeriac.app.errbacks import call_errbacks, runs_here
from celeriac.app.request import Context
from celeriac.app.results import shortened
from celeriac.app.state import worker_frame
from celeriac.app.unreached import unreached
from celeriac.canvas import maybe_signature
from celeriac.canvas.signature import listed, plain
from celeriac.engines.base import Hold, Publication, Unique
from celeriac.engines.groups import OWED_AGAIN, ChordPart, Owed
from celeriac.engines.results import ResultRecord
from celeriac.exceptions import ChordError, EncodeError, Fenced, ImproperlyConfigured, OperationalError
from celeriac.message import OWN_HEADER, Message, note_sent_before, notes

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.canvas.signature import Signature
    from celeriac.engines.results import ResultBackend

logger = logging.getLogger("celeriac.app.chords")

_DAY = 86400.0


class Chords:
    """``app.chords``: the chords of one application."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app

    def open(self, group: str, size: int, body: Signature, ttl_extra: float = 0.0) -> None:
        """Begin the chord ``group``, whose header has ``size`` tasks, before they are published.

        ``body`` must be frozen. ``ttl_extra``: seconds to keep the chord beyond ``result_chord_expires``, for
        a header with delayed tasks. Repeating it is harmless. Raises ``ImproperlyConfigured`` if results
        are turned off, ``EncodeError`` if the body cannot be written down, ``OperationalError`` if the store
        cannot be reached within ``broker_publish_timeout``.
        """
        frame = worker_frame()
        parent = frame.request if frame is not None else None
        plan = _Plan(
            plain(body),
            reply=self._app.publisher.client(),
            root_id=(parent.root_id or parent.id) if parent is not None else None,
            parent_id=parent.id if parent is not None else None,
        )
        ttl = self._ttl()
        until = None if ttl is None else ttl + ttl_extra
        backend, written = self._backend(), self._encode_plan(plan)
        self._app.publisher.patiently(lambda: backend.open_chord(group, size, written, until))

    def part(
        self,
        task_id: str,
        group: str,
        index: int | None,
        state: str,
        value: Any,
        *,
        chord: Mapping[str, Any] | None = None,
        ours: bool = True,
        root_id: str | None = None,
        grow: int = 0,
    ) -> ChordPart:
        """How a task of the header of ``group`` ended: ``value`` is its result, or the exception.

        ``chord`` is the body as the task's message has it. Unless the chord is surely ``ours`` (see
        :func:`is_ours`), the part brings it along. Raises ``EncodeError`` if a result cannot be serialised.
        """
        body = None
        if chord is not None and not ours:
            body = self._encode_plan(_Plan(plain(chord), root_id=root_id, foreign=True))
        payload = self._payload(task_id, state, value)
        return ChordPart(group, task_id, index, payload, self._ttl(), body, grow)

    def part_of(self, request: Context, state: str, value: Any, grow: int = 0) -> ChordPart | None:
        """The same for the task that ``request`` describes; ``None`` if it is in no chord."""
        if request.chord is None or not request.group or not request.id:
            return None
        return self.part(
            request.id, request.group, request.group_index, state, value, chord=request.chord,
            ours=is_ours(request.message), root_id=request.root_id, grow=grow,
        )  # fmt: skip

    def unreached(
        self,
        signatures: Iterable[Any],
        state: str,
        error: BaseException,
        *,
        reply: str | None = None,
        ours: bool = True,
    ) -> tuple[list[ResultRecord], list[ChordPart]]:
        """States and parts of all tasks of these calls, which will never run because of ``error``."""
        records, parts = [], []
        for task in unreached(signatures):
            request = Context(
                None, task.args, task.kwargs, id=task.task_id, task=task.name, group=task.group,
                root_id=task.root_id, parent_id=task.parent_id,
            )  # fmt: skip
            record = self._app.results.record(state, error, request)
            record.reply = reply
            records.append(record)
            if task.chord is not None and task.group:
                parts.append(
                    self.part(
                        task.task_id,
                        task.group,
                        task.group_index,
                        state,
                        error,
                        chord=task.chord,
                        ours=ours,
                        root_id=task.root_id,
                    )
                )
        return records, parts

    # -- the end of a header -----------------------------------------------------------------------------

    def finish(self, group: str, by: str, again: bool = False) -> bool:
        """Send the owed body of ``group``, or fail it, under the taker's name ``by``.

        ``again``: another taker may have sent it before it died.

        Returns whether that has been done here: ``False`` if it is not owed, or another is at it. What
        becomes owed by it (a chord whose header this one's body was in) is finished as well. Raises
        ``OperationalError`` if a store is away; then the body stays owed.
        """
        done = self._finish(group, by, again)
        waiting = list(done or ())
        while waiting:
            waiting.extend(self._finish(waiting.pop(), by) or ())
        return done is not None

    def recover(self, by: str) -> int:
        """Finish what is owed and nobody is at; return how many bodies that were."""
        backend = self._app.backend
        count = 0
        for group in backend.owed() if backend is not None else ():
            try:
                count += self.finish(group, by, again=True)
            except OperationalError:
                raise
            except Exception:
                logger.exception("Cannot finish the chord %s: its body stays owed", group)
        return count

    def _finish(self, group: str, by: str, again: bool = False) -> list[str] | None:
        backend = self._backend()
        owed = backend.take_owed(group, by)
        if owed is None:
            return None
        if owed.body is None:
            logger.error("The chord %s is done, but no task of its header brought its body: dropped", group)
            return backend.settle_owed(group, by)
        end = self._end_of(owed, by, owed.body)
        if not self._app.fused:
            self._publish_apart(group, end.publications, again)
            end = end._replace(publications=())
        return backend.settle_owed(group, by, *end)

    def _end_of(self, owed: Owed, by: str, written: bytes) -> _End:
        plan = msgspec.convert(self._app.results.reader()(written), _Plan)
        body = maybe_signature(plan.body, app=self._app)
        with self._app.publisher.on_behalf(plan.reply, plan.foreign):
            try:
                return _End(self._sent(plan, body, self._results(owed, plan.foreign)))
            except ChordError as error:
                failure = error
            except (OperationalError, Fenced):
                raise
            except Exception as error:
                failure = ChordError(f"Callback error: {error!r}")
                failure.__cause__ = error
            logger.error("The chord %s has failed: %s", owed.group, failure)
            with self._holding(owed.group, by, body):
                return self._failed(plan, body, failure)

    def _sent(self, plan: _Plan, body: Signature, results: list[Any]) -> list[Publication]:
        family = {"root_id": plan.root_id, "parent_id": plan.parent_id}
        own = body["options"]
        options: dict[str, Any] = {k: v for k, v in family.items() if v and not own.get(k)}
        with self._app.publisher.collecting() as batch:
            body.apply_async((results,), **options)
        return batch

    def _failed(self, plan: _Plan, body: Signature, error: ChordError) -> _End:
        # As in Celery, the tasks of a group hear of the error itself, all else of the chord's.
        cause = error.__cause__ if body["subtask_type"] == "group" and error.__cause__ else error
        following = body["options"].get("chain") or []
        records: list[ResultRecord] = []
        parts: list[ChordPart] = []
        alone = {**body, "options": {**body["options"], "chain": None}}
        for signature, reason in ((alone, cause), *((step, error) for step in reversed(following))):
            more = self.unreached(
                [signature], states.FAILURE, reason, reply=plan.reply, ours=not plan.foreign
            )
            records.extend(more[0])
            parts.extend(more[1])
        with self._app.publisher.collecting() as batch:
            for request in _bereaved(body, plan):
                call_errbacks(self._app, request.errbacks or (), request, cause, None)
        return _End(batch, records, parts)

    def _results(self, owed: Owed, foreign: bool) -> list[Any]:
        """The header's results; raises ``ChordError`` for the first part that is an error."""
        backend = self._backend()
        read = self._app.results.reader()
        saved = backend.fetch_group(owed.group) if foreign else None
        if saved is not None:
            return self._structured(read(saved)["result"])
        results = []
        for payload in owed.parts:
            _, task_id, state, value = read(payload)
            if state in states.PROPAGATE_STATES:
                raise _dependency(task_id, value)
            results.append(value)
        return results

    def _structured(self, group: Any) -> list[Any]:
        """Results in the form of a saved ``GroupResult``, ``[[id, parent], [members]]``, which Celery saves
        where groups are in a header: each such group is a list of results."""
        ids = list(_leaves(group))
        found = self._backend().fetch(ids)

        def value(node: Any) -> Any:
            (task_id, _), members = _node(node)
            if members is not None:
                return [value(member) for member in members]
            if task_id not in found:
                raise ChordError(f"the result of {task_id}, a task of the chord's header, no longer exists")
            meta = self._app.results.decode(found[task_id], task_id)
            if meta["status"] in states.PROPAGATE_STATES:
                raise _dependency(task_id, meta["result"])
            return meta["result"]

        results: list[Any] = value(group)
        return results

    def _publish_apart(self, group: str, publications: Sequence[Publication], again: bool) -> None:
        """Send to a broker that is not the results' store: the second one to do so is refused by the key,
        so that a taker which died before it settled has not sent them for nothing, or twice.

        RabbitMQ cannot refuse it: there whoever gets the second copy looks for the result of the first.
        """
        for number, publication in enumerate(publications):
            publication.unique = Unique(f"chord:{group}:{number}", _DAY, Hold.EXPIRY)
            if again:
                note_sent_before(publication.message)
        if publications:
            self._app.write_broker.publish(publications)

    @contextmanager
    def _holding(self, group: str, by: str, body: Signature) -> Iterator[None]:
        """Keep the owed entry ours for as long as error callbacks run here, which may take their time."""
        if not any(runs_here(self._app, maybe_signature(e, self._app)) for e in _errbacks_in(body)):
            yield
            return
        over = threading.Event()
        backend = self._backend()

        def renew() -> None:
            while not over.wait(OWED_AGAIN / 3):
                try:
                    backend.take_owed(group, by)
                except OperationalError as error:
                    logger.warning("Cannot renew the hold on the chord %s: %s", group, error)

        thread = threading.Thread(target=renew, name="celeriac-chord", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    # -- in the store ------------------------------------------------------------------------------------

    def _payload(self, task_id: str, state: str, value: Any) -> bytes:
        def dumps(result: Any) -> bytes:
            return self._app.results.write([1, task_id, state, result], {"result": result})

        if not isinstance(value, BaseException) or state not in states.EXCEPTION_STATES:
            return dumps(value)
        try:
            return dumps(serialization.encode_exception(value))
        except EncodeError as refusal:
            return dumps(serialization.encode_exception(shortened(value, refusal)))

    def _encode_plan(self, plan: _Plan) -> bytes:
        written = msgspec.structs.asdict(plan)
        return self._app.results.write(written, {"body": plan.body})

    def _ttl(self) -> float | None:
        conf = self._app.conf
        ttl = conf.result_expires if conf.result_chord_expires is None else conf.result_chord_expires
        return float(ttl) if ttl else None

    def _backend(self) -> ResultBackend:
        backend = self._app.backend
        if backend is None:
            raise ImproperlyConfigured(
                "a chord needs a store for its results, and result_backend turns them off: set it to "
                "SQLite, PostgreSQL or Redis, or leave it out where the broker can keep results"
            )
        return backend


def is_ours(message: Message | None) -> bool:
    """Whether the chord of this task was surely begun by Celeriac: then the store knows its body."""
    return message is None or (OWN_HEADER in message.headers and not notes(message).foreign)


class _Plan(msgspec.Struct):
    """What is kept of an open chord until its header is done."""

    body: dict[str, Any]
    reply: str | None = None
    """The address of the client that began it."""
    root_id: str | None = None
    parent_id: str | None = None
    foreign: bool = False
    """Another program has begun it."""


class _End(NamedTuple):
    """What is stored when an owed body is settled."""

    publications: Sequence[Publication] = ()
    records: Sequence[ResultRecord] = ()
    parts: Sequence[ChordPart] = ()


def _dependency(task_id: str, value: Any) -> ChordError:
    cause = serialization.decode_exception(value) if isinstance(value, Mapping) else value
    error = ChordError(f"Dependency {task_id} raised {cause!r}")
    if isinstance(cause, BaseException):
        error.__cause__ = cause
    return error


def _bereaved(body: Mapping[str, Any], plan: _Plan) -> list[Context]:
    """For each task whose error callbacks must hear that the body failed, what to tell them.

    Of a chain these are the first step's and its own, told the id of the last step; of a chord the body's
    and its own; of a group each task's, and its own with each.
    """
    kind, inner, options = body.get("subtask_type"), body.get("kwargs") or {}, body.get("options") or {}
    if kind == "group":
        found = [request for task in inner.get("tasks") or () for request in _bereaved(task, plan)]
    elif kind == "chain":
        steps = inner.get("tasks") or [{"task": ""}]
        found = _bereaved(steps[0], plan)
        last = [task.task_id for task in unreached([steps[-1]])]
        if last and len(found) == 1:
            found[0].update(id=last[-1])
    elif kind == "chord":
        found = _bereaved(inner.get("body") or {"task": ""}, plan)
    else:
        found = [
            Context(
                None, body.get("args"), body.get("kwargs"), id=options.get("task_id"), task=body["task"],
                group=options.get("group_id"), chord=options.get("chord"), called_directly=False,
                root_id=options.get("root_id") or plan.root_id, errbacks=[],
                parent_id=options.get("parent_id") or plan.parent_id,
            )
        ]  # fmt: skip
    for request in found:
        errbacks = request.errbacks if request.errbacks is not None else []
        errbacks.extend(e for e in listed(options.get("link_error")) if e not in errbacks)
    return found


def _errbacks_in(body: Mapping[str, Any]) -> Iterator[Any]:
    for request in _bereaved(body, _Plan({})):
        yield from request.errbacks or ()


def _leaves(node: Any) -> Iterator[str]:
    (task_id, _), members = _node(node)
    if members is None:
        yield task_id
    for member in members or ():
        yield from _leaves(member)


def _node(node: Any) -> Any:
    """A result's tuple; its first half may be the id alone, in old Celery's form."""
    first, members = node
    return (first if isinstance(first, list | tuple) else (first, None)), members
