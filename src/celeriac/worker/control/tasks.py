"""The commands about tasks: revokes, limits, events."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from celeriac.app.control import signal_name
from celeriac.app.rates import interval
from celeriac.app.stamps import marks
from celeriac.exceptions import ImproperlyConfigured, OperationalError
from celeriac.worker.board import noted
from celeriac.worker.channel import Terminate
from celeriac.worker.control import requests
from celeriac.worker.control.panel import control_command, inspect_command, nok, ok
from celeriac.worker.control.state import State

logger = logging.getLogger("celeriac.worker.control")

_UNKEPT = {
    "solo": ", but the solo pool keeps none",
    "threads": ", but the threads pool keeps no hard ones",
}
_IDS = "[id1 [id2 [... [idN]]]]"


@control_command(variadic="task_id", signature=_IDS)
def revoke(
    state: State,
    task_id: str | Sequence[str],
    terminate: bool = False,
    signal: str | int | None = None,
    ended: Mapping[str, str] | None = None,
    teller: str = "",
    **kwargs: Any,
) -> dict[str, Any]:
    """Do not let tasks run; with ``terminate`` end those that run by ``signal`` (SIGTERM).

    The order is kept in the store, so that all workers obey it, later ones too. ``ended`` are delayed tasks
    (name by id) that its sender has ended with it; the worker ``teller`` sends their events.
    """
    if ended and teller == state.hostname:
        _tell_revoked(state, ended)
    ids = [task_id] if isinstance(task_id, str) else [str(each) for each in task_id or ()]
    if not terminate:
        keep_revoked(state, ids, "")
        logger.info("Revoked by order: %s", ", ".join(ids))
        return ok(f"tasks {set(ids) or '{}'} flagged as revoked")
    name = signal_name(signal or "SIGTERM")
    try:
        keep_revoked(state, ids, name)
    finally:  # what runs here can be ended also where no store keeps orders
        killed = _kill(state, ids, name)
    return ok(f"terminate: {', '.join(killed)}" if killed else "terminate: tasks unknown")


@control_command(variadic="task_id", args=[("signal", str)], signature=f"<signal> {_IDS}")
def terminate(state: State, signal: str, task_id: str | Sequence[str], **kwargs: Any) -> dict[str, Any]:
    """Revoke tasks, and end those that run by a signal."""
    return revoke(state, task_id, terminate=True, signal=signal)


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
def revoke_by_stamped_headers(
    state: State,
    headers: Mapping[str, Any] | Sequence[str],
    terminate: bool = False,
    signal: str | int | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Do not let tasks run that carry one of these stamps; with ``terminate`` end those that run."""
    if not isinstance(headers, Mapping):
        headers = dict(text.split("=", 1) for text in headers)
    wanted = set(marks(headers))
    if not terminate:
        keep_revoked(state, sorted(wanted), "")
        return ok(f"headers {dict(headers)} flagged as revoked, but not terminated")
    name = signal_name(signal or "SIGTERM")
    running = [each for each, stamps in requests.stamped(state.agent) if wanted & set(marks(stamps))]
    try:
        keep_revoked(state, sorted(wanted), "")
        keep_revoked(state, running, name)
    finally:  # as with revoke
        _kill(state, running, name)
    return ok(f"headers {dict(headers)} {'revoked' if running else 'were not terminated'}")


@control_command(
    args=[("task_name", str), ("rate_limit", str)],
    signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>",
)
def rate_limit(state: State, task_name: str, rate_limit: str | float | None, **kwargs: Any) -> dict[str, Any]:
    """Change a task's rate limit, for all workers: it is kept in the store.

    0 is no limit, and ``None`` goes back to the one in the code.
    """
    rate = None if rate_limit is None else "" if rate_limit in (0, "", "0") else str(rate_limit)
    try:
        interval(rate)
    except ImproperlyConfigured as error:
        return nok(f"Invalid rate limit string: {error}")
    if task_name not in state.app.tasks:
        return nok("unknown task")
    coordinator = state.coordinator("rate_limit")
    if coordinator.control(0).rate_limits.get(task_name) != rate:
        coordinator.limit_rate(task_name, rate)
    state.agent.announce_orders()
    if not rate:
        logger.info("Rate limit of %s by order: %s", task_name, "as in the code" if rate is None else "none")
        return ok("rate limit disabled successfully")
    logger.info("Rate limit of %s by order: %s", task_name, rate)
    return ok("new rate limit set successfully")


@control_command(
    args=[("task_name", str), ("soft", float), ("hard", float)],
    signature="<task_name> <soft_secs> [hard_secs]",
)
def time_limit(
    state: State, task_name: str, hard: float | None = None, soft: float | None = None, **kwargs: Any
) -> dict[str, Any]:
    """Change a task's time limits in this worker, from the next runs on; ``None`` is the worker's own."""
    if task_name not in state.app.tasks:
        return nok("unknown task")
    limits = tuple(None if each is None else float(each) for each in (soft, hard))
    state.agent.tell_children(limits={**state.agent.posting.last.limits, task_name: limits})
    logger.info("Time limits of %s by order: soft=%s hard=%s", task_name, *limits)
    kept = _UNKEPT.get(state.pool, "")
    return ok(f"time limits set successfully{kept}")


@control_command()
def enable_events(state: State, **kwargs: Any) -> dict[str, Any]:
    """Send events about tasks."""
    return _switch_events(state, True)


@control_command()
def disable_events(state: State, **kwargs: Any) -> dict[str, Any]:
    """Send no events about tasks."""
    return _switch_events(state, False)


@control_command()
def heartbeat(state: State, **kwargs: Any) -> None:
    """Tell at once how the worker does."""
    state.agent.hasten(state.agent.beat)
    if state.agent.events is not None:
        state.agent.events.beat_now()


@control_command()
def election(state: State, id: str, topic: str, action: str | None = None, **kwargs: Any) -> dict[str, Any]:
    """Celery's workers elect one of them by gossip; this worker takes no part."""
    return nok("this worker takes no part in elections: what one worker alone may do is decided in the store")


@inspect_command(visible=False, args=[("from_node", str)], signature="<node>")
def hello(state: State, from_node: str, revoked: Any = None, **kwargs: Any) -> dict[str, Any] | None:
    """A worker of Celery's starts, and asks what it must know; what it knows itself is kept."""
    if from_node == state.hostname:
        return None
    known = revoked_ids(state)
    if state.app.coordinator is not None:
        keep_revoked(state, [str(each) for each in revoked or ()], "")
    return {"revoked": known, "clock": state.app.clock.forward()}


def revoked_ids(state: State) -> list[str]:
    """The ids of revoked tasks, as the store knows them; none if no store does."""
    coordinator = state.app.coordinator
    if coordinator is None:
        return []
    return [each for each in coordinator.control(0).revoked if not each.startswith("stamp:")]


def keep_revoked(state: State, ids: Sequence[str], signal: str) -> None:
    """Keep an order to revoke in the store, unless it is known there: every worker gets a broadcast one.

    ``signal`` names what ends those that run; "" lets them finish. Raises ``ImproperlyConfigured`` if there
    is no store that keeps orders.
    """
    known = state.coordinator("revoke").control(0)
    revoked = set(known.revoked)
    new = [each for each in ids if each not in revoked or (signal and known.terminate.get(each) != signal)]
    if new:
        _tell_revoked(state, state.app.control.keep_revoked(new, signal))
        state.agent.hasten(state.agent.follow_orders)
    state.agent.announce_orders()


def _tell_revoked(state: State, ended: Mapping[str, str]) -> None:
    """Send ``task-revoked`` for delayed tasks that were ended in the store: no child ever sees them."""
    events = [
        state.app.events.complete(
            "task-revoked",
            {"uuid": task_id, "terminated": False, "signum": None, "expired": False, "name": name,
             "pid": state.pid},
            state.hostname,
        )
        for task_id, name in ended.items()
        if state.agent.sends_events and getattr(state.app.registry.get(name), "send_events", True)
    ]  # fmt: skip
    try:
        state.app.events.publish("task.multi", events)
    except OperationalError as error:
        logger.warning("Could not send events about %d revoked tasks: %s", len(events), error)


def _kill(state: State, ids: Sequence[str], signal: str) -> list[str]:
    """Have those ended that run here; return their ids."""
    wanted = {noted(each): each for each in ids}
    killed = []
    for child in state.agent.records:
        for run in child.running():
            if run.task_id in wanted:
                killed.append(wanted[run.task_id])
                state.agent.channel.send(Terminate(child.number, run.token, signal))
    return killed


def _switch_events(state: State, wanted: bool) -> dict[str, Any]:
    if state.agent.events is None:
        return nok("event dispatcher unavailable: this broker does not carry events")
    word = "enabled" if wanted else "disabled"
    if state.agent.sends_events == wanted:
        return ok(f"task events already {word}")
    state.agent.tell_children(events=wanted)
    state.agent.events.beat_now()
    logger.info("Events about tasks are %s: ordered", word)
    return ok(f"task events {word}")
