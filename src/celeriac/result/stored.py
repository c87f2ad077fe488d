"""What the stores know of results: many asked for by one request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from celeriac import states

if TYPE_CHECKING:
    from celeriac.engines.results import ResultBackend
    from celeriac.result.async_result import AsyncResult
    from celeriac.result.base import ResultBase

State = tuple[str, bytes]
"""A task id, and its state as it is stored."""


def by_store(results: Iterable[AsyncResult[Any]]) -> list[tuple[ResultBackend, list[str]]]:
    """The ids of ``results`` with the store that keeps each: usually one store."""
    found: dict[int, tuple[ResultBackend, dict[str, None]]] = {}
    for result in results:
        store = result.store()
        found.setdefault(id(store), (store, {}))[1][result.id] = None
    return [(store, list(ids)) for store, ids in found.values()]


def stored(results: Iterable[AsyncResult[Any]]) -> Iterator[State]:
    """The states that are stored now: one request a store."""
    for store, ids in by_store(results):
        yield from store.fetch(ids).items()


def look_up(results: Iterable[AsyncResult[Any]]) -> dict[str, dict[str, Any]]:
    """The states of ``results`` by id, without those that have none: one request a store.

    Those that have ended remember it.
    """
    found: dict[str, dict[str, Any]] = {}
    asked: dict[str, list[AsyncResult[Any]]] = {}
    for result in results:
        if (known := result.last_state()) is not None:
            found[result.id] = known
        elif not result.ignored:
            asked.setdefault(result.id, []).append(result)
    for task_id, payload in stored(handles[0] for handles in asked.values()):
        meta = found[task_id] = asked[task_id][0].read(payload)
        if meta["status"] in states.READY_STATES:
            for handle in asked[task_id]:
                handle.settle(meta)
    return found


def forget(results: Iterable[ResultBase]) -> None:
    """Delete what is stored of ``results`` and of their parents: one request a store."""
    known = [leaf for result in results for leaf in result.lineage() if not leaf.local]
    for leaf in known:
        leaf.unsettle()
    for store, ids in by_store(known):
        store.forget(ids)
