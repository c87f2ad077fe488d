"""How signatures are shown."""

from __future__ import annotations


def shortened(task: str, text: str) -> str:
    """``text`` with the module of ``task`` left out after its first mention: ``shop.add(1) | add(2)``."""
    module = task.rpartition(".")[0]
    if not module:
        return text
    first, found, rest = text.partition(f"{module}.")
    return first + found + rest.replace(f"{module}.", "")


def cut(text: str, length: int = 100) -> str:
    """``text``, cut at a word if it is longer."""
    return text if len(text) < length else text[:length].rsplit(" ", 1)[0] + "..."
