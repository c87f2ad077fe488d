"""What is worth knowing about one Python source file. Plain functions: nothing here knows of task queues."""

from __future__ import annotations

import ast
import io
import symtable
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any, TypedDict

BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.match_case,
    ast.comprehension,
    ast.BoolOp,
    ast.Assert,
)
NOT_THE_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


class FileReport(TypedDict):
    """The figures of one file; JSON as it stands."""

    module: str
    lines: int
    comments: int
    functions: int
    classes: int
    branches: int
    names: int
    instructions: int
    longest: tuple[str, int]
    """The longest function and its lines."""
    knottiest: tuple[str, int]
    """The function with the most independent paths through it, and how many they are."""


def library_files() -> list[tuple[str, str]]:
    """Return ``(dotted name, path)`` of every module of the installed standard library, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if NOT_THE_LIBRARY.isdisjoint(parts) and not parts[0].startswith("config-"):
            files.append((".".join(parts).removesuffix(".__init__"), str(path)))
    return files


def analyse(module: str, source: bytes) -> FileReport:
    """Parse, tokenise, compile and measure ``source``. Raises ``SyntaxError`` if it is not Python."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return FileReport(
        module=module,
        lines=source.count(b"\n"),
        comments=_comments(source),
        functions=len(functions),
        classes=sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree)),
        branches=_branches(tree),
        names=_names(symtable.symtable(source, module, "exec")),
        instructions=sum(len(code.co_code) // 2 for code in _codes(compile(tree, module, "exec"))),
        longest=_most((node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions),
        knottiest=_most((node.name, 1 + _branches(node)) for node in functions),
    )


def _comments(source: bytes) -> int:
    return sum(token.type == tokenize.COMMENT for token in tokenize.tokenize(io.BytesIO(source).readline))


def _branches(tree: ast.AST) -> int:
    return sum(isinstance(node, BRANCHES) for node in ast.walk(tree))


def _names(table: symtable.SymbolTable) -> int:
    return len(table.get_symbols()) + sum(_names(child) for child in table.get_children())


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _most(figures: Iterator[tuple[str, int]]) -> tuple[str, int]:
    empty: Any = ("", 0)
    return max(figures, key=lambda figure: figure[1], default=empty)
