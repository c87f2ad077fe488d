"""Bulk: many calls of one task in few round trips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.app import keys, unique
from celeriac.app.headers import embed_of
from celeriac.app.state import worker_frame
from celeriac.engines.base import Publication
from celeriac.message import OWN_HEADER, Message, encode_body, new_id
from celeriac.result import AsyncResult

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.task import Task

BATCH = 1000
"""Messages a round trip: enough to make its cost vanish, few enough to keep a store's other users waiting
for only a few milliseconds."""

_PER_SEND = ("timeout", "confirm_timeout", "retry", "retry_policy", "add_to_parent", "connection")


class Bulk:
    """Sends many calls for one application."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app

    def send(
        self, task: Task[..., Any], calls: Iterable[Any], options: dict[str, Any]
    ) -> list[AsyncResult[Any]]:
        """See ``Task.enqueue_many``."""
        if "task_id" in options:
            raise TypeError("enqueue_many makes the ids itself: task_id is not an option of it")
        app = self._app
        # A debounced one may have to take another's place, which is a matter between two messages.
        if options.get("debounce", task.debounce) or app.conf.task_always_eager:
            return [task.apply_async(args, kwargs, **options) for args, kwargs in _calls(task, calls)]
        sending = {key: options.pop(key) for key in _PER_SEND if key in options}
        add_to_parent = sending.pop("add_to_parent", True)
        confirm = sending.pop("confirm_timeout", None)
        if sending.get("timeout") is None:
            sending["timeout"] = confirm
        results: list[AsyncResult[Any]] = []
        publications = self._build(task, calls, options)
        make = app.AsyncResult
        while batch := list(islice(publications, BATCH)):
            held = app.publisher.send(batch, **sending)
            for index, publication in enumerate(batch):
                headers = publication.message.headers
                holder = held.get(index)
                result = make(holder or headers["id"], task_name=task.name)
                if holder:
                    result.duplicate = True
                if headers["ignore_result"]:
                    result.ignored = True
                results.append(result)
        frame = worker_frame()
        if add_to_parent and frame is not None and frame.task.trail:
            frame.request.children.extend(results)
        return results

    def _build(
        self, task: Task[..., Any], calls: Iterable[Any], options: dict[str, Any]
    ) -> Iterator[Publication]:
        """Build the first message in full; of the others only what differs: id, arguments, body.

        6 us a message instead of 25: nothing else of a call depends on its arguments. Where something does,
        such as a name to show, or has an id of its own, such as a callback, all are built in full.
        """
        app, name = self._app, task.name
        conditional = unique.concerns(task, options)
        asked = options if conditional else None
        options = {key: value for key, value in options.items() if key not in keys.OPTIONS}
        if conditional or task.pydantic or app.router.dynamic or _has_own(task, options):
            yield from self._one_by_one(task, calls, options, asked)
            return
        serializer, compression = app.publisher.coding(name, task, options)
        embed = embed_of(None, None, options.get("chain"), options.get("chord"))
        first: Publication | None = None
        checked = app.strict_typing if task.typing is None else task.typing
        for args, kwargs in _calls(task, calls):
            if checked:
                task.check_arguments(args, kwargs)
            if first is None:
                first = app.publisher.build(name, args, kwargs, task=task, **options)
                template = first.message
                root = template.headers["root_id"] == template.headers["id"]
                yield first
                continue
            task_id = new_id()
            body, content_type, encoding, added = encode_body(args, kwargs, embed, serializer, compression)
            app.publisher.check_size(name, body)
            argsrepr, kwargsrepr = app.redact.args_repr(task, args, kwargs)
            headers = {
                **template.headers,
                "id": task_id,
                "argsrepr": options.get("argsrepr") or argsrepr,
                "kwargsrepr": options.get("kwargsrepr") or kwargsrepr,
                **added,
            }
            if root:
                headers["root_id"] = task_id
            if signals.before_task_publish.receivers:
                # A receiver may change what it is given: then nothing may be shared between messages.
                headers[OWN_HEADER] = dict(headers[OWN_HEADER])
                headers["timelimit"] = list(headers["timelimit"])
            properties = {**template.properties, "correlation_id": task_id}
            message = Message(headers, properties, body, content_type, encoding)
            if app.signing is not None:
                message = app.signing.sign(message)
            yield Publication(
                message, first.queue, first.priority, first.delay, first.due, first.exchange,
                first.routing_key, first.track, also=first.also,
            )  # fmt: skip

    def _one_by_one(
        self,
        task: Task[..., Any],
        calls: Iterable[Any],
        options: dict[str, Any],
        asked: Mapping[str, Any] | None,
    ) -> Iterator[Publication]:
        """Build each message in full; ``asked`` has the options that tell the conditions of calls."""
        checked = self._app.strict_typing if task.typing is None else task.typing
        for args, kwargs in _calls(task, calls):
            if checked:
                task.check_arguments(args, kwargs)
            sent = task.prepare(args, kwargs)
            condition = None if asked is None else keys.unique_of(task.name, task, *sent, asked)
            own = options if "shadow" in options else {**options, "shadow": task.shadow_name(*sent, options)}
            yield self._app.publisher.build(task.name, *sent, task=task, unique=condition, **own)


def _calls(task: Task[..., Any], calls: Iterable[Any]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for call in calls:
        if not isinstance(call, tuple | list):
            yield (call,), {}
        elif len(call) == 2 and isinstance(call[1], dict) and isinstance(call[0], tuple | list):
            yield tuple(call[0]), call[1]
        else:
            yield (call if type(call) is tuple else tuple(call)), {}


def _has_own(task: Task[..., Any], options: Mapping[str, Any]) -> bool:
    """Whether each call may have a name of its own to be shown by, or callbacks, whose ids are their own."""
    from celeriac.task import Task

    if options.get("link") is not None or options.get("link_error") is not None:
        return True
    return "shadow" not in options and type(task).shadow_name is not Task.shadow_name
