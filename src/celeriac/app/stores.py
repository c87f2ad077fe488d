"""Opening an application's stores: which URL, which options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac import engines
from celeriac.exceptions import ImproperlyConfigured
from celeriac.settings import Settings

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.base import Broker


def open_broker(app: Celeriac, url: str | None) -> Broker:
    """The broker at ``url``, or at the default one; not yet connected."""
    conf = app.conf
    options = {**_store_options(conf), **(conf.broker_transport_options or {})}
    if conf.broker_use_ssl:
        options.setdefault("ssl", conf.broker_use_ssl)
    return engines.create(url or app.default_url, options)


def open_backend(app: Celeriac) -> Any:
    """The result backend, which may be the broker itself; ``None`` if results are turned off."""
    conf = app.conf
    url = conf.result_backend
    if not url:
        return app.broker if hasattr(app.broker, "subscribe") else None
    scheme = url.partition(":")[0]
    if scheme == "disabled":
        return None
    if scheme == "rpc":
        raise ImproperlyConfigured(
            "result_backend rpc:// is not supported: its results are lost with the process that waits "
            "for them. Leave result_backend out to keep results in the broker's store, or use redis:// or "
            "sqlite://"
        )
    if url == conf.broker_read_url:
        return app.broker
    options = {**_store_options(conf), **(conf.result_backend_transport_options or {})}
    if conf.redis_backend_use_ssl:
        options.setdefault("ssl", conf.redis_backend_use_ssl)
    return engines.create(url.replace("cache+memory:", "memory:"), options)


def _store_options(conf: Settings) -> dict[str, Any]:
    """Settings that are the stores' business; the transport options go before them."""
    return {
        "broker_delay": conf.broker_delay,
        "dead_letters_expires": conf.dead_letter_expires,
        "dead_letters_max": conf.dead_letter_max,
        "publish_timeout": conf.broker_publish_timeout,
        "result_tombstone_expires": conf.result_tombstone_expires,
        "socket_connect_timeout": min(conf.broker_connection_timeout, conf.broker_publish_timeout),
        "task_priority_order": conf.task_priority_order,
    }
