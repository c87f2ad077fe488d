"""ResultBase: what a task's result and a set of results have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celeriac.result.async_result import AsyncResult


class ResultBase:
    """A result: of one task (:class:`AsyncResult`), or of several (:class:`ResultSet`)."""

    parent: ResultBase | None = None
    """The result of the step before, in a chain or chord."""
    single: bool = False
    """It is the result of one task."""

    def as_tuple(self) -> Any:
        """The result as plain data, from which ``result_from_tuple`` makes it again."""
        raise NotImplementedError(f"a {type(self).__name__} has no id by which it could be found again")

    def leaves(self) -> Iterable[AsyncResult[Any]]:
        """The results of single tasks in it, in order; those of groups within groups too."""
        raise NotImplementedError

    def value(self) -> Any:
        """What has come of it, without asking the store; ``None`` for what has not ended."""
        raise NotImplementedError

    def lineage(self) -> Iterator[AsyncResult[Any]]:
        """The results of single tasks in it, then those of its parent, and so on up to the first step."""
        node: ResultBase | None = self
        while node is not None:
            yield from node.leaves()
            node = node.parent
