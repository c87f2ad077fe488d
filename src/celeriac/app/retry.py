"""A running call once more: as a task's next attempt, or as a signature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.app.request import Context
from celeriac.engines.base import Publication
from celeriac.exceptions import Reject, Retry
from celeriac.message import OWN_HEADER, Notes, notes

if TYPE_CHECKING:
    from celeriac.canvas.signature import Signature
    from celeriac.task import Task


def retry(
    task: Task[..., Any],
    args: Iterable[Any] | None,
    kwargs: Mapping[str, Any] | None,
    exc: BaseException | None,
    throw: bool,
    eta: Any,
    countdown: float | None,
    max_retries: int | None,
    options: dict[str, Any],
) -> Retry:
    """See ``Task.retry``."""
    request = task.request
    if request.called_directly:
        # There is nobody who could run it again; the error is what the caller must see.
        raise exc if exc is not None else Retry("Task can be retried", None)
    limit = task.max_retries if max_retries is None else max_retries
    attempt = request.retries + 1
    call_args = tuple(request.args or ()) if args is None else tuple(args)
    call_kwargs = dict(request.kwargs or {}) if kwargs is None else dict(kwargs)
    if limit is not None and attempt > limit:
        if exc is not None:
            raise exc
        argsrepr, kwargsrepr = task.app.redact.args_repr(task, call_args, call_kwargs)
        raise task.MaxRetriesExceededError(
            f"Can't retry {task.name}[{request.id}] args:{argsrepr} kwargs:{kwargsrepr}",
            task_args=call_args,
            task_kwargs=call_kwargs,
        )
    if not eta and countdown is None:
        countdown = task.default_retry_delay
    when = {"eta": eta} if eta else {"countdown": countdown}
    signature = task.signature(
        call_args, call_kwargs, immutable=True, task_id=request.id, retries=attempt, **when, **options
    )
    answer = Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager, sig=signature)
    if not request.is_eager:
        answer.publication = next_attempt(task, request, call_args, call_kwargs, attempt, {**when, **options})
        if not throw:
            try:
                task.app.publisher.send([answer.publication])
            except Exception as error:
                raise Reject(error, requeue=False) from error
    if throw:
        raise answer
    return answer


def next_attempt(
    task: Task[..., Any],
    request: Context,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    attempt: int,
    options: Mapping[str, Any],
) -> Publication:
    """The message of attempt number ``attempt`` of the running call: it is the same but for ``options``."""
    same = call_options(request, taken=options)
    own = notes(request.message) if request.message is not None else Notes()
    same["reply"] = own.reply
    built: Publication = task.app.publisher.build(
        request.task_name or task.name, args, kwargs, task=task, retries=attempt, **{**same, **options}
    )
    built.message.headers["stamps"] = request.stamps or {}
    header = built.message.headers[OWN_HEADER]
    if own.unique:
        header["unique"] = own.unique
    if own.replayed is not None:
        header["replayed"] = own.replayed
    if request.redelivered or own.returned is not None:
        header["returned"] = own.replayed or 0.0  # an earlier run may have sent this attempt already
    return built


def signature_of(
    task: Task[..., Any],
    request: Context,
    args: Iterable[Any] | None,
    kwargs: Mapping[str, Any] | None,
    given: Mapping[str, Any],
) -> Signature:
    """See ``Task.signature_from_request``; ``given`` are the options that are set."""
    stamps = request.stamps or {}
    options = {**call_options(request, taken=given), **stamps, "retries": request.retries, **given}
    return task.signature(
        request.args if args is None else args,
        request.kwargs if kwargs is None else kwargs,
        **{key: value for key, value in options.items() if value is not None},
    )


def call_options(request: Context, taken: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the running call; without its queue if those ``taken`` name another place."""
    limits = list(request.timelimit or (None, None))
    info = request.delivery_info or {}
    same: dict[str, Any] = {
        "task_id": request.id,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "group_id": request.group,
        "group_index": request.group_index,
        "shadow": request.shadow,
        "chord": request.chord,
        "chain": request.chain,
        "link": request.callbacks,
        "link_error": request.errbacks,
        "expires": request.expires,
        "time_limit": limits[0],
        "soft_time_limit": limits[1],
        "headers": request.headers,
        "priority": info.get("priority"),
        "ignore_result": request.ignore_result,
        "reply_to": request.reply_to,
        "replaced_task_nesting": request.replaced_task_nesting,
        "stamped_headers": request.stamped_headers,
    }
    if request.queue and not taken.keys() & {"queue", "exchange", "routing_key"}:
        same["queue"] = request.queue
    return same
