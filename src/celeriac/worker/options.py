"""What a worker was asked to be: command-line options over settings, resolved once at start-up."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec

from celeriac.exceptions import ImproperlyConfigured, QueueNotFound
from celeriac.platforms import cpu_count, node_name
from celeriac.routing.direct import worker_direct
from celeriac.routing.queues import Binding, Queue, own_queue
from celeriac.worker.board import MAX_CLAIMS

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

logger = logging.getLogger("celeriac.worker")

POOLS = ("prefork", "threads", "asyncio", "solo", "gevent", "eventlet")
ALIASES = {"processes": "prefork", "thread": "threads", "async": "asyncio", "aio": "asyncio"}
SINGLE_SLOT = frozenset({"prefork", "solo"})
"""Pools whose children run one message at a time, in their main thread."""


class Options(msgspec.Struct, kw_only=True):
    """A worker's options. Seconds are seconds, memory is KiB, as in Celery."""

    name: str
    """The node name, ``celery@host``."""
    queues: list[str]
    bindings: list[Binding] = msgspec.field(default_factory=list)
    """The ties of these queues to exchanges."""
    own_bindings: list[Binding] = msgspec.field(default_factory=list)
    """Those of the node's own queues to fanout exchanges."""
    pool: str = "prefork"
    concurrency: int = 1
    """How many messages run at once (with autoscaling: at start)."""
    autoscale: tuple[int, int] | None = None
    """``(max, min)`` processes."""
    prefetch: int = 0
    """Messages a child may hold unstarted; 0 is "auto": as many as a few milliseconds of work."""
    prefetch_max: int = 64
    time_limit: float | None = None
    soft_time_limit: float | None = None
    max_tasks_per_child: int = 0
    max_memory_per_child: int = 0
    start_method: str = "fork"
    grace: float | None = 25.0
    lease: float = 15.0
    max_deliveries: int = 3
    app_spec: str | None = None
    workdir: str | None = None
    loglevel: str | int | None = None
    logfile: str | None = None
    overrides: dict[str, Any] = msgspec.field(default_factory=dict)
    """Settings given on the command line, for children that import the application anew."""
    task_events: bool = False
    """Whether events about tasks are sent (``-E``)."""
    heartbeat_interval: float | None = 2.0
    """Seconds between the events that tell how the worker does; ``None``: it sends none about itself."""
    heartbeat_file: str | None = None
    health: str | None = None
    """Where the health endpoint listens, ``[host:]port``."""
    beat: bool = False
    """Whether it sends periodic tasks too (``-B``)."""
    scheduler: str | None = None
    """Its scheduler class, as ``beat_scheduler``."""
    given: dict[str, Any] = msgspec.field(default_factory=dict)
    """The flags as given, with the user's own options: for the steps, which run in forked agents only."""

    @property
    def room(self) -> int:
        """The most child processes there can ever be, after ``pool_grow`` and ``autoscale`` orders too."""
        if self.pool != "prefork":
            return 1
        start = max(self.concurrency, self.autoscale[0] if self.autoscale else 0)
        return max(4 * start, start + 32)

    @property
    def slots(self) -> int:
        """How many messages one child runs at once."""
        return 1 if self.pool in SINGLE_SLOT else self.concurrency


def resolve(app: Celeriac, flags: dict[str, Any]) -> Options:
    """Put command-line flags over the application's settings.

    Raises ``ImproperlyConfigured`` for a pool, number or queue that cannot be.
    """
    conf = app.conf
    pool = _pool(flags.get("pool") or conf.worker_pool)
    autoscale = _autoscale(flags.get("autoscale"), pool)
    concurrency = _concurrency(flags.get("concurrency") or conf.worker_concurrency)
    if autoscale:
        concurrency = autoscale[1]
    if pool == "solo":
        concurrency = 1
    multiplier = flags.get("prefetch_multiplier")
    if multiplier is None:
        multiplier = conf.worker_prefetch_multiplier
    if flags.get("disable_prefetch") or conf.worker_disable_prefetch:
        multiplier = 1
    grace = flags.get("shutdown_grace", conf.worker_shutdown_grace)
    time_limit = _first(flags.get("time_limit"), conf.task_time_limit)
    soft = _first(flags.get("soft_time_limit"), conf.task_soft_time_limit)
    if time_limit and soft and soft > time_limit:
        raise ImproperlyConfigured(
            f"the soft time limit ({soft:g} s) is longer than the hard one ({time_limit:g} s): "
            "make it shorter, so that tasks can clean up before they are killed"
        )
    name = node_name(flags.get("hostname"))
    chosen = _queues(app, name, flags.get("queues"), flags.get("exclude_queues"))
    own = {queue.name: own_queue(queue.name, uuid4().hex) for queue in chosen if queue.is_fanout}
    return Options(
        name=name,
        queues=[own.get(queue.name, queue.name) for queue in chosen],
        bindings=[tie for queue in chosen if queue.name not in own for tie in queue.bindings()],
        own_bindings=[tie for queue in chosen if queue.name in own for tie in _own_ties(queue, own)],
        pool=pool,
        concurrency=concurrency,
        autoscale=autoscale,
        prefetch=_prefetch(multiplier),
        prefetch_max=conf.worker_prefetch_max,
        time_limit=time_limit,
        soft_time_limit=soft,
        max_tasks_per_child=flags.get("max_tasks_per_child") or conf.worker_max_tasks_per_child or 0,
        max_memory_per_child=flags.get("max_memory_per_child") or conf.worker_max_memory_per_child or 0,
        start_method=flags.get("pool_start_method") or conf.worker_pool_start_method or "fork",
        grace=grace,
        lease=conf.worker_lease,
        max_deliveries=conf.task_max_deliveries,
        app_spec=flags.get("app_spec"),
        workdir=flags.get("workdir"),
        loglevel=flags.get("loglevel"),
        logfile=flags.get("logfile"),
        overrides=flags.get("overrides") or {},
        task_events=bool(_first(flags.get("task_events"), conf.worker_send_task_events)),
        heartbeat_interval=None if flags.get("without_heartbeat") else flags.get("heartbeat_interval") or 2.0,
        heartbeat_file=conf.worker_heartbeat_file,
        health=flags.get("health") or conf.worker_health,
        beat=bool(flags.get("beat")),
        scheduler=flags.get("scheduler"),
        given=dict(flags),
    )


def _pool(name: Any) -> str:
    pool = ALIASES.get(str(name), str(name))
    if pool not in POOLS:
        import difflib

        near = difflib.get_close_matches(pool, POOLS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(POOLS)}"
        raise ImproperlyConfigured(f"there is no pool {pool!r}: {hint}")
    return pool


def _concurrency(value: Any) -> int:
    if value in (None, "", "auto", 0, "0"):
        return cpu_count()
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ImproperlyConfigured(f"--concurrency takes a number of 1 or more, or 'auto', not {value!r}")
    return number


def _autoscale(value: Any, pool: str) -> tuple[int, int] | None:
    if not value:
        return None
    try:
        numbers = [int(part) for part in str(value).split(",")] if isinstance(value, str) else list(value)
        high, low = numbers[0], (numbers[1] if len(numbers) > 1 else 0)
    except (TypeError, ValueError, IndexError):
        raise ImproperlyConfigured(f"--autoscale takes MAX,MIN, for example 10,3, not {value!r}") from None
    high, low = max(high, low), max(1, min(high, low))
    if pool != "prefork":
        raise ImproperlyConfigured(
            f"--autoscale changes the number of processes, and the {pool} pool has one: "
            f"use --pool=prefork, or --concurrency={high}"
        )
    return high, low


def _prefetch(multiplier: Any) -> int:
    """Unstarted messages a single-slot child may hold; Celery's 0 ("no limit") is the largest batch."""
    if multiplier in (None, "auto"):
        return 0
    number = int(multiplier)
    if number < 0:
        raise ImproperlyConfigured(f"worker_prefetch_multiplier is 'auto' or a number from 0, not {number}")
    return min(number, MAX_CLAIMS) if number else MAX_CLAIMS


def _queues(app: Celeriac, name: str, chosen: Any, excluded: Any) -> list[Queue]:
    queues = app.queues
    try:
        queues.select(_names(chosen))
    except QueueNotFound as error:
        raise ImproperlyConfigured(f"-Q: {error.args[0]}") from None
    for queue in _names(excluded) or ():
        if queue not in queues:
            logger.warning("-X %s: there is no queue of this name, so nothing is left out for it", queue)
    queues.deselect(_names(excluded))
    if app.conf.worker_direct:
        queues.select_add(worker_direct(name))
    if not queues.consumed:
        raise ImproperlyConfigured(
            "no queue is left to take messages from: name one with -Q, or exclude fewer with -X"
        )
    return list(queues.consumed.values())


def _own_ties(queue: Queue, own: Mapping[str, str]) -> list[Binding]:
    ties = queue.bindings(own[queue.name])
    if any(tie.type != "fanout" for tie in ties):
        raise ImproperlyConfigured(
            f"queue {queue.name!r} is on a fanout exchange, where each worker has a queue of its own, so it "
            "cannot be tied to exchanges of other types as well: declare two queues"
        )
    return ties


def _names(value: Any) -> Sequence[str] | None:
    if not value:
        return None
    if isinstance(value, str):
        value = value.split(",")
    return [name.strip() for name in value if name.strip()]


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
