"""The commands that change the pool, and the one that ends the worker."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from typing import Any

from celeriac.worker.channel import Autoscale, Replace, Resize, Stop
from celeriac.worker.control.panel import control_command, nok, ok
from celeriac.worker.control.state import State

logger = logging.getLogger("celeriac.worker.control")


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: State, n: int = 1, **kwargs: Any) -> dict[str, Any]:
    """Start N more processes."""
    return _resize(state, int(n), "grow")


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: State, n: int = 1, **kwargs: Any) -> dict[str, Any]:
    """Let N processes go, each when it has finished what it runs."""
    return _resize(state, -int(n), "shrink")


def _resize(state: State, by: int, verb: str) -> dict[str, Any]:
    board = state.agent.board
    if state.pool != "prefork":
        return nok(_fixed(state, verb))
    if board.autoscale is not None:
        return nok(f"pool_{verb} is not possible with autoscaling: change its range with autoscale instead")
    wanted = board.wanted + by
    if not 1 <= wanted <= board.children:
        return nok(
            f"the pool cannot {verb} to {wanted} processes: this worker has from 1 to {board.children} "
            "(start it with a larger --concurrency for more)"
        )
    state.agent.channel.send(Resize(by))
    return ok(f"pool will {verb}")


@control_command(args=[("max", int), ("min", int)], signature="[max [min]]")
def autoscale(state: State, max: int | None = None, min: int | None = None, **kwargs: Any) -> dict[str, Any]:
    """Change the range of autoscaling; what is left out stays."""
    board = state.agent.board
    if board.autoscale is None:
        return nok("Autoscale not enabled: start the worker with --autoscale=MAX,MIN")
    high = board.autoscale[0] if max is None else int(max)
    low = board.autoscale[1] if min is None else int(min)
    if not 1 <= low <= high <= board.children:
        return nok(
            f"autoscaling between {low} and {high} processes is not possible: this worker has from 1 to "
            f"{board.children}, and min is not over max (start it with a larger --autoscale for more)"
        )
    state.agent.channel.send(Autoscale(high, low))
    return ok(f"autoscale now max={high} min={low}")


@control_command()
def pool_restart(
    state: State,
    modules: Sequence[str] | None = None,
    reload: bool = False,
    reloader: Any = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Replace all processes, each when it has finished what it runs (needs worker_pool_restarts).

    The new ones import ``modules`` first, anew with ``reload``.
    """
    if not state.app.conf.worker_pool_restarts:
        return nok("Pool restarts not enabled: set worker_pool_restarts=True")
    if state.pool == "solo":
        return nok("the solo pool has no process of its own that could be restarted")
    if reloader is not None:
        return nok("a reloader cannot be sent to a worker: use reload=True")
    agent = state.agent
    if modules:
        for name in modules:  # what cannot be imported is answered, and children need not try
            known = sys.modules.get(name)
            if known is None:
                importlib.import_module(name)
            elif reload:
                importlib.reload(known)
        last = agent.posting.last
        listed = list(dict.fromkeys([*last.modules, *modules]))
        agent.tell_children(modules=listed, reload=bool(reload) or last.reload)
    agent.node.details["tasks"] = sorted(state.app.tasks)
    agent.hasten(agent.beat)
    agent.channel.send(Replace())
    return ok("reload started")


@control_command()
def shutdown(state: State, msg: str = "Got shutdown from remote", **kwargs: Any) -> dict[str, Any]:
    """Let the worker finish what it runs and end, as on SIGTERM."""
    logger.warning("%s", msg)
    state.agent.channel.send(Stop("remote"))
    return ok("shutting down")


def _fixed(state: State, verb: str) -> str:
    pool, slots = state.pool, state.agent.options.slots
    return (
        f"the {pool} pool cannot {verb} while it runs: it has {slots} slot(s) in one process. "
        "Start the worker anew with another --concurrency, or use the prefork pool"
    )
