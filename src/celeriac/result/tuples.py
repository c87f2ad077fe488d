"""Results made again from plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac.app import state as current
from celeriac.result.base import ResultBase

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


def result_from_tuple(r: Any, app: Celeriac | None = None) -> Any:
    """Make a result of its tuple form (``as_tuple``, also as JSON lists) or of an id.

    ``((id, parent), None)`` is a task's result, ``((id, parent), [member, ...])`` a group's.
    """
    application = current.app_or_default(app)
    if isinstance(r, ResultBase):
        return r
    if isinstance(r, str):
        return application.AsyncResult(r)
    result, nodes = r
    identifier, parent = result if isinstance(result, list | tuple) else (result, None)
    if parent:
        parent = result_from_tuple(parent, application)
    if nodes is not None:
        members = [result_from_tuple(node, application) for node in nodes]
        return application.GroupResult(identifier, members, parent=parent)
    return application.AsyncResult(identifier, parent=parent)
