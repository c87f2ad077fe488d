"""One run of the command line: the global options, and the application they lead to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from celeriac.cli.errors import Failure, did_you_mean, wants_traceback
from celeriac.exceptions import CeleriacError, ImproperlyConfigured
from celeriac.platforms import EX_USAGE

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.base import Broker
    from celeriac.engines.coordinator import Coordinator

_ENVIRONMENT = {
    "broker": "CELERY_BROKER_URL",
    "result_backend": "CELERY_RESULT_BACKEND",
    "loader": "CELERY_LOADER",
    "config": "CELERY_CONFIG_MODULE",
}


class Session:
    """The global options as given, before or after the command."""

    def __init__(self, given: Celeriac | None = None) -> None:
        self._given = given
        self.app: str | None = None
        self.broker: str | None = None
        self.result_backend: str | None = None
        self.loader: str | None = None
        self.config: str | None = None
        self.workdir: str | None = None
        self.no_color: bool | None = None
        self.quiet: bool | None = None
        self.skip_checks: bool | None = None
        self.preload: dict[str, Any] = {}
        """What was given of ``app.user_options["preload"]``."""
        self.parsed = False
        """The command line has been read to its end."""
        self._announced = False

    @property
    def has_application(self) -> bool:
        """Whether an application was named, or handed over; else there is only the current one."""
        return bool(self.app) or self._given is not None

    @property
    def loaded(self) -> bool:
        """Whether the application has been loaded."""
        return "_application" in self.__dict__

    @property
    def application(self) -> Celeriac:
        """The application that ``-A`` names (Celery's rules), with its tasks still to be imported.

        The first use after the command line was read sends the signal ``user_preload_options``. Raises
        ``Failure`` saying what was tried, or where its module fails.
        """
        app = self._application
        if self.parsed and not self._announced:
            self._announced = True
            self._announce(app)
        return app

    def _announce(self, app: Celeriac) -> None:
        from celeriac import signals

        context = click.get_current_context()
        values = {
            option.name: self.preload.get(option.name, default_of(option, context))
            for option in user_options(app, "preload")
            if option.name
        }
        signals.user_preload_options.send(sender=context.command.name, app=app, options=values)

    @cached_property
    def _application(self) -> Celeriac:
        self.enter()
        if self._given is not None and not self.app:
            return self._given
        from celeriac.app.find import find_app

        try:
            with _in_user_code(f"-A {self.app}"):
                return find_app(self.app)
        except ImproperlyConfigured as exc:
            raise Failure(f"{exc}.{_module_like(self.app)}", EX_USAGE) from None

    def import_tasks(self) -> None:
        """Import the modules of the application's tasks. Raises ``Failure`` if one fails."""
        with _in_user_code("importing the tasks' modules"):
            self.application.import_tasks()
            self.application.finalize()

    @property
    def broker_engine(self) -> Broker:
        """The application's broker."""
        return self.application.broker

    @property
    def coordinator(self) -> Coordinator:
        """What its workers agree on. Raises ``Failure`` if neither broker nor result backend can be that."""
        coordinator = self.application.coordinator
        if coordinator is None:
            raise Failure(
                "neither the broker nor the result backend of this application keeps track of workers: "
                "use SQLite, PostgreSQL or Redis for one of them"
            )
        return coordinator

    def enter(self) -> None:
        """Change directory and hand the options on by the environment, where child processes see them too."""
        if self.workdir:
            try:
                os.chdir(self.workdir)
            except OSError as exc:
                raise Failure(f"--workdir: cannot change to {self.workdir}: {exc.strerror}") from None
        here = os.getcwd()
        if here not in sys.path:
            sys.path.insert(0, here)
        for name, variable in _ENVIRONMENT.items():
            if value := getattr(self, name):
                os.environ[variable] = value
        if self.skip_checks:
            os.environ["CELERY_SKIP_CHECKS"] = "true"

    def say(self, text: str) -> None:
        """Tell people something on standard error, unless ``--quiet``; scripts read standard output."""
        if not self.quiet:
            click.echo(text, err=True)


def user_options(app: Celeriac, key: str) -> list[click.Option]:
    """The options that the application itself has for a command, or for all (``"preload"``).

    Raises ``Failure`` for what is no ``click.Option``.
    """
    found = list(app.user_options.get(key, ()))
    for one in found:
        if not isinstance(one, click.Option):
            raise Failure(
                f"app.user_options[{key!r}]: {one!r} is not an option. Options are written as "
                "click.Option(['--name'], help='...')"
            )
    return sorted(found, key=lambda one: one.name or "")


def default_of(option: click.Option, context: click.Context) -> Any:
    """What an option is when it is not given: its default, converted."""
    value, _ = option.handle_parse_result(context, {}, [])
    # Newer versions of click have a value of their own for "none".
    return None if value is getattr(click.core, "UNSET", None) else value


def _module_like(spec: str | None) -> str:
    """Propose modules of this directory whose name is nearly the one asked for."""
    wanted = (spec or "").partition(":")[0].partition(".")[0]
    here = {name.removesuffix(".py") for name in os.listdir() if name.endswith(".py") or os.path.isdir(name)}
    return "" if wanted in here else did_you_mean(wanted, here)


@contextmanager
def _in_user_code(doing: str) -> Iterator[None]:
    """Tell an error in the application's own modules in a sentence that names the line."""
    try:
        yield
    except CeleriacError:
        raise
    except Exception as exc:
        if wants_traceback():
            raise
        import traceback

        frames = [
            frame
            for frame in traceback.extract_tb(exc.__traceback__)
            if not frame.filename.startswith("<frozen")
        ]
        where = f"{frames[-1].filename}, line {frames[-1].lineno}"
        if isinstance(exc, SyntaxError) and exc.filename:
            where = f"{exc.filename}, line {exc.lineno}"
        raise Failure(
            f"{doing}: {type(exc).__name__}: {getattr(exc, 'msg', None) or exc} ({where}). "
            "CELERIAC_DEBUG=1 shows the whole traceback."
        ) from exc
