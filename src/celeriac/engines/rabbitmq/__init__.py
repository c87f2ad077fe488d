"""RabbitMQ (``amqp://``, ``amqps://``, ``pyamqp://``): a broker that shares its queues with Celery.

It keeps messages and nothing else: results and what workers must agree on are another store's, the result
backend's. Options (Celery's transport options): ``heartbeat``, ``login_method``, ``connect_timeout``,
``read_timeout``, ``ssl``, ``failover_strategy``, and ``consumer_timeout`` (seconds, 1800: the server's, so
that a worker can warn of tasks that may run longer).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from celeriac.exceptions import ImproperlyConfigured

_ENGINES: weakref.WeakSet[Any] = weakref.WeakSet()


def create(url: str, options: Mapping[str, Any]) -> Any:
    """Return the broker for ``url``, not yet connected. Raises ``ImproperlyConfigured``."""
    _need_library()
    from celeriac.engines.rabbitmq.broker import RabbitBroker

    engine = RabbitBroker(url, options)
    _ENGINES.add(engine)
    return engine


def create_rpc(url: str, options: Mapping[str, Any]) -> Any:
    """Return ``rpc://`` results over the broker at ``url``. Raises ``ImproperlyConfigured``."""
    _need_library()
    from celeriac.engines.rabbitmq.rpc import RpcResults

    engine = RpcResults(url, options)
    _ENGINES.add(engine)
    return engine


def _need_library() -> None:
    if find_spec("amqp") is None:
        raise ImproperlyConfigured(
            "RabbitMQ needs the library amqp: install it with pip install 'celeriac[rabbitmq]'"
        )


def _after_fork() -> None:
    for engine in list(_ENGINES):
        engine.drop_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
