"""Firing ticks in a store that keeps an entry's progress as a row: all but the reading and writing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from celeriac.engines.schedule import Tick


class Progress(msgspec.Struct):
    """How far an entry has come: what a tick changes, in the order of the columns."""

    last_due: float | None
    last_run: float | None
    last_id: str
    runs: int
    skipped: int
    id: int
    """The row's key."""


def fire_ticks(
    ticks: Sequence[Tick],
    now: float,
    find: Callable[[str], Progress | None],
    publish: Callable[[Sequence[int]], Iterable[int]],
) -> tuple[dict[str, str], list[Progress]]:
    """Fire ticks (:meth:`celeriac.engines.schedule.ScheduleStore.fire`) in the transaction that has begun.

    ``find`` reads an enabled entry's progress. ``publish`` stores the messages of the ticks at these indexes
    and returns the positions, among them, of those whose unique key is held. Returns the ticks left out,
    name -> reason, and the progress to be stored.
    """
    progress: dict[str, Progress | None] = {}
    reasons = []
    for tick in ticks:
        if tick.name not in progress:
            progress[tick.name] = find(tick.name)
        reasons.append(_mark(progress[tick.name], tick, now))
    firing = [i for i, tick in enumerate(ticks) if tick.publication is not None and not reasons[i]]
    for position in publish(firing):
        reasons[firing[position]] = "held"
    changed = {}
    for tick, reason in zip(ticks, reasons, strict=True):
        one = progress[tick.name]
        if one is not None and reason != "done":
            _count(one, tick, reason)
            changed[tick.name] = one
    left_out = {tick.name: reason for tick, reason in zip(ticks, reasons, strict=True) if reason}
    return left_out, list(changed.values())


def _mark(one: Progress | None, tick: Tick, now: float) -> str:
    """Note a tick's due time; return why it is left out, as far as is known yet, "" if it is not."""
    if one is None:
        return "gone"
    if one.last_due is not None and tick.due <= one.last_due:
        return "done"
    one.last_due, one.last_run = tick.due, now
    return "held" if tick.held and tick.publication is None else ""


def _count(one: Progress, tick: Tick, reason: str) -> None:
    if reason == "held":
        one.skipped += 1
    elif not reason and (tick.publication is not None or tick.task_id):
        one.runs += 1
        one.last_id = tick.task_id
