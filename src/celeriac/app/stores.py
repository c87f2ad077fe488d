"""Opening an application's stores: which URL, which options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac import engines, serialization
from celeriac.app import ids
from celeriac.exceptions import ImproperlyConfigured
from celeriac.settings import Settings

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.base import Broker


def open_broker(app: Celeriac, url: str | None) -> Broker:
    """The broker at ``url``, or at the default one; not yet connected."""
    conf = app.conf
    url = url or app.default_url
    options = {**_store_options(conf, url), **(conf.broker_transport_options or {})}
    if conf.broker_use_ssl:
        options.setdefault("ssl", conf.broker_use_ssl)
    if url.startswith(("amqp", "pyamqp")):
        options = {**_amqp_options(conf), **options, "queues": lambda: app.queues}
    return engines.create(url, options)


def _open_rpc(app: Celeriac) -> Any:
    """Results as messages to the client, over the broker's server (RabbitMQ only)."""
    conf = app.conf
    url = conf.broker_read_url or app.default_url
    if not url.startswith(("amqp", "pyamqp")):
        raise ImproperlyConfigured(
            "result_backend rpc:// needs RabbitMQ as broker_url. Leave result_backend out to keep results in "
            "the broker's store, or use redis:// or sqlite://"
        )
    from celeriac.engines import rabbitmq

    options = {**_amqp_options(conf), **_store_options(conf, url), **(conf.broker_transport_options or {})}
    if conf.broker_use_ssl:
        options.setdefault("ssl", conf.broker_use_ssl)
    form = serialization.serializer(conf.result_serializer)
    options.update(
        reply_queue=ids.oid,
        content_type=(form.content_type, form.content_encoding),
        result_persistent=conf.result_persistent,
        result_expires=conf.result_expires,
    )
    return rabbitmq.create_rpc(url, options)


def _amqp_options(conf: Settings) -> dict[str, Any]:
    """The settings that concern RabbitMQ alone."""
    return {
        "delay_queue_type": conf.broker_native_delayed_delivery_queue_type,
        "failover_strategy": conf.broker_failover_strategy,
        "heartbeat": conf.broker_heartbeat,
        "login_method": conf.broker_login_method,
    }


def tracks_queued(conf: Settings, url: str) -> bool:
    """Whether publishing to the broker at ``url`` records that a task is queued (``task_track_queued``)."""
    wanted: bool | None = conf.task_track_queued
    return url.startswith(("sqlite", "postgres")) if wanted is None else wanted


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
        return _open_rpc(app)
    if url == conf.broker_read_url:
        return app.broker
    options = {**_store_options(conf, url), **_redis_options(conf, scheme)}
    options.update(conf.result_backend_transport_options or {})
    if conf.redis_backend_use_ssl:
        options.setdefault("ssl", conf.redis_backend_use_ssl)
    return engines.create(url.replace("cache+memory:", "memory:"), options)


def _redis_options(conf: Settings, scheme: str) -> dict[str, Any]:
    """The ``redis_*`` settings, which concern a result backend of its own."""
    if scheme not in ("redis", "rediss", "redis+socket", "unix", "sentinel"):
        return {}
    options = {
        "client_name": conf.redis_client_name,
        "health_check_interval": conf.redis_backend_health_check_interval,
        "socket_connect_timeout": conf.redis_socket_connect_timeout,
        "socket_keepalive": conf.redis_socket_keepalive,
        "socket_timeout": conf.redis_socket_timeout,
    }
    return {name: value for name, value in options.items() if value is not None}


def _store_options(conf: Settings, url: str) -> dict[str, Any]:
    """Settings that are the stores' business; the transport options go before them."""
    return {
        "broker_delay": conf.broker_delay,
        "dead_letters_expires": conf.dead_letter_expires,
        "dead_letters_max": conf.dead_letter_max,
        "priority_order": conf.task_priority_order,
        "publish_timeout": conf.broker_publish_timeout,
        # What was never known to be queued cannot be told from expired either: one switch for both records.
        "result_tombstone_expires": conf.result_tombstone_expires if tracks_queued(conf, url) else 0,
        "socket_connect_timeout": min(conf.broker_connection_timeout, conf.broker_publish_timeout),
    }
