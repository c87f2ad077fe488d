"""Control: orders to workers that are kept in the store, so that they outlive restarts."""

from __future__ import annotations

import signal as os_signals
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac.app.chords import is_ours
from celeriac.app.request import Context
from celeriac.app.stamps import marks
from celeriac.exceptions import DecodeError, ImproperlyConfigured, SecurityError, TaskRevokedError
from celeriac.message import decode_body, decode_envelope, new_id

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.coordinator import Coordinator


class Control:
    """``app.control``."""

    def __init__(self, app: Celeriac) -> None:
        self.app = app

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Any = None,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        **kwargs: Any,
    ) -> None:
        """Do not let these tasks run (an id or several).

        Delayed ones are removed at once and get the state REVOKED; waiting ones when a worker comes to
        them. Running ones go on, unless ``terminate``: their process gets ``signal``. The order is kept for
        ``revoke_expires`` seconds, for workers that start later too; it concerns all workers, so a
        ``destination`` has no meaning. Raises ``ImproperlyConfigured`` if no store can keep it.
        """
        ids = [task_id] if isinstance(task_id, str) else [str(each) for each in task_id]
        if not ids:
            return
        self.keep_revoked(ids, signal_name(signal) if terminate else "")

    def keep_revoked(self, ids: Sequence[str], signal: str = "") -> None:
        """Keep the order to revoke in the store, and revoke what is delayed; :meth:`revoke` without a word to
        the workers. ``signal`` names what ends those that run already."""
        self._coordinator("revoke").revoke(ids, float(self.app.conf.revoke_expires), signal)
        self._record_delayed(self.app.broker.find(ids))
        self.app.broker.cancel(ids)

    def _record_delayed(self, found: Mapping[str, bytes]) -> None:
        """Store that delayed tasks are revoked: their states, and what it means for chains and chords.

        If this process dies at any point, a worker completes it. The order to revoke is kept already, so a
        message that has not been removed is dropped when it falls due, and what is recorded then counts
        once. It is therefore removed last: a chord waits for the part of a task that has no message.
        """
        backend = self.app.backend
        if backend is None or not found:
            return
        error = TaskRevokedError("revoked")
        records, parts = [], []
        for task_id, payload in found.items():
            request = self._request(task_id, payload)
            records.append(self.app.results.record(states.REVOKED, error, request))
            own = self.app.chords.part_of(request, states.REVOKED, error)
            lost = self.app.chords.unreached(
                reversed(request.chain or ()), states.REVOKED, error, ours=is_ours(request.message)
            )
            records.extend(lost[0])
            parts.extend(lost[1] if own is None else [own, *lost[1]])
        backend.store(records)
        if parts:
            # What is owed by this is left to workers: error callbacks may have to run where it is taken, and
            # this may be any program. They come to it when this taker's time is up.
            backend.record_parts(parts, f"{self.app.oid}:{new_id()}")

    def _request(self, task_id: str, payload: bytes) -> Context:
        try:
            message = decode_envelope(payload)
            args, kwargs, embed = decode_body(message, self.app.accept_content)
        except (DecodeError, SecurityError):
            return Context(id=task_id)
        return Context(message, args, kwargs, embed)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: Any = None,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        **kwargs: Any,
    ) -> None:
        """Do not let tasks run that carry one of these stamps: ``{"name": value}``, or a list of values.

        The order is kept and obeyed as that of :meth:`revoke`, and holds for tasks that are sent later too;
        delayed tasks get the state REVOKED when they are due. With ``terminate`` those that run now are
        looked for and killed. Raises ``ImproperlyConfigured`` if no store can keep the order.
        """
        wanted = set(marks(headers))
        if not wanted:
            return
        orders = self._coordinator("revoke_by_stamped_headers")
        orders.revoke(sorted(wanted), float(self.app.conf.revoke_expires))
        if terminate:
            running = [each for queue in self.app.broker.queues() for each in self._stamped(queue, wanted)]
            self.revoke(running, terminate=True, signal=signal)

    def _stamped(self, queue: str, wanted: set[str]) -> Iterator[str]:
        """The ids of leased messages that carry one of the stamps."""
        offset = 0
        while page := self.app.broker.peek(queue, offset, _PAGE, "leased"):
            offset += len(page)
            for payload in page:
                try:
                    headers = decode_envelope(payload).headers
                except DecodeError:
                    continue
                if not wanted.isdisjoint(marks(headers.get("stamps") or {})):
                    yield str(headers["id"])

    def terminate(
        self,
        task_id: str | Iterable[str],
        destination: Any = None,
        signal: str | int = "SIGTERM",
        **kwargs: Any,
    ) -> None:
        """:meth:`revoke` with ``terminate=True``."""
        self.revoke(task_id, destination, terminate=True, signal=signal, **kwargs)

    def purge(self, connection: Any = None) -> int:
        """Delete all waiting messages, delayed ones too, of the queues that the application consumes; return
        how many."""
        return self.app.broker.purge(list(self.app.queues.consumed))

    discard_all = purge

    def rate_limit(
        self, task_name: str, rate_limit: str | float | None, destination: Any = None, **kwargs: Any
    ) -> None:
        """Change a task's rate limit everywhere (``"10/m"``; 0 or ``""``: none), also after restarts.

        ``None`` goes back to the limit in the code.
        """
        rate = None if rate_limit is None else "" if not rate_limit else str(rate_limit)
        self._coordinator("rate_limit").limit_rate(task_name, rate)

    def _coordinator(self, order: str) -> Coordinator:
        found = self.app.coordinator
        if found is None:
            raise ImproperlyConfigured(
                f"{order} needs a store that keeps orders, which {self.app.broker_shown} is not: "
                "set result_backend to SQLite, PostgreSQL or Redis"
            )
        return found


_PAGE = 500


def signal_name(signal: str | int) -> str:
    """The name of a signal given by number or name, with or without SIG. Raises ``ValueError``."""
    if isinstance(signal, int):
        return os_signals.Signals(signal).name
    name = signal.upper() if signal.upper().startswith("SIG") else f"SIG{signal.upper()}"
    if name not in os_signals.Signals.__members__:
        raise ValueError(f"there is no signal {signal!r}")
    return name
