"""GroupResult: the results of a group, with an id under which they can be saved and found again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from celeriac.app import state as current
from celeriac.result.base import ResultBase
from celeriac.result.sets import ResultSet
from celeriac.result.tuples import result_from_tuple

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.results import ResultBackend

R = TypeVar("R")


class GroupResult(ResultSet[R]):
    """The results of a group's tasks in the group's order, and the group's ``id``.

    ``str()`` gives the id; it can be pickled. It is true if it has an id or members.
    """

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Any] | None = None,
        parent: ResultBase | None = None,
        app: Celeriac | None = None,
    ) -> None:
        super().__init__([] if results is None else results, app)
        self.id = id
        self.parent = parent

    @property
    def children(self) -> list[Any]:
        """The members."""
        return self.results

    # -- in the store ----------------------------------------------------------------------------------

    def save(self, backend: ResultBackend | None = None) -> GroupResult[R]:
        """Keep the list of results in the store for ``result_expires`` seconds; return the group itself.

        :meth:`restore` finds it there. It is Celery's form, which Celery's clients can restore too.
        """
        ttl = self.app.conf.result_expires
        payload = self.app.results.encode_group(self.as_tuple())
        _store(self.app, backend).store_group(self._known_id(), payload, float(ttl) if ttl else None)
        return self

    def delete(self, backend: ResultBackend | None = None) -> None:
        """Delete what :meth:`save` kept; the results themselves stay."""
        _store(self.app, backend).forget_group(self._known_id())

    @classmethod
    def restore(
        cls, id: str, backend: ResultBackend | None = None, app: Celeriac | None = None
    ) -> GroupResult[Any] | None:
        """The group's results that were saved under this id; ``None`` if there are none."""
        app = current.app_or_default(app or cls.app)
        payload = _store(app, backend).fetch_group(id)
        if payload is None:
            return None
        found: GroupResult[Any] = result_from_tuple(app.results.decode_group(payload), app)
        return found

    def _known_id(self) -> str:
        if not self.id:
            raise ValueError("a group's results need an id to be saved: GroupResult(id=uuid(), results=...)")
        return self.id

    # -- as data ---------------------------------------------------------------------------------------

    def as_tuple(self) -> tuple[Any, Any]:
        """``((id, parent), [member, ...])``, from which ``result_from_tuple`` makes it again."""
        parent = None if self.parent is None else self.parent.as_tuple()
        return (self.id, parent), [result.as_tuple() for result in self.results]

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.id, self.results, self.parent)

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return bool((self.id, self.results, self.parent) == (other.id, other.results, other.parent))
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]  # by its id, which stays
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        members = ", ".join(str(result.id) for result in self.results)
        return f"<{type(self).__name__}: {self.id} [{members}]>"


def _store(app: Celeriac, backend: ResultBackend | None) -> ResultBackend:
    found = backend if backend is not None else app.backend
    if found is None:
        raise NotImplementedError(
            "results are turned off, so that a group's cannot be saved: set result_backend to a store, or "
            "leave it out for the broker's own"
        )
    return found


def _unpickle(id: str | None, results: list[Any], parent: ResultBase | None) -> GroupResult[Any]:
    made: GroupResult[Any] = current.app_or_default().GroupResult(id, results, parent=parent)
    return made
