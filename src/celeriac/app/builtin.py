"""Tasks that every application has, under Celery's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


def add_builtin_tasks(app: Celeriac) -> None:
    """Register them with ``app``."""

    def backend_cleanup() -> int | None:
        """Delete expired results, where the store does not do it itself; return how many."""
        return app.backend.cleanup() if app.backend is not None else None

    def accumulate(*args: Any, **kwargs: Any) -> Any:
        """Return the arguments as a list, or the one with the number ``index``."""
        index = kwargs.get("index")
        return args[index] if index is not None else args

    app.add_task(backend_cleanup, name="celery.backend_cleanup")
    app.add_task(accumulate, name="celery.accumulate")
