"""The stores of an application: which there are, and what can be said of them together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac.app import ids
from celeriac.app.configured import Configured
from celeriac.app.defaults import default_broker_url
from celeriac.app.part import part
from celeriac.app.stores import Stores, history_store, tracks_queued

if TYPE_CHECKING:
    from celeriac.engines.base import Broker
    from celeriac.engines.coordinator import Coordinator
    from celeriac.engines.history import HistoryStore
    from celeriac.engines.results import ResultBackend


class Connected(Configured):
    """What has a broker and a result backend, as its settings say; none is opened before it is used."""

    _stores: Stores

    @property
    def broker(self) -> Broker:
        """Where workers take messages from, and clients send them unless ``broker_write_url`` is another."""
        return self._stores.broker or self._stores.open_broker()

    @property
    def write_broker(self) -> Broker:
        """Where clients send messages."""
        return self._stores.write_broker or self._stores.open_write_broker()

    default_url: str = part(default_broker_url)
    """The broker's URL where none is set: a SQLite file."""

    @property
    def broker_url(self) -> str:
        """The broker's URL as it is set, password included, or the default one."""
        return str(self.conf.broker_url or self.default_url)

    @property
    def broker_shown(self) -> str:
        """The broker's URL, fit to be shown."""
        return str(getattr(self.write_broker, "url", "the broker"))

    @property
    def backend(self) -> ResultBackend | None:
        """Where results are kept; ``None`` if they are turned off (``disabled://``)."""
        stores = self._stores
        return stores.backend if stores.backend_known else stores.open_backend()

    @property
    def stores(self) -> list[Any]:
        """What a worker is connected to: the broker, and the result backend if that is another."""
        broker: object = self.broker
        backend: object = self.backend
        return [broker] if backend is None or backend is broker else [broker, backend]

    @property
    def coordinator(self) -> Coordinator | None:
        """What workers agree by: the broker's store if it can, else the result backend's, else ``None``."""
        for store in (self.broker, self.backend):
            if hasattr(store, "admit") and hasattr(store, "revoke"):
                return store  # type: ignore[return-value]
        return None

    @property
    def history_store(self) -> HistoryStore | None:
        """What keeps the history of attempts: the broker's store if it can, else the result backend's."""
        return history_store(self.broker, self.backend)

    @property
    def fused(self) -> bool:
        """Whether broker and backend are one server, so that results are stored in the settling step."""
        shares = getattr(self.broker, "shares_store", None)
        return bool(shares is not None and self.backend is not None and shares(self.backend))

    @property
    def looks_back(self) -> bool:
        """Whether a message that came back is looked up in the results before it runs: where they are kept
        apart from it, and where ``worker_deduplicate_successful_tasks`` asks for it."""
        return not self.fused or bool(self.conf.worker_deduplicate_successful_tasks)

    @property
    def tracks_queued(self) -> bool:
        """Whether a publish records that the task is queued (``task_track_queued``)."""
        return tracks_queued(self.conf, self.write_broker.url) and self.fused

    @property
    def oid(self) -> str:
        """This process's id for replies."""
        return ids.oid()

    thread_oid = oid

    def reply_address(self) -> str | None:
        """Where results are to be announced to this process, if the backend wants to know."""
        backend = self.backend
        return None if backend is None else backend.reply_address()

    @property
    def opened(self) -> bool:
        """Whether a store has been opened since the start, or since :meth:`disconnect`."""
        return self._stores.opened
