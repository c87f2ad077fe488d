"""What commands print: aligned tables for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], wrap_last: bool = False) -> None:
    """Print rows in columns, numbers to the right; on a terminal the last column is cut to fit its width.

    ``wrap_last`` leaves it whole.
    """
    texts = [[text(value) for value in row] for row in rows]
    numeric = [all(_is_number(row[column]) for row in rows) for column in range(len(head))]
    widths = [max(len(line[column]) for line in [list(head), *texts]) for column in range(len(head))]
    if sys.stdout.isatty() and not wrap_last:
        used = sum(widths[:-1]) + 2 * (len(head) - 1)
        widths[-1] = min(widths[-1], max(10, shutil.get_terminal_size().columns - used))
    click.secho(_line(head, widths, numeric), bold=True)
    for line in texts:
        click.echo(_line(line, widths, numeric, cut=not wrap_last and sys.stdout.isatty()))


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], cut: bool = False) -> str:
    parts = []
    for cell, width, to_right in zip(cells, widths, right, strict=True):
        if cut and len(cell) > width:
            cell = cell[: width - 1] + "…"
        parts.append(cell.rjust(width) if to_right else cell.ljust(width))
    return "  ".join(parts).rstrip()


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def text(value: Any) -> str:
    """A value as it stands in a table: on one line, without control characters."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    # A stored text may hold control characters; they must not reach a terminal.
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(value).split()))


def dump(value: Any) -> None:
    """Print a value as JSON: indented for a terminal, else on one line."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(value, indent=indent, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if isinstance(value, BaseException):
        return {"exc_type": type(value).__name__, "exc_message": str(value)}
    return str(value)


def span(seconds: float | None) -> str | None:
    """Return a length of time in words, two units at most: ``0.4 s``, ``3 min 5 s``, ``2 d 4 h``."""
    if seconds is None:
        return None
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    first = next(place for place, (number, _) in enumerate(parts) if number)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)


def moment(epoch: float) -> str:
    """Return an epoch second as local date and time."""
    return datetime.fromtimestamp(epoch).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def count(number: int, noun: str) -> str:
    """Return ``1 message``, ``2 messages``, ``1,000 messages``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
