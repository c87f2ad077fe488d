"""What ``inspect stats`` tells, with Celery's fields."""

from __future__ import annotations

import resource
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from celeriac.settings.show import censor
from celeriac.worker.holdings import Holdings

if TYPE_CHECKING:
    from celeriac.worker.agent import Agent

_RUSAGE = (
    "utime", "stime", "maxrss", "ixrss", "idrss", "isrss", "minflt", "majflt", "nswap", "inblock", "oublock",
    "msgsnd", "msgrcv", "nsignals", "nvcsw", "nivcsw",
)  # fmt: skip
_IMPLEMENTATIONS = {
    "prefork": "serial:Serial",
    "solo": "serial:Serial",
    "threads": "threads:Threads",
    "asyncio": "coroutines:Coroutines",
    "gevent": "green:Green",
    "eventlet": "green:Green",
}


def collect(agent: Agent) -> dict[str, Any]:
    """The node's statistics. ``rusage`` is the agent's own (in solo the whole worker's)."""
    bounds = agent.board.autoscale
    told = {
        "total": dict(totals(agent)),
        "pid": agent.node.pid,
        "clock": str(agent.app.clock.value),
        "uptime": round(agent.board.age),
        "pool": _pool(agent, [sum(counts.values()) for counts in _started(agent)]),
        "broker": _broker(agent),
        "prefetch_count": _prefetch(agent),
        "rusage": _rusage(),
        "software": f"celeriac {agent.node.details['version']}",
        "python": agent.node.details["python"],
        "loadavg": agent.node.details["loadavg"],
    }
    if bounds is not None:
        told["autoscaler"] = {"max": bounds[0], "min": bounds[1], "current": agent.board.wanted, "qty": 0}
    return told


def totals(agent: Agent) -> Counter[str]:
    """How many tasks of each name the node has started."""
    return sum(map(Counter, _started(agent)), Counter())


def _started(agent: Agent) -> list[dict[str, int]]:
    return [Holdings(agent.board, child.number).totals() for child in agent.records]


def processes(agent: Agent) -> int:
    """How many child processes there are to be."""
    return int(agent.board.wanted) if agent.options.pool == "prefork" else 1


def _pool(agent: Agent, writes: list[int]) -> dict[str, Any]:
    options = agent.options
    writes = writes[: processes(agent)]
    total = sum(writes)
    shares = [f"{count / total:.2f}" if total else "0.00" for count in writes]
    return {
        "implementation": f"celeriac.worker.pools.{_IMPLEMENTATIONS[options.pool]}",
        "kind": options.pool,
        "max-concurrency": processes(agent) * options.slots,
        "processes": [child.pid for child in agent.records if child.pid][: processes(agent)],
        "max-tasks-per-child": options.max_tasks_per_child or "N/A",
        "put-guarded-by-semaphore": False,
        "timeouts": [options.soft_time_limit or 0, options.time_limit or 0],
        "writes": {
            "total": total,
            "avg": f"{1 / len(writes):.2f}" if total else "0.00",
            "all": ", ".join(shares),
            "raw": ", ".join(map(str, writes)),
            "strategy": "each process takes its own",
            "inqueues": {
                "total": len(writes),
                "active": sum(child.busy for child in agent.records),
            },
        },
    }


def _prefetch(agent: Agent) -> int:
    """The most messages that the node holds: unstarted ones too, where children take several."""
    options = agent.options
    if options.slots > 1 or options.pool not in ("prefork", "solo"):
        return options.slots
    return processes(agent) * (options.prefetch or options.prefetch_max)


def _broker(agent: Agent) -> dict[str, Any]:
    """Where the broker is, without its password; the fields are those of kombu's connections."""
    conf = agent.app.conf
    parts = urlsplit(agent.app.broker.url.partition(";")[0].partition(",")[0])
    try:
        port = parts.port
    except ValueError:
        port = None
    return {
        "hostname": parts.hostname,
        "userid": parts.username,
        "virtual_host": parts.path.removeprefix("/") or "/",
        "port": port,
        "insist": False,
        "ssl": bool(conf.broker_use_ssl) or parts.scheme in ("rediss", "amqps"),
        "transport": parts.scheme,
        "connect_timeout": conf.broker_connection_timeout,
        "transport_options": censor(dict(conf.broker_transport_options or {})),
        "login_method": conf.broker_login_method,
        "uri_prefix": None,
        "heartbeat": conf.broker_heartbeat,
        "failover_strategy": conf.broker_failover_strategy,
        "alternates": [],
    }


def _rusage() -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {name: getattr(used, f"ru_{name}") for name in _RUSAGE}
