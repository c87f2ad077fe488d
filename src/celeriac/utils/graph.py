"""Graphs of what depends on what, and drawing them in the DOT language."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import IO, Any, TypeVar

T = TypeVar("T", bound=Hashable)

__all__ = ["CycleError", "DependencyGraph", "GraphFormatter"]


class CycleError(Exception):
    """Things depend on each other in a circle, so none can come first."""


class DependencyGraph(Mapping[T, list[T]]):
    """Things, and for each the list of those that it depends on. A mapping; iteration gives the things."""

    def __init__(
        self, it: Iterable[tuple[T, Iterable[T]]] | None = None, formatter: GraphFormatter | None = None
    ) -> None:
        """``it`` has pairs of a thing and those it depends on; ``formatter`` draws the graph."""
        self.adjacent: dict[T, list[T]] = {}
        self.formatter = formatter or GraphFormatter()
        if it is not None:
            self.update(it)

    def add_arc(self, obj: T) -> None:
        """Add a thing, unless it is there."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, A: T, B: T) -> None:
        """Note that ``A``, which must be there, depends on ``B``."""
        self.adjacent[A].append(B)

    def connect(self, graph: DependencyGraph[T]) -> None:
        """Add what is in another graph."""
        self.adjacent.update(graph.adjacent)

    def update(self, it: Iterable[tuple[T, Iterable[T]]]) -> None:
        """Add pairs of a thing and those it depends on."""
        pairs = [(obj, list(needed)) for obj, needed in it]
        for obj, _ in pairs:
            self.add_arc(obj)
        for obj, needed in pairs:
            for other in needed:
                self.add_edge(obj, other)

    def edges(self) -> Iterator[T]:
        """The things that depend on others."""
        return (obj for obj, needed in self.adjacent.items() if needed)

    def valency_of(self, obj: T) -> int:
        """How many dependencies there are from ``obj`` on, those of its dependencies too."""
        needed = self.adjacent.get(obj, [])
        return len(needed) + sum(map(self.valency_of, needed))

    def topsort(self) -> list[T]:
        """The things in an order in which each comes after those it depends on; ``CycleError`` if none is."""
        order: list[T] = []
        entered: set[T] = set()
        done: set[T] = set()
        # A stack of our own: a chain of a thousand tasks must not end in a RecursionError.
        stack = [(obj, False) for obj in reversed(self.adjacent)]
        while stack:
            obj, left = stack.pop()
            if left:
                done.add(obj)
                order.append(obj)
            elif obj not in entered:
                entered.add(obj)
                stack.append((obj, True))
                for other in reversed(self.adjacent.get(obj, [])):
                    if other in entered and other not in done:
                        raise CycleError(f"{obj} and {other} depend on each other")
                    stack.append((other, False))
        return order

    def to_dot(self, fh: IO[str], formatter: GraphFormatter | None = None) -> None:
        """Write the graph in the DOT language to an open text file."""
        draw = formatter or self.formatter
        seen = set()
        print(draw.head(), file=fh)
        for obj, needed in self.adjacent.items():
            if draw.label(obj) not in seen:
                seen.add(draw.label(obj))
                print(draw.node(obj) if needed else draw.terminal_node(obj), file=fh)
            for other in needed:
                print(draw.edge(obj, other), file=fh)
        print(draw.tail(), file=fh)

    def __getitem__(self, node: T) -> list[T]:
        return self.adjacent[node]

    def __iter__(self) -> Iterator[T]:
        return iter(self.adjacent)

    def __len__(self) -> int:
        return len(self.adjacent)

    def __repr__(self) -> str:
        return "\n".join(f"{obj}({', '.join(map(str, needed))})" for obj, needed in self.adjacent.items())


class GraphFormatter:
    """How a graph is drawn. Subclasses may say what stands on a node (:meth:`label`), or draw otherwise."""

    scheme: Mapping[str, Any] = {
        "shape": "box", "arrowhead": "vee", "style": "filled", "fontname": "HelveticaNeue"
    }  # fmt: skip
    graph_scheme: Mapping[str, Any] = {"bgcolor": "mintcream"}
    node_scheme: Mapping[str, Any] = {"fillcolor": "palegreen3", "color": "palegreen4"}
    term_scheme: Mapping[str, Any] = {"fillcolor": "palegreen1", "color": "palegreen2"}
    edge_scheme: Mapping[str, Any] = {"color": "darkseagreen4", "arrowcolor": "black", "arrowsize": 0.7}

    def __init__(
        self,
        root: Any = None,
        type: str | None = None,
        id: str | None = None,
        indent: int = 0,
        inw: str = " " * 4,
        **scheme: Any,
    ) -> None:
        """``root`` is named in the head, ``type`` is ``digraph`` (default) or ``graph``, ``indent`` counts
        steps of ``inw``; ``scheme`` are attributes of nodes and edges."""
        self.root = root
        self.type = type or "digraph"
        self.id = id or "dependencies"
        self.direction = {"digraph": "->", "graph": "--"}[self.type]
        self.indent = inw * indent
        self.inner = self.indent + inw
        self.scheme = {**self.scheme, **scheme}

    def label(self, obj: Any) -> Any:
        """What stands for ``obj``."""
        return obj

    def head(self, **attrs: Any) -> str:
        """The first lines."""
        text = self.attrs({**self.graph_scheme, "root": self.label(self.root), **attrs})
        return f"{self.indent}{self.type} {self.id} {{\n{self.inner}graph [{text}]"

    def tail(self) -> str:
        """The last line."""
        return f"{self.indent}}}"

    def node(self, obj: Any, **attrs: Any) -> str:
        """The line of a thing that depends on others."""
        return self.draw_node(obj, {**self.node_scheme, **attrs})

    def terminal_node(self, obj: Any, **attrs: Any) -> str:
        """The line of a thing that depends on nothing."""
        return self.draw_node(obj, {**self.term_scheme, **attrs})

    def draw_node(self, obj: Any, attrs: Mapping[str, Any]) -> str:
        """The line of a node with these attributes."""
        return f'{self.inner}"{self.label(obj)}" [{self.attrs(attrs)}]'

    def edge(self, a: Any, b: Any, **attrs: Any) -> str:
        """The line of a dependency of ``a`` on ``b``."""
        text = self.attrs({**self.edge_scheme, **attrs})
        return f'{self.inner}"{self.label(a)}" {self.direction} "{self.label(b)}" [{text}]'

    def attrs(self, attrs: Mapping[str, Any]) -> str:
        """The attributes as text, those of the whole scheme first."""
        return ", ".join(f'{name}="{value}"' for name, value in {**self.scheme, **attrs}.items())
