"""Tasks that misbehave, for ``-I tests.integration.bad_tasks``."""

from __future__ import annotations

from typing import Any

from tests.integration.project import app


class OddError(Exception):
    """Its argument can be neither serialised nor shown."""

    def __init__(self, thing: Any) -> None:
        super().__init__(thing)


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr for you")


@app.task
def raise_odd() -> None:
    raise OddError(object())


@app.task
def raise_unshowable() -> None:
    raise OddError(Unshowable())


@app.task
def large(size: int) -> str:
    return "x" * size


@app.task
def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@app.task
def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value
