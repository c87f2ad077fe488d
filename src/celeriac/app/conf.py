"""An application's configuration: its settings, and the signals around their reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.app.annotations import annotate_all
from celeriac.settings import Settings, from_object

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


class Configuration(Settings):
    """Settings that tell their application when they are read: ``on_configure`` before, then
    ``on_after_configure``, whose receivers may use the settings."""

    __slots__ = ("_announced", "_app", "_given")

    def __init__(self, app: Celeriac, changes: Mapping[str, Any]) -> None:
        self._app = app
        self._announced = False
        self._given: tuple[Any, str | None, bool] | None = None
        super().__init__(changes, self._read_source)

    def use(self, source: Any, namespace: str | None, silent: bool) -> None:
        """Read ``source`` (see ``Celeriac.config_from_object``) at the next use of a setting."""
        self._given = (source, namespace, silent)
        self.configure(self._read_source, namespace=namespace)

    def load(self) -> None:
        """Read the configuration if that has not been done."""
        super().load()
        if not self._announced:
            with self._lock:
                first, self._announced = not self._announced, True
            if first:
                annotate_all(self._app)
                if "periodic" in self._app.__dict__:
                    self._app.periodic.settle()
                self._app.on_after_configure.send(sender=self._app, source=self)

    def _read_source(self) -> dict[str, Any]:
        self._app.on_configure.send(sender=self._app)
        if self._given is None:
            return {}
        source, namespace, silent = self._given
        return from_object(source, namespace, silent=silent)


def given(broker: str | None, backend: Any, include: Iterable[str] | str | None) -> dict[str, Any]:
    """The settings that have arguments of their own."""
    found: dict[str, Any] = {}
    if broker is not None:
        found["broker_url"] = broker
    if isinstance(backend, str):
        found["result_backend"] = backend
    if include is not None:
        found["include"] = [include] if isinstance(include, str) else list(include)
    return found
