"""Unique keys: a queue without messages stands for a key that is held, and its arguments name the holder.

The server makes a queue only if there is none, and tells what stands in the way when there is: one step that
tests and sets. A key goes with its task's end, or by itself some time after it was last asked for.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from celeriac.engines.base import Hold, Unique
from celeriac.engines.rabbitmq.session import Session
from celeriac.exceptions import ImproperlyConfigured

_LONGEST: Final = (1 << 32) - 1
_NOBODY: Final = "celeriac: who holds it?"
_CURRENT: Final = re.compile(r"but current is (?:the value )?'([^']*)'")


def acquire(session: Session, unique: Unique, task_id: str) -> str | None:
    """Take a key for a task; ``None`` if it holds it now, else who does.

    Raises ``ImproperlyConfigured`` for what would have to replace a delayed message.
    """
    if unique.instead_of or unique.until is Hold.DELAYED:
        raise ImproperlyConfigured(
            "RabbitMQ cannot replace a message that is delayed, so debounce does not work with it: "
            "use a broker_url of SQLite, Redis or PostgreSQL for such tasks"
        )
    return _declare(session, unique.key, task_id, max(1, min(_LONGEST, int(unique.ttl * 1000))))


def release(session: Session, key: str, task_id: str) -> None:
    """Free a key, if this task holds it."""
    name = _queue(key)
    held = not session.missing(lambda: session.desk.queue_declare(name, passive=True))
    if held and _declare(session, key, task_id, _LONGEST) is None:
        session.desk.queue_delete(name)


def holder(session: Session, key: str) -> str | None:
    """The task id that holds a key now, as the server tells whoever would take it."""
    name = _queue(key)
    if session.missing(lambda: session.desk.queue_declare(name, passive=True)):
        return None
    found = _declare(session, key, _NOBODY, 1)
    if found is None:
        session.desk.queue_delete(name)  # it became free in between, and this took it
    return found


def _declare(session: Session, key: str, task_id: str, expires: int) -> str | None:
    """Declare the key's queue for a task; ``None`` if it is that task's now, else whose it is."""
    words = ""
    for _ in range(2):
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": task_id, "x-expires": expires}
        words = session.differs(
            lambda arguments=arguments: session.desk.queue_declare(  # type: ignore[misc]
                _queue(key), durable=True, auto_delete=False, arguments=arguments
            )
        )
        if not words:
            return None
        if "'x-expires'" not in words:
            break
        # The server compares this argument first: with the value that is there it goes on to the holder.
        current = _CURRENT.search(words)
        expires = int(current.group(1)) if current else expires
    current = _CURRENT.search(words)
    return current.group(1) if current else ""


def _queue(key: str) -> str:
    return f"celeriac.unique.{hashlib.sha256(key.encode()).hexdigest()[:40]}"
