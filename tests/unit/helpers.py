"""What the client's tests share: an application on a memory store of its own."""

from __future__ import annotations

import itertools
from typing import Any

from celeriac import Celeriac
from celeriac.app.request import Context
from celeriac.message import Message, decode_body, decode_envelope

_numbers = itertools.count()


def make_app(**settings: Any) -> Celeriac:
    """An application that shares nothing with others."""
    settings.setdefault("broker", f"memory://unit-{next(_numbers)}")
    return Celeriac("unit", **settings)


def messages(app: Celeriac, queue: str = "celery", state: str = "ready") -> list[Message]:
    """What lies in a queue."""
    return [decode_envelope(payload) for payload in app.broker.peek(queue, state=state)]


def message(app: Celeriac, queue: str = "celery", state: str = "ready") -> Message:
    """The only message of a queue."""
    (found,) = messages(app, queue, state)
    return found


def body(found: Message) -> Any:
    """Arguments, keyword arguments and what follows."""
    return decode_body(found, {found.content_type})


def running(found: Message, **options: Any) -> Context:
    """The context in which a worker would run the message."""
    args, kwargs, embed = body(found)
    return Context(found, args, kwargs, dict(embed), queue="celery", **options)
