"""The stores of an application: which URL, which options, opened once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from celeriac import engines, serialization
from celeriac.app import ids
from celeriac.app.names import main_module
from celeriac.engines.history import HistoryStore
from celeriac.engines.mailbox import Mailbox
from celeriac.exceptions import ImproperlyConfigured
from celeriac.settings import Settings

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.base import Broker
    from celeriac.engines.results import ResultBackend


class Stores:
    """An application's connections to its stores. They are opened when they are first asked for."""

    def __init__(self, app: Celeriac, backend: ResultBackend | None = None) -> None:
        """``backend`` is used in place of that of the settings."""
        self._app = app
        self._lock = threading.RLock()
        self.broker: Broker | None = None
        self.write_broker: Broker | None = None
        self.backend = backend
        self.backend_known = backend is not None
        """Whether ``backend`` is set, if only to ``None``."""

    def open_broker(self) -> Broker:
        """The broker for workers; not yet connected."""
        with self._lock:
            if self.broker is None:
                self.broker = self.open_at(self._app.conf.broker_read_url)
            return self.broker

    def open_write_broker(self) -> Broker:
        """The broker for clients, mostly the same."""
        with self._lock:
            if self.write_broker is None:
                conf = self._app.conf
                same = conf.broker_write_url == conf.broker_read_url
                self.write_broker = self._app.broker if same else self.open_at(conf.broker_write_url)
            return self.write_broker

    def open_backend(self) -> ResultBackend | None:
        """The result backend, which may be the broker itself; ``None`` if results are turned off."""
        with self._lock:
            if not self.backend_known:
                self.use_backend(self._create_backend())
            return self.backend

    def use_backend(self, backend: ResultBackend | None) -> None:
        """Take this backend for the one of the settings."""
        self.backend, self.backend_known = backend, True

    @property
    def opened(self) -> bool:
        """Whether one has been opened since the start, or since :meth:`close`."""
        return self.broker is not None or self.write_broker is not None or self.backend_known

    def close(self) -> None:
        """Close those that are open; they are opened again when they are asked for."""
        with self._lock:
            opened = {id(s): s for s in (self.broker, self.write_broker, self.backend) if s is not None}
            self.broker = self.write_broker = self.backend = None
            self.backend_known = False
        for store in opened.values():
            if hasattr(store, "close"):
                store.close()

    def open_at(self, url: str | None, **more: Any) -> Broker:
        """A broker at ``url`` with this application's options and ``more``; the caller closes it."""
        url = url or self._app.default_url
        options = _broker_options(self._app, url)
        if url.startswith(_AMQP):
            options.update(queues=lambda: self._app.queues, nodes=lambda: _living(self._app))
        return engines.create(url, {**options, **more})

    def _create_backend(self) -> Any:
        app, conf = self._app, self._app.conf
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
        options = {**_store_options(app, url), **_redis_options(conf, scheme)}
        options.update(conf.result_backend_transport_options or {})
        if conf.redis_backend_use_ssl:
            options.setdefault("ssl", conf.redis_backend_use_ssl)
        return engines.create(url.replace("cache+memory:", "memory:"), options)


def _open_rpc(app: Celeriac) -> Any:
    """Results as messages to the client, over the broker's server (RabbitMQ only)."""
    conf = app.conf
    url = conf.broker_read_url or app.default_url
    if not url.startswith(_AMQP):
        raise ImproperlyConfigured(
            "result_backend rpc:// needs RabbitMQ as broker_url. Leave result_backend out to keep results in "
            "the broker's store, or use redis://, postgresql:// or sqlite://"
        )
    from celeriac.engines import rabbitmq

    form = serialization.serializer(conf.result_serializer)
    results = {
        "reply_queue": ids.oid,
        "content_type": (form.content_type, form.content_encoding),
        "result_persistent": conf.result_persistent,
        "result_expires": conf.result_expires,
    }
    return rabbitmq.create_rpc(url, {**_broker_options(app, url), **results})


_AMQP = ("amqp", "pyamqp")
"""What RabbitMQ's URLs begin with."""


def _broker_options(app: Celeriac, url: str) -> dict[str, Any]:
    """The settings that concern a broker at ``url``; the transport options go before them."""
    conf = app.conf
    options = _store_options(app, url)
    if url.startswith(_AMQP):
        options |= {
            "delay_queue_type": conf.broker_native_delayed_delivery_queue_type,
            "failover_strategy": conf.broker_failover_strategy,
            "heartbeat": conf.broker_heartbeat,
            "login_method": conf.broker_login_method,
        }
    options |= conf.broker_transport_options or {}
    if conf.broker_use_ssl:
        options.setdefault("ssl", conf.broker_use_ssl)
    return options


def tracks_queued(conf: Settings, url: str) -> bool:
    """Whether publishing to the broker at ``url`` records that a task is queued (``task_track_queued``)."""
    wanted: bool | None = conf.task_track_queued
    return url.startswith(("sqlite", "postgres")) if wanted is None else wanted


def history_store(*stores: object) -> HistoryStore | None:
    """The first store that keeps a history."""
    return next((store for store in stores if isinstance(store, HistoryStore)), None)


def schedule_scope(app: Celeriac) -> str:
    """Whose schedule an application's beats keep: ``beat_scope``, else its name; "" if it has none.

    A script's application that is called ``__main__`` is called as its module is where others import it.
    """
    if app.conf.beat_scope is not None:
        return str(app.conf.beat_scope)
    return main_module() if app.main == "__main__" else app.main or ""


def _living(app: Celeriac) -> set[str]:
    """The names of the workers that the coordinator knows to live; none without one."""
    coordinator = app.coordinator
    return set() if coordinator is None else {node.name for node in coordinator.nodes()}


def mailbox(app: Celeriac) -> Mailbox:
    """Where orders to workers and their answers go (``control_*``). Raises ``ImproperlyConfigured``."""
    conf = app.conf
    return Mailbox(
        namespace=conf.control_exchange,
        ttl=conf.control_queue_ttl,
        expires=conf.control_queue_expires,
        durable=conf.control_queue_durable,
        exclusive=conf.control_queue_exclusive,
        serializer=conf.task_serializer,
        accept=app.accept_content,
    )


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


def _store_options(app: Celeriac, url: str) -> dict[str, Any]:
    """Settings that are the stores' business; the transport options go before them."""
    conf = app.conf
    return {
        "broker_delay": conf.broker_delay,
        "dead_letters_expires": conf.dead_letter_expires,
        "dead_letters_max": conf.dead_letter_max,
        "event_exchange": conf.event_exchange,
        "event_queue_durable": conf.event_queue_durable,
        "event_queue_exclusive": conf.event_queue_exclusive,
        "event_queue_expires": conf.event_queue_expires,
        "event_queue_prefix": conf.event_queue_prefix,
        "event_queue_ttl": conf.event_queue_ttl,
        "event_serializer": conf.event_serializer,
        "history_max": conf.task_history_max,
        "mailbox": lambda: mailbox(app),
        "priority_order": conf.task_priority_order,
        "publish_timeout": conf.broker_publish_timeout,
        "schedule_scope": schedule_scope(app),
        # What was never known to be queued cannot be told from expired either: one switch for both records.
        "result_tombstone_expires": conf.result_tombstone_expires if tracks_queued(conf, url) else 0,
        "socket_connect_timeout": min(conf.broker_connection_timeout, conf.broker_publish_timeout),
    }
