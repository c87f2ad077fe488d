"""Questions to workers: ``app.control.inspect()``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celeriac.app.coroutines import in_thread
from celeriac.engines.remote import Order
from celeriac.exceptions import DuplicateNodenameWarning

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


class Inspect:
    """Asks workers; each method returns ``{node name: answer}``, or ``None`` if nobody has answered.

    ``destination`` names the nodes (one name alone: then its answer alone is returned), or ``pattern``
    chooses them, by ``matcher`` ``"glob"`` (default) or ``"pcre"``. A method returns when as many have
    answered as were reached, ``limit`` have, or after ``timeout`` seconds; ``callback`` is called with each
    answer as it comes. Raises ``OperationalError`` if the broker cannot be reached.
    """

    app: Any = None

    def __init__(
        self,
        destination: str | Sequence[str] | None = None,
        timeout: float | None = 1.0,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        connection: Any = None,
        app: Celeriac | None = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        self.app = app or self.app
        self.destination = destination
        self.timeout = timeout
        self.callback = callback
        self.connection = connection
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher

    def ask(self, /, command: str, **arguments: Any) -> Any:
        """Ask ``command``, which may be one of the application's own."""
        replies = self.app.control.broadcast(
            command,
            arguments,
            self.destination,
            reply=True,
            timeout=self.timeout,
            limit=self.limit,
            callback=self.callback,
            pattern=self.pattern,
            matcher=self.matcher,
        )
        return self._chosen(flatten_reply(replies)) if replies else None

    _request = ask

    aask = in_thread(ask)
    """:meth:`ask` for coroutines: it waits in a thread."""

    def _chosen(self, answers: dict[str, Any]) -> Any:
        if isinstance(self.destination, str):
            return answers.get(self.destination)
        # Workers of old versions of Celery do not look at patterns.
        wanted = Order("", pattern=self.pattern, matcher=self.matcher)
        return {node: answer for node, answer in answers.items() if wanted.concerns(node)}

    # -- tasks -------------------------------------------------------------------------------------------

    def active(self, safe: bool | None = None) -> Any:
        """The tasks that run; with ``safe`` their arguments are shown as text."""
        return self.ask("active", safe=safe)

    def reserved(self, safe: bool | None = None) -> Any:
        """The tasks that have been claimed and wait."""
        return self.ask("reserved")

    def scheduled(self, safe: bool | None = None) -> Any:
        """The delayed tasks: ``{"eta", "priority", "request"}`` each."""
        return self.ask("scheduled")

    def revoked(self) -> Any:
        """The ids of revoked tasks."""
        return self.ask("revoked")

    def query_task(self, *ids: str | Iterable[str]) -> Any:
        """What is known of these ids, given one by one or as one list: ``{id: [state, record]}``."""
        if len(ids) == 1 and not isinstance(ids[0], str):
            ids = tuple(ids[0])
        return self.ask("query_task", ids=list(ids))

    def registered(self, *taskinfoitems: str) -> Any:
        """The names of the tasks that workers know, with these attributes behind them."""
        return self.ask("registered", taskinfoitems=list(taskinfoitems))

    registered_tasks = registered

    # -- workers -----------------------------------------------------------------------------------------

    def ping(self, destination: Sequence[str] | None = None) -> Any:
        """Who is there: ``{"ok": "pong"}`` each."""
        if destination:
            self.destination = destination
        return self.ask("ping")

    def active_queues(self) -> Any:
        """The queues that workers take from."""
        return self.ask("active_queues")

    def stats(self) -> Any:
        """Counts, pool, broker and resources of workers."""
        return self.ask("stats")

    def conf(self, with_defaults: bool = False) -> Any:
        """The settings, secrets masked; with ``with_defaults`` also those that were not set."""
        return self.ask("conf", with_defaults=with_defaults)

    def report(self) -> Any:
        """What a bug report should contain, as text."""
        return self.ask("report")

    def clock(self) -> Any:
        """The logical clocks."""
        return self.ask("clock")

    def hello(self, from_node: str, revoked: Mapping[str, Any] | Sequence[str] | None = None) -> Any:
        """What workers of Celery ask one another when they start: their clocks and revoked ids."""
        return self.ask("hello", from_node=from_node, revoked=revoked)

    # -- memory ------------------------------------------------------------------------------------------

    def memsample(self) -> Any:
        """Take a sample of the memory in use."""
        return self.ask("memsample")

    def memdump(self, samples: int = 10) -> Any:
        """The last samples of :meth:`memsample`."""
        return self.ask("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:
        """Let workers draw what keeps ``n`` objects of a type alive; they need the library objgraph."""
        return self.ask("objgraph", num=n, max_depth=max_depth, type=type)


def flatten_reply(reply: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return ``[{node: answer}, ...]`` as one dictionary; warns of two nodes with one name."""
    nodes: dict[str, Any] = {}
    twice: set[str] = set()
    for one in reply:
        twice.update(nodes.keys() & one.keys())
        nodes.update(one)
    if twice:
        warnings.warn(
            DuplicateNodenameWarning(
                f"Several workers answer to one name: {', '.join(sorted(twice))}. Give each its own with -n"
            ),
            stacklevel=2,
        )
    return nodes
