"""The tasks that tests of canvases use, for any application: unit tests define them, and so do workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from celeriac import Celeriac


def define(app: Celeriac, calls: list[Any]) -> SimpleNamespace:
    """Register them with ``app`` and return them; ``calls`` notes what callbacks are called with."""

    @app.task(name="t.add")
    def add(x: Any, y: Any) -> Any:
        return x + y

    @app.task(name="t.total")
    def total(values: Any) -> Any:
        return sum(values)

    @app.task(name="t.listed")
    def listed(*values: Any, **more: Any) -> Any:
        return [*values, *([more] if more else [])]

    @app.task(name="t.fail")
    def fail(*args: Any) -> None:
        raise ValueError(*args)

    @app.task(name="t.replace", bind=True)
    def replace(self: Any, sig: Any) -> Any:
        return self.replace(self.app.signature(sig))

    @app.task(name="t.more", bind=True)
    def more(self: Any, value: Any, lazy: bool = False) -> Any:
        added = self.add_to_chord(add.s(value, 100), lazy=lazy)
        if lazy:
            added.delay()
        return value

    @app.task(name="t.start", bind=True)
    def start(self: Any, sig: Any) -> Any:
        return self.app.signature(sig).delay().id

    @app.task(name="t.stamps", bind=True)
    def stamps(self: Any, *args: Any) -> Any:
        return self.request.stamps

    @app.task(name="t.old")
    def old(task_id: str) -> None:
        calls.append(("old", task_id))

    @app.task(name="t.new")
    def new(request: Any, error: BaseException, traceback: Any) -> None:
        calls.append(("new", request.id, type(error).__name__))

    @app.task(name="t.note")
    def note(*args: Any) -> None:
        calls.append(("note", *args))

    return SimpleNamespace(
        add=add, total=total, listed=listed, fail=fail, replace=replace, more=more, start=start,
        stamps=stamps, old=old, new=new, note=note,
    )  # fmt: skip
