"""The memory engine: the whole contract in one process, for tests and as its executable specification.

``memory://name`` opens the store of that name; whoever names it in this process shares it, and it lasts as
long as the process. Options (transport options; all have defaults):

* ``clock``: a function that returns the store's time in epoch seconds, so that tests can drive delays and
  leases without waiting. It belongs to the store: the last one given holds.
* ``dead_letters_max`` (10,000 a queue) and ``dead_letters_expires`` (30 days): how many dead letters are
  kept, and how long.
* ``history_max`` (10,000): how many attempts the history keeps.
* ``result_tombstone_expires`` (7 days): how long it is remembered that a result has expired.
* ``schedule_scope`` (""): whose schedule it is; each scope has entries and a leader of its own.
* ``priority_order`` (``higher``): which priority numbers are served first, ``higher`` or ``lower``. It
  belongs to the store as well.

The priority is the lane.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celeriac.engines.base import HIGHER_FIRST, LOWER_FIRST, Incarnation
from celeriac.engines.memory.broker import MemoryBroker
from celeriac.engines.memory.chords import MemoryGroups
from celeriac.engines.memory.consumer import MemoryConsumer
from celeriac.engines.memory.coordinator import MemoryCoordinator
from celeriac.engines.memory.history import MemoryHistory
from celeriac.engines.memory.remote import MemoryRemote
from celeriac.engines.memory.results import Caller, MemoryResults
from celeriac.engines.memory.schedules import MemorySchedules
from celeriac.engines.memory.state import STORES, Store

DAY = 86400.0


class MemoryEngine(
    MemoryBroker,
    MemoryResults,
    MemoryGroups,
    MemorySchedules,
    MemoryCoordinator,
    MemoryRemote,
    MemoryHistory,
):
    """One process's door to a named store (:class:`celeriac.engines.base.Engine`)."""

    scheme = "memory"

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        name = _name(url)
        self.url = f"memory://{name}"
        self.state = STORES.setdefault(name, Store())
        if "clock" in options:
            self.state.clock = options["clock"]
        if "priority_order" in options:
            self.state.lower_first = options["priority_order"] == "lower"
        self.dead_max = int(options.get("dead_letters_max", 10_000))
        self.dead_expires = float(options.get("dead_letters_expires", 30 * DAY))
        self.tombstone_expires = float(options.get("result_tombstone_expires", 7 * DAY))
        self.scope = str(options.get("schedule_scope", ""))
        most = options.get("history_max")
        self.history_max = 10_000 if most is None else int(most)
        self._caller = Caller()

    def attach(self, owner: Incarnation) -> MemoryConsumer:
        """Register a lease owner and return its consumer."""
        self.register(owner)
        return MemoryConsumer(self.state, owner, self.dead_max, self.history_max)

    @property
    def urgencies(self) -> Mapping[str, int]:
        """The priority of each urgency."""
        return LOWER_FIRST if self.state.lower_first else HIGHER_FIRST

    def shares_store(self, other: object) -> bool:
        """Whether ``other`` opened the same name."""
        return isinstance(other, MemoryEngine) and other.state is self.state

    def close(self) -> None:
        """End the thread that calls subscribers; the store stays."""
        self._caller.close()


def forget(url: str) -> None:
    """Drop the store that this process keeps under a URL. Engines that are open keep theirs."""
    STORES.pop(_name(url), None)


def create(url: str, options: Mapping[str, Any]) -> MemoryEngine:
    """Open a memory store by its URL."""
    return MemoryEngine(url, options)


def _name(url: str) -> str:
    return url.partition("://")[2].rpartition("@")[2]
