"""One run of the command line: the global options, and the application they lead to."""

from __future__ import annotations

import os
import sys
from functools import cached_property
from typing import TYPE_CHECKING

import click

from celeriac.cli.errors import Failure

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.base import Broker, Coordinator

_ENVIRONMENT = {
    "broker": "CELERY_BROKER_URL",
    "result_backend": "CELERY_RESULT_BACKEND",
    "loader": "CELERY_LOADER",
    "config": "CELERY_CONFIG_MODULE",
}


class Session:
    """The global options as given, before or after the command."""

    def __init__(self) -> None:
        self.app: str | None = None
        self.broker: str | None = None
        self.result_backend: str | None = None
        self.loader: str | None = None
        self.config: str | None = None
        self.workdir: str | None = None
        self.no_color: bool | None = None
        self.quiet: bool | None = None
        self.skip_checks: bool | None = None

    @cached_property
    def application(self) -> Celeriac:
        """The application that ``-A`` names (Celery's rules), with its tasks still to be imported.

        Raises ``Failure`` saying what was tried.
        """
        self.enter()
        from celeriac.app.find import find_app

        return find_app(self.app)

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
                "use SQLite or Redis for one of them"
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
