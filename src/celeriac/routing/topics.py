"""Which queues a message to an exchange reaches."""

from __future__ import annotations

import re
from functools import lru_cache


def reaches(kind: str, pattern: str, routing_key: str) -> bool:
    """Whether a queue bound with ``pattern`` to an exchange of this type gets a message with this key.

    In a topic exchange ``*`` stands for one word and ``#`` for any number of words, none included.
    """
    if kind == "fanout":
        return True
    if kind == "topic":
        return _compiled(pattern).fullmatch(routing_key) is not None
    return pattern == routing_key


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    words = [r"[^.]+" if w == "*" else "#" if w == "#" else re.escape(w) for w in pattern.split(".")]
    expression = r"\.".join(words)
    # "#" swallows the dot that would set it off as well.
    expression = expression.replace(r"\.#", r"(?:\.[^.]+)*").replace(r"#\.", r"(?:[^.]+\.)*")
    return re.compile(expression.replace("#", ".*"))
