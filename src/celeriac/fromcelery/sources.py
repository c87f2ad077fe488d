"""What a project's files say without being run: imports of Celery, plug-ins, and command lines."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_SKIPPED: Final = frozenset((
    "node_modules", "site-packages", "__pycache__", "build", "dist", "venv", "env", "migrations",
))  # fmt: skip
_SCRIPTS: Final = (
    "Procfile",
    "Dockerfile",
    "Makefile",
    "*.sh",
    "*.service",
    "*.yml",
    "*.yaml",
    "*.toml",
    "*.conf",
)
_COMMAND: Final = re.compile(r"\bcelery\b(?:\s+-\S+(?:[ =]\S+)?)*\s+(worker|beat|multi|flower|events)\b.*")
_FILES_AT_MOST: Final = 20_000


@dataclass
class Scan:
    """What was found, each with the places where it was (``file:line``)."""

    imports: dict[str, list[str]] = field(default_factory=dict)
    """Names imported from Celery, kombu or a plug-in: ``celery.contrib.rdb``, ``kombu.Queue``, ..."""
    missing: dict[str, list[str]] = field(default_factory=dict)
    """Of Celery's names, those that are not there under ``celeriac``."""
    unreadable: list[str] = field(default_factory=list)
    """Files that are no Python."""
    commands: dict[str, list[str]] = field(default_factory=dict)
    """Flags of ``celery worker`` and ``celery beat`` in scripts, as ``worker --pool``."""


def scan(folder: Path) -> Scan:
    """Look through the files under a folder, environments and hidden folders left out."""
    found = Scan()
    for path in _files(folder, "*.py"):
        where = path.relative_to(folder)
        try:
            tree = ast.parse(path.read_bytes(), str(path))
        except (SyntaxError, ValueError):
            found.unreadable.append(str(where))
            continue
        for name, line in _imports(tree):
            found.imports.setdefault(name, []).append(f"{where}:{line}")
            if name.partition(".")[0] == "celery" and not _is_here(name):
                found.missing.setdefault(name, []).append(f"{where}:{line}")
    for pattern in _SCRIPTS:
        for path in _files(folder, pattern):
            for number, text in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
                for flag in _flags(text):
                    found.commands.setdefault(flag, []).append(f"{path.relative_to(folder)}:{number}")
    return found


def _files(folder: Path, pattern: str) -> Iterator[Path]:
    count = 0
    for path in sorted(folder.rglob(pattern)):
        parts = path.relative_to(folder).parts
        if any(part in _SKIPPED or part.startswith(".") for part in parts) or not path.is_file():
            continue
        if any((folder.joinpath(*parts[:depth]) / "pyvenv.cfg").exists() for depth in range(1, len(parts))):
            continue
        count += 1
        if count > _FILES_AT_MOST:
            return
        yield path


def _imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Absolute imports, each name with its module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield (node.module if alias.name == "*" else f"{node.module}.{alias.name}"), node.lineno


def _is_here(name: str) -> bool:
    """Whether Celeriac has the same module or name."""
    own = f"celeriac{name.removeprefix('celery')}"
    try:
        importlib.import_module(own)
        return True
    except ImportError:
        module, _, attribute = own.rpartition(".")
    try:
        return bool(module) and hasattr(importlib.import_module(module), attribute)
    except ImportError:
        return False


def _flags(line: str) -> Iterator[str]:
    match = _COMMAND.search(line)
    if match is None:
        return
    try:
        words = shlex.split(match[0].rstrip("\\\"'], "), comments=True)
    except ValueError:
        words = match[0].split()
    command = match[1]
    yield command
    for word in words:
        if word.startswith("-") and len(word) > 1:
            yield f"{command} {word.partition('=')[0]}"
