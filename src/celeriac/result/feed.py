"""Feed: the states of tasks as they are stored, by one subscription for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from celeriac.result.stored import State, by_store, stored

if TYPE_CHECKING:
    from celeriac.engines.results import Subscription
    from celeriac.result.async_result import AsyncResult


class Feed:
    """A subscription to the states of ``results``; one for each store that keeps some of them.

    It calls ``put(task id, payload)``, from the stores' threads. It may be opened in one thread and closed in
    another, even before it is open or by ``put`` itself.
    """

    def __init__(self, results: Iterable[AsyncResult[Any]], put: Callable[[str, bytes], Any]) -> None:
        self._sources = by_store(results)
        self._put = put
        self._lock = threading.Lock()
        self._held: list[Subscription] | None = []

    def open(self) -> None:
        """Begin, with the states that are stored already."""
        for store, ids in self._sources:
            subscription = store.subscribe(ids, self._put)
            with self._lock:
                if self._held is not None:
                    self._held.append(subscription)
                    continue
            subscription.close()

    def close(self) -> None:
        """End it; safe to repeat."""
        with self._lock:
            held, self._held = self._held, None
        for subscription in held or ():
            subscription.close()


def arrivals(
    results: list[AsyncResult[Any]],
    timeout: float | None,
    interval: float = 0.5,
    on_interval: Callable[[], Any] | None = None,
) -> Generator[State, None, None]:
    """The states of ``results``, those stored already first, until ``timeout`` seconds have passed.

    Then the store is looked at once more; so a timeout of 0 asks it once, and waits for nothing. It ends
    only in that way: close it when what was waited for is there. ``on_interval`` is called every
    ``interval`` seconds meanwhile.
    """
    if timeout is None or timeout > 0:
        arrived: SimpleQueue[State] = SimpleQueue()
        with closing(Feed(results, lambda *state: arrived.put(state))) as feed:
            feed.open()
            yield from _until_late(arrived, timeout, interval, on_interval)
    yield from stored(results)


def _until_late(
    arrived: SimpleQueue[State],
    timeout: float | None,
    interval: float,
    on_interval: Callable[[], Any] | None,
) -> Generator[State, None, None]:
    now = time.monotonic()
    deadline = None if timeout is None else now + timeout
    call = None if on_interval is None else now + interval
    while True:
        times = [when for when in (deadline, call) if when is not None]
        try:
            yield arrived.get(timeout=max(0.0, min(times) - time.monotonic()) if times else None)
        except Empty:
            pass
        if on_interval is not None and call is not None and time.monotonic() >= call:
            on_interval()
            call = time.monotonic() + interval
        if deadline is not None and time.monotonic() >= deadline:
            return


async def aarrivals(results: list[AsyncResult[Any]], timeout: float | None) -> AsyncGenerator[State, None]:
    """:func:`arrivals` for coroutines: the stores are asked from threads."""
    import asyncio

    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[State] = asyncio.Queue()

    def put(*state: Any) -> None:
        # A loop that was closed meanwhile has nobody left to tell.
        if not loop.is_closed():
            loop.call_soon_threadsafe(arrived.put_nowait, state)

    if timeout is None or timeout > 0:
        deadline = None if timeout is None else time.monotonic() + timeout
        feed = await asyncio.to_thread(Feed, results, put)
        try:
            await asyncio.to_thread(feed.open)
            while arrived.qsize() or deadline is None or time.monotonic() < deadline:
                rest = None if deadline is None else deadline - time.monotonic()
                try:
                    # wait_for makes a task and a timer: only where there is something to wait for.
                    yield (
                        arrived.get_nowait()
                        if arrived.qsize()
                        else await asyncio.wait_for(arrived.get(), rest)
                    )
                except TimeoutError:
                    break
        finally:
            await asyncio.to_thread(feed.close)
    for state in await asyncio.to_thread(lambda: list(stored(results))):
        yield state
