"""Engines: the servers that keep messages and results. :func:`create` opens one by its URL.

An engine is loaded when its URL's scheme is first used, so a client imports only what it talks to.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from celeriac.engines.base import Engine
from celeriac.exceptions import ImproperlyConfigured

ENGINES: dict[str, str] = {
    "sqlite": "celeriac.engines.sqlite",
    "redis": "celeriac.engines.redis",
    "rediss": "celeriac.engines.redis",
    "sentinel": "celeriac.engines.redis",
    "unix": "celeriac.engines.redis",
    "postgresql": "celeriac.engines.postgres",
    "postgres": "celeriac.engines.postgres",
    "db+postgresql": "celeriac.engines.postgres",
    "memory": "celeriac.engines.memory",
    "amqp": "celeriac.engines.rabbitmq",
    "amqps": "celeriac.engines.rabbitmq",
    "pyamqp": "celeriac.engines.rabbitmq",
}
"""URL scheme -> module with a function ``create(url, options) -> Engine``."""


GROUP = "celeriac.engines"
"""The entry point group of other packages' engines: URL scheme = ``package.module:create``."""


def create(url: str, options: Mapping[str, Any] | None = None) -> Engine:
    """Return the engine for ``url``, not yet connected.

    ``options`` are the broker's or backend's transport options. Our own engines go first, then those that
    installed packages bring (``docs/engines.md``). Raises ``ImproperlyConfigured`` for a scheme that has no
    engine, and for another package's that cannot be loaded.
    """
    scheme = url.partition(":")[0].lower()
    for name in (scheme, scheme.partition("+")[0]):
        if name in ENGINES:
            engine: Engine = import_module(ENGINES[name]).create(url, options or {})
            return engine
        if (maker := _of_another_package(name)) is not None:
            engine = maker(url, options or {})
            return engine
    known = ", ".join(sorted({*ENGINES, *schemes_of_others()}))
    raise ImproperlyConfigured(
        f"no engine for URLs of the kind {scheme!r}: use one of {known}, "
        "for example sqlite:///celeriac.db or redis://localhost:6379/0"
    )


def schemes_of_others() -> list[str]:
    """The URL schemes for which installed packages bring engines, sorted."""
    from importlib.metadata import entry_points  # slow, and mostly nobody asks

    return sorted({point.name for point in entry_points(group=GROUP)})


def _of_another_package(scheme: str) -> Any:
    from importlib.metadata import entry_points

    found = list(entry_points(group=GROUP, name=scheme))
    if len({point.value for point in found}) > 1:
        names = ", ".join(sorted({f"{point.value} of {_package(point)}" for point in found}))
        raise ImproperlyConfigured(f"two packages bring an engine for {scheme}://: {names}. Uninstall one")
    if not found:
        return None
    try:
        return found[0].load()
    except Exception as error:
        raise ImproperlyConfigured(
            f"the engine for {scheme}:// ({found[0].value} of {_package(found[0])}) cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error


def _package(point: Any) -> str:
    return str(point.dist.name) if point.dist is not None else "an unknown package"
