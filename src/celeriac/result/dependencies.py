"""The tasks that a task called, and those that they called."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from celeriac.exceptions import IncompleteStream

if TYPE_CHECKING:
    from celeriac.utils.graph import DependencyGraph


def iterdeps(result: Any, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
    """See ``AsyncResult.iterdeps``."""
    stack: deque[tuple[Any, Any]] = deque([(None, result)])
    while stack:
        parent, node = stack.popleft()
        yield parent, node
        if node.ready():
            stack.extend((node, child) for child in node.children or ())
        elif not intermediate:
            raise IncompleteStream


def graph(result: Any, intermediate: bool = False, formatter: Any = None) -> DependencyGraph[Any]:
    """See ``AsyncResult.build_graph``."""
    from celeriac.utils.graph import DependencyGraph, GraphFormatter

    made: DependencyGraph[Any] = DependencyGraph(
        formatter=formatter or GraphFormatter(root=result.id, shape="oval")
    )
    for parent, node in iterdeps(result, intermediate):
        made.add_arc(node)
        if parent is not None:
            made.add_edge(parent, node)
    return made
