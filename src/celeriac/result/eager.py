"""EagerResult: the outcome of a task that was run in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

from celeriac import states
from celeriac.engines.results import Presence
from celeriac.exceptions import TaskRevokedError
from celeriac.result.async_result import AsyncResult
from celeriac.result.progress import Progress, progress_of

R = TypeVar("R")


class EagerResult(AsyncResult[R]):
    """The outcome of a task that was run in this process (``Task.apply``). It has ended, and is not stored.

    ``get`` returns ``None`` if the task ended without a result, as with ``Ignore``.
    """

    local = True

    def __init__(
        self, id: str, ret_value: Any, state: str, traceback: str | None = None, name: str | None = None
    ) -> None:
        self.id = id
        self.app = None
        self._backend = None
        self._name = name
        self.parent = None
        self._children: list[Any] = []
        self._update: dict[str, Any] | None = None
        self._cache = {
            "status": state, "result": ret_value, "traceback": traceback, "task_id": id, "name": name
        }  # fmt: skip

    def ready(self) -> bool:
        """Always true."""
        return True

    @property
    def children(self) -> list[Any] | None:
        """The results of the tasks that it called."""
        return self._children

    @property
    def progress(self) -> Progress | None:
        """What the task said last of its progress."""
        return None if self._update is None else progress_of(self._update)

    def updates(self, timeout: float | None = None) -> Iterator[Progress]:
        """The last progress, if there was any."""
        last = self.progress
        return iter(() if last is None else (last,))

    async def aupdates(self, timeout: float | None = None) -> AsyncIterator[Progress]:
        """The same as :meth:`updates`."""
        for last in self.updates():
            yield last

    @property
    def backend(self) -> None:
        """It is kept in no store."""

    @property
    def presence(self) -> Presence:
        """It is here, so it is known."""
        return Presence.KNOWN

    @property
    def supports_native_join(self) -> bool:
        """Nothing is awaited."""
        return False

    def forget(self) -> None:
        """Nothing is stored that could be forgotten."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Mark the outcome as revoked, in place of its result; the task has run already."""
        self._meta().update(status=states.REVOKED, result=TaskRevokedError("revoked"), traceback=None)

    def __reduce__(self) -> tuple[Any, ...]:
        meta = self._meta()
        return EagerResult, (self.id, meta["result"], meta["status"], meta["traceback"], self._name)

    def __copy__(self) -> EagerResult[R]:
        function, arguments = self.__reduce__()
        copied: EagerResult[R] = function(*arguments)
        return copied

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"
