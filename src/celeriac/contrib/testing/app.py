"""Applications for tests, and keeping one test's applications from the next."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from celeriac.app import state
from celeriac.app.base import Celeriac
from celeriac.app.log import Logging

DEFAULT_TEST_CONFIG: dict[str, Any] = {
    "accept_content": ["json"],
    "enable_utc": True,
    "timezone": "UTC",
    "worker_hijack_root_logger": False,
    "worker_log_color": False,
}
"""Settings of a :func:`TestApp` that is given none. Its broker is a memory store of its own."""


class UnitLogging(Logging):
    """Logging that leaves the handlers of the test's process alone."""

    def __init__(self, app: Celeriac) -> None:
        super().__init__(app)
        self.already_setup = True


class Trap:
    """Stands for the current application, and refuses every use of it."""

    main = "trap"

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(
            f"current_app.{name} was used, though the test has an application of its own: hand that one on "
            "(the fixture use_celery_app_trap is on)"
        )


def TestApp(
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    enable_logging: bool = False,
    set_as_current: bool = False,
    log: Any = UnitLogging,
    backend: Any = None,
    broker: str | None = None,
    **kwargs: Any,
) -> Celeriac:
    """An application for a test: ``config`` holds its settings, ``kwargs`` are :class:`Celeriac`'s.

    Without a broker in ``broker`` or ``config`` it has a ``memory://`` store that no other application
    shares, and results are kept there too. ``enable_logging`` lets workers set logging up as usual.
    """
    config = config or DEFAULT_TEST_CONFIG
    app = Celeriac(
        name or "celeriac.tests",
        set_as_current=set_as_current,
        log=Logging if enable_logging else log,
        backend=backend,
        **kwargs,
    )
    app.add_defaults({"broker_url": broker or f"memory://test-{uuid.uuid4().hex}", **config})
    return app


TestApp.__test__ = False  # type: ignore[attr-defined]


@contextmanager
def set_trap(app: Celeriac) -> Iterator[None]:
    """Make every use of the current or default application an error in this block."""
    with state.restored_apps():
        trap: Any = Trap()
        state.set_default_app(trap)
        state.set_current_app(trap)
        yield


@contextmanager
def setup_default_app(app: Celeriac, use_trap: bool = False) -> Iterator[None]:
    """Put back, at the end of the block, which application was current, and forget the block's shared tasks.

    With ``use_trap`` any use of the current application inside of it is an error.
    """
    with state.restored_apps():
        if use_trap:
            with set_trap(app):
                yield
        else:
            yield
