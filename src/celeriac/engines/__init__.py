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


def create(url: str, options: Mapping[str, Any] | None = None) -> Engine:
    """Return the engine for ``url``, not yet connected.

    ``options`` are the broker's or backend's transport options. Raises ``ImproperlyConfigured`` for a
    scheme we have no engine for.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in ENGINES:
        scheme = scheme.partition("+")[0]
    try:
        module = ENGINES[scheme]
    except KeyError:
        known = ", ".join(sorted(ENGINES))
        raise ImproperlyConfigured(
            f"no engine for URLs of the kind {scheme!r}: use one of {known}, "
            "for example sqlite:///celeriac.db or redis://localhost:6379/0"
        ) from None
    engine: Engine = import_module(module).create(url, options or {})
    return engine
