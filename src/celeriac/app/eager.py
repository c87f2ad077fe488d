"""Eager mode: tasks run in the caller's process, as a worker would run them."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import socket
import threading
import time
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from celeriac import serialization, signals, states
from celeriac.app.einfo import ExceptionInfo
from celeriac.app.errbacks import call_errbacks
from celeriac.app.request import Context
from celeriac.app.state import denied_join_result, running
from celeriac.canvas.signature import listed, maybe_signature
from celeriac.exceptions import Ignore, Reject, Retry
from celeriac.message import new_id
from celeriac.result import EagerResult

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.app.checkpoint import Checkpoint
    from celeriac.task import Task


class Eager:
    """Runs tasks of one application here and now."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app

    def apply_async(
        self, task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], **options: Any
    ) -> EagerResult[Any]:
        """What ``apply_async`` does under ``task_always_eager``.

        The arguments go through the serializer, so that what could not be sent fails here as well.
        """
        name = options.get("serializer") or task.serializer
        content_type, encoding, data = serialization.dumps(
            [list(args), dict(kwargs)], name, {"args": args, "kwargs": kwargs}
        )
        args, kwargs = serialization.loads(data, content_type, encoding, {content_type})
        with denied_join_result():
            return task.apply(tuple(args), kwargs, **options)

    def apply(
        self,
        task: Task[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int = 0,
        throw: bool | None = None,
        logfile: str | None = None,
        loglevel: int | None = None,
        headers: Mapping[str, Any] | None = None,
        _checkpoint: Checkpoint | None = None,
        **options: Any,
    ) -> EagerResult[Any]:
        """See ``Task.apply``. Retries run at once, without their delay, and find what the attempt before
        them kept (``_checkpoint``)."""
        propagate = self._app.conf.task_eager_propagates if throw is None else throw
        task_id = task_id or new_id()
        parent = running.get()
        request = Context(
            None, args, kwargs, hostname=socket.gethostname(), called_directly=False, is_eager=True,
            id=task_id, task=task.name, retries=retries or 0, callbacks=listed(link) or None,
            errbacks=listed(link_error) or None, logfile=logfile, loglevel=loglevel or 0,
            headers=dict(headers) if headers else None, correlation_id=task_id,
            ignore_result=bool(options.get("ignore_result", task.ignore_result)),
            root_id=options.get("root_id") or (parent.request.root_id if parent else None) or task_id,
            parent_id=options.get("parent_id") or (parent.request.id if parent else None),
            group=options.get("group_id"), group_index=options.get("group_index"),
            stamped_headers=options.get("stamped_headers"),
            stamps={name: options.get(name) for name in options.get("stamped_headers") or ()},
            delivery_info={
                "is_eager": True, "exchange": options.get("exchange"), "redelivered": False,
                "routing_key": options.get("routing_key"), "priority": options.get("priority"),
            },
            **(headers or {}),
        )  # fmt: skip
        request._checkpoint = _checkpoint
        run = _Run(task, request, propagate)
        result = run.execute()
        if run.next is not None:
            return self.apply(
                task, tuple(run.next["args"]), dict(run.next["kwargs"]), link=link, link_error=link_error,
                task_id=task_id, retries=request.retries + 1, throw=throw, logfile=logfile,
                loglevel=loglevel, headers=headers, _checkpoint=request._checkpoint, **options,
            )  # fmt: skip
        return result


class _Run:
    """One run of a task: its hooks, signals, callbacks and outcome, in a worker's order."""

    def __init__(self, task: Task[..., Any], request: Context, propagate: bool) -> None:
        self.task, self.request, self.propagate = task, request, propagate
        self.started = 0.0
        self.next: Any = None
        """The signature of the next attempt, if the task asked for one."""

    def execute(self) -> EagerResult[Any]:
        task, request = self.task, self.request
        task_id, args, kwargs = str(request.id), request.args, request.kwargs
        state: str | None = None
        value, einfo = None, None
        self.started = time.perf_counter()
        task.push_request(request)
        try:
            signals.task_prerun.send(sender=task, task_id=task_id, task=task, args=args, kwargs=kwargs)
            try:
                task.before_start(task_id, args, kwargs)
                value = call(task, args, kwargs)
            except (Retry, Ignore, Reject) as exc:
                if self.propagate and isinstance(exc, Retry):
                    raise
                state, value, einfo = self._steered(exc)
            except Exception as exc:
                if self.propagate:
                    raise
                state, value, einfo = states.FAILURE, exc, ExceptionInfo(exc)
                self._failed(exc, einfo)
            else:
                state = states.SUCCESS
                self._succeeded(value)
            self._store(state, value, einfo)
            if state in states.READY_STATES:
                task.after_return(state, value, task_id, args, kwargs, einfo)
        finally:
            # Also where an error goes on to the caller: then without a state, as in Celery.
            signals.task_postrun.send(
                sender=task, task_id=task_id, task=task, args=args, kwargs=kwargs, retval=value, state=state
            )
            task.pop_request()
        traceback = einfo.traceback if einfo is not None else None
        result: EagerResult[Any] = EagerResult(task_id, value, state, traceback, task.name)
        result._children, result._update = request.children, request._update
        return result

    def _steered(self, exc: Retry | Ignore | Reject) -> tuple[str, Any, ExceptionInfo | None]:
        if isinstance(exc, Retry):
            einfo = ExceptionInfo(exc.exc or exc)
            self.task.on_retry(
                exc.exc or exc, str(self.request.id), self.request.args, self.request.kwargs, einfo
            )
            signals.task_retry.send(sender=self.task, request=self.request, reason=exc, einfo=einfo)
            self.next = exc.sig
            return states.RETRY, exc, einfo
        return (states.IGNORED if isinstance(exc, Ignore) else states.REJECTED), exc, None

    def _succeeded(self, value: Any) -> None:
        for callback in self.request.callbacks or ():
            _add_child(self.request, maybe_signature(callback, self.task.app).apply_async((value,)))
        self.task.on_success(value, str(self.request.id), self.request.args, self.request.kwargs)
        runtime = time.perf_counter() - self.started
        signals.task_success.send(sender=self.task, result=value, runtime=runtime)

    def _failed(self, exc: Exception, einfo: ExceptionInfo) -> None:
        task, request = self.task, self.request
        call_errbacks(task.app, request.errbacks or (), request, exc, einfo.traceback)
        task.on_failure(exc, str(request.id), request.args, request.kwargs, einfo)
        signals.task_failure.send(
            sender=task, task_id=request.id, exception=exc, args=request.args, kwargs=request.kwargs,
            traceback=einfo.tb, einfo=einfo,
        )  # fmt: skip

    def _store(self, state: str, value: Any, einfo: ExceptionInfo | None) -> None:
        task = self.task
        if not task.store_eager_result or state in (states.IGNORED, states.REJECTED):
            return
        unwanted = self.request.ignore_result and not (
            state == states.FAILURE and task.store_errors_even_if_ignored
        )
        if unwanted or task.backend is None:
            return
        traceback = einfo.traceback if einfo is not None else None
        stored = value.exc or value if isinstance(value, Retry) else value
        record = task.app.results.record(state, stored, self.request, traceback=traceback)
        task.backend.store([record])


def call(task: Task[..., Any], args: Any, kwargs: Any) -> Any:
    """Run the task's function, a coroutine function on a loop of its own; or its own ``__call__``."""
    custom = _has_custom_call(task)
    value = task(*args, **kwargs) if custom else task.run(*args, **kwargs)
    return run_coroutine(value) if inspect.iscoroutine(value) else value


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, from a thread with a running event loop too (then in another thread)."""
    if asyncio._get_running_loop() is None:
        return asyncio.run(coroutine)
    context = contextvars.copy_context()
    outcome: list[tuple[bool, Any]] = []

    def work() -> None:
        try:
            outcome.append((True, context.run(asyncio.run, coroutine)))
        except BaseException as exc:
            outcome.append((False, exc))

    thread = threading.Thread(target=work, name="celeriac-eager")
    thread.start()
    thread.join()
    done, value = outcome[0]
    if not done:
        raise value
    return value


def _has_custom_call(task: Task[..., Any]) -> bool:
    from celeriac.task import Task as Base

    return type(task).__call__ is not Base.__call__


def _add_child(request: Context, result: Any) -> None:
    if result not in request.children:
        request.children.append(result)
