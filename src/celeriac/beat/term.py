"""The term: the time for which one scheduler leads.

The store keeps who leads and until when. The leader trusts its term for a little less long than the store
does, by its own clock and counted from *before* it asked: an answer that came late, or a process that slept,
must not stretch it. It asks again when a third of the term is over; if the store does not answer, it stops
firing before the term ends there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from celeriac import clock
from celeriac.engines.schedule import ScheduleStore, Term

TTL = 5.0
"""Seconds that a term lasts if it is not renewed: how long a leader that was killed leads on."""
MARGIN = 0.5
"""Seconds by which the leader stops earlier than the store would let another lead."""


class Leadership:
    """One scheduler's part in who leads. ``monotonic`` is the clock by which it trusts its term."""

    def __init__(
        self,
        store: ScheduleStore,
        holder: str,
        ttl: float = TTL,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.holder = holder
        self.ttl = ttl
        self.term: Term | None = None
        """The term last held; good as long as :attr:`holds`."""
        self._monotonic = monotonic
        self._until = 0.0
        self._renew = 0.0
        self._ahead_by: deque[float] = deque(maxlen=8)

    @property
    def now(self) -> float:
        """The store's clock, as far as it is known here: due times are counted by it.

        It goes on by the monotonic clock, so a wall clock that is set here makes no tick early or late.
        """
        return self._monotonic() + max(self._ahead_by) if self._ahead_by else clock.now()

    @property
    def holds(self) -> bool:
        """Whether this scheduler leads, as far as it may trust that."""
        return self.term is not None and self._monotonic() < self._until

    @property
    def wants_renewal(self) -> bool:
        """Whether it is time to ask again."""
        return self._monotonic() >= self._renew

    @property
    def rest(self) -> float:
        """Seconds until it is time to ask again, at least 0."""
        return max(0.0, self._renew - self._monotonic())

    def ask(self) -> bool:
        """Take the term, or put off its end; return whether it is ours. Raises ``OperationalError``."""
        asked = self._monotonic()
        term = self.store.lead(self.holder, self.ttl)
        if term is None:
            self.lose()
            return False
        self.term = term
        self._compare_clocks(asked, term.now, self._monotonic())
        self._until = asked + self.ttl - MARGIN
        self._renew = asked + self.ttl / 3
        return True

    def _compare_clocks(self, before: float, store: float, after: float) -> None:
        """Learn how far the store's clock is ahead of the monotonic one: by no less than ``store - after``,
        no more than ``store - before``. The largest of the last lower bounds is used, so that a slow answer
        makes no tick early."""
        if self._ahead_by and max(self._ahead_by) > store - before:
            self._ahead_by.clear()  # a clock was set
        self._ahead_by.append(store - after)

    def lose(self) -> None:
        """Lead no longer: the store says so."""
        self.term, self._until, self._renew = None, 0.0, 0.0

    def resign(self) -> None:
        """End the term, so that another may lead at once. Raises ``OperationalError``."""
        self.lose()
        self.store.resign(self.holder)
