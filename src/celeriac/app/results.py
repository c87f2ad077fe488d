"""ResultFormat: a task's state as it is stored, in Celery's form."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celeriac import clock, serialization, states
from celeriac.engines.results import ResultRecord
from celeriac.exceptions import DecodeError, EncodeError, SecurityError
from celeriac.message import notes
from celeriac.saferepr import shown

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.app.request import Context
    from celeriac.task import Task

logger = logging.getLogger(__name__)

_COMPRESSED = b"\0celery-compressed\0"
"""Stands before a compressed payload, then the method's label and a zero byte."""

_PROGRESS_PAUSE = 0.1
"""Seconds between two reports of a task's progress that are stored."""

_SHORTENED = 500
"""Characters kept of an exception that is too large to be stored."""


class ResultFormat:
    """Writes and reads the stored results of one application."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app

    def record(
        self,
        state: str,
        value: Any,
        request: Context | None,
        *,
        traceback: str | None = None,
        task_id: str | None = None,
    ) -> ResultRecord:
        """Return a state of the task that ``request`` describes, ready to be stored.

        ``value`` is the result, or the exception in the states that have one. Raises ``EncodeError`` if a
        result cannot be serialised or is larger than ``result_max_size``. An exception always ends in a
        record: one that is too large is replaced by its beginning, without its traceback.
        """
        if not isinstance(value, BaseException):
            return self._record(state, value, request, traceback, task_id)
        try:
            return self._record(state, value, request, traceback, task_id)
        except EncodeError as error:
            short = shortened(value, error)
            return self._record(state, short, request, None, task_id, limited=False)

    def _record(
        self,
        state: str,
        value: Any,
        request: Context | None,
        traceback: str | None,
        task_id: str | None,
        limited: bool = True,
    ) -> ResultRecord:
        conf = self._app.conf
        identifier = task_id or (request.id if request is not None else None)
        if not identifier:
            raise ValueError("a result needs the task's id")
        if state in states.EXCEPTION_STATES and isinstance(value, BaseException):
            value = serialization.encode_exception(value)
        meta: dict[str, Any] = {
            "status": state,
            "result": value,
            "traceback": traceback,
            "children": _children(request),
            "date_done": clock.utcnow().isoformat() if state in states.READY_STATES else None,
        }
        if request is not None:
            if request.group:
                meta["group_id"] = request.group
            if request.parent_id:
                meta["parent_id"] = request.parent_id
            if conf.result_extended:
                meta.update(self._extended(request))
            if (
                state == states.RETRY and self._app.looks_back
            ):  # by which another copy of the message is known
                meta["retries"], meta["retried"] = request.retries, clock.now()
        meta["task_id"] = identifier
        ttl = conf.result_expires
        if state == states.FAILURE and conf.result_failure_expires is not None:
            ttl = conf.result_failure_expires
        payload = self.encode(meta, limited)
        message = request.message if request is not None else None
        reply = notes(message).reply if message is not None else None
        if reply is None and message is not None and getattr(self._app.backend, "sends_replies", False):
            reply = message.properties.get("reply_to")
        return ResultRecord(identifier, state, payload, float(ttl) if ttl else None, reply)

    def encode(self, meta: dict[str, Any], limited: bool = True) -> bytes:
        """Return a stored result's bytes: serialised by ``result_serializer``, perhaps compressed.

        Raises ``EncodeError``, over ``result_max_size`` too if ``limited``.
        """
        return self._dumps(meta, {"result": meta["result"], "meta": meta}, limited)

    def encode_group(self, group: Any) -> bytes:
        """Return the bytes under which a group's list of results (``GroupResult.as_tuple``) is saved."""
        return self._dumps({"result": group}, {"group": group}, limited=False)

    def decode_group(self, payload: bytes) -> Any:
        """Return what :meth:`encode_group` was given. Raises as :meth:`decode`."""
        saved = self.reader()(payload)
        if not isinstance(saved, dict) or "result" not in saved:
            raise DecodeError("the stored group is not an object with a result")
        return saved["result"]

    def _dumps(self, value: Any, parts: dict[str, Any], limited: bool) -> bytes:
        conf = self._app.conf
        _, _, payload = serialization.dumps(value, conf.result_serializer, parts)
        limit = conf.result_max_size if limited else None
        if limit is not None and len(payload) > limit:
            raise EncodeError(
                f"the result takes {len(payload)} bytes, more than result_max_size allows ({limit}): "
                "store it elsewhere and return a reference, or raise the setting"
            )
        if conf.result_compression:
            payload, label = serialization.compress(payload, conf.result_compression)
            payload = _COMPRESSED + label.encode() + b"\0" + payload
        return self._sealed(payload)

    def write(self, value: Any, names: dict[str, Any]) -> bytes:
        """Return what is kept beside results (parts of chords) in their form, to be read by :meth:`reader`.

        Raises ``EncodeError`` that speaks of the value's parts by these names.
        """
        return self._sealed(serialization.dumps(value, self._app.conf.result_serializer, names)[2])

    def _sealed(self, payload: bytes) -> bytes:
        signing = self._app.signing
        return payload if signing is None else signing.sign_result(payload)

    def decode(self, payload: bytes, task_id: str | None = None) -> dict[str, Any]:
        """Return what was stored, its exception made again.

        Where results are signed, ``task_id`` says whose result it must be. Raises ``DecodeError`` for bytes
        that are not a result, ``ContentDisallowed`` for a format that ``result_accept_content`` does not
        allow, ``SecurityError`` for one whose signature is missing or wrong where results are signed.
        """
        meta = self.reader()(payload)
        if not isinstance(meta, dict) or "status" not in meta:
            raise DecodeError("the stored result is not an object with a status")
        if self._app.signing is not None and task_id is not None and meta.get("task_id") != task_id:
            raise SecurityError(f"what is stored as the result of {task_id} is that of another task")
        if meta["status"] in states.EXCEPTION_STATES and meta.get("result") is not None:
            meta["result"] = serialization.decode_exception(meta["result"])
        return meta

    def reader(self) -> Callable[[bytes], Any]:
        """A function that reads what ``result_serializer`` wrote, if ``result_accept_content`` allows it.

        It raises as :meth:`decode`.
        """
        conf, signing = self._app.conf, self._app.signing
        form = serialization.serializer(conf.result_serializer)
        accept = conf.result_accept_content
        accepted = serialization.ensure_accept(conf.accept_content if accept is None else accept)

        def read(payload: bytes) -> Any:
            if signing is not None:
                payload = signing.open_result(payload)
            if payload.startswith(_COMPRESSED):
                label, _, payload = payload[len(_COMPRESSED) :].partition(b"\0")
                payload = serialization.decompress(payload, label.decode("utf-8", "replace"))
            return serialization.loads(payload, form.content_type, form.content_encoding, accepted)

        return read

    def progress(
        self, task: Task[..., Any], done: float, total: float | None, note: str
    ) -> dict[str, Any] | None:
        """The ``meta`` that tells how far a task has come (``Task.progress``); ``None`` if it has told that a
        moment ago, and this is not the last one."""
        request = task.request
        now = time.monotonic()
        finished = total is not None and done >= total
        if not finished and now - request._progressed < _PROGRESS_PAUSE and not request.is_eager:
            return None
        request._progressed = now
        return {"current": done, "total": total, "note": note}

    def update(self, task: Task[..., Any], task_id: str | None, state: str | None, meta: Any) -> None:
        """Store a state of the user's own (``Task.update_state``).

        Without an id, which a task called directly has not, and in eager mode unless results of eager
        tasks are stored, there is nothing to store to, and nothing happens.
        """
        if state is None:
            raise TypeError('update_state needs a state: update_state(state="PROGRESS", meta={...})')
        request = task.request
        identifier = task_id or request.id
        if request.is_eager and identifier == request.id:
            request._update = {"status": state, "result": meta}
        if not identifier or (request.is_eager and not task.store_eager_result):
            return
        backend = task.backend
        if backend is None:
            return
        own = identifier == request.id
        record = self.record(state, meta, request if own else None, task_id=identifier)
        if own:
            record.lease = request.lease
        if backend.store([record]):
            logger.warning(
                "Task %s[%s]: the state %s was not stored: the task has ended, or its lease is lost",
                task.name, identifier, state,
            )  # fmt: skip

    def _extended(self, request: Context) -> dict[str, Any]:
        app, info = self._app, request.delivery_info or {}
        args, kwargs = app.redact.arguments(
            app.registry.get(request.task_name or ""), request.args, request.kwargs
        )
        more = {
            "name": request.task_name,
            "args": args,
            "kwargs": kwargs,
            "worker": request.hostname,
            "retries": request.retries,
            "queue": request.queue or info.get("routing_key"),
        }
        if request.stamps:
            more["stamped_headers"] = request.stamped_headers
            more.update({k: v for k, v in request.stamps.items() if k in (request.stamped_headers or ())})
        return more


def shortened(error: BaseException, refusal: EncodeError) -> EncodeError:
    """What is stored for an error that cannot be stored in full because of ``refusal``."""
    text = f"{type(error).__name__}: {shown(error, str)}"
    return EncodeError(f"{text[:_SHORTENED]} (not stored in full: {refusal})")


def _children(request: Context | None) -> list[Any]:
    if request is None or request._children is None:
        return []
    return [child.as_tuple() for child in request._children]
