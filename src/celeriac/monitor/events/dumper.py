"""Dumper: writes events as lines, as they come."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

from celeriac import states
from celeriac.app import app_or_default
from celeriac.exceptions import ImproperlyConfigured, OperationalError

if TYPE_CHECKING:
    from celeriac.engines.history import Attempt

HUMAN_TYPES: Final = {
    "worker-offline": "shutdown",
    "worker-online": "started",
    "worker-heartbeat": "heartbeat",
}
_REMEMBERED: Final = 4095
_LONGEST_PAUSE: Final = 30.0


def humanize_type(type: str) -> str:
    """The type of an event for people."""
    return HUMAN_TYPES.get(type.lower(), type.lower().replace("-", " "))


class Dumper:
    """Writes events to ``out``; :meth:`on_event` is a handler for a receiver."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out if out is not None else sys.stdout
        self._names: OrderedDict[str, str] = OrderedDict()

    def say(self, msg: str) -> None:
        """Write a line, at once."""
        print(msg, file=self.out, flush=True)

    def on_event(self, ev: Mapping[str, Any]) -> None:
        """Write an event."""
        fields = dict(ev)
        timestamp = datetime.fromtimestamp(fields.pop("timestamp"), UTC)
        type = fields.pop("type").lower()
        head = f"{fields.pop('hostname', '')} [{timestamp}] {humanize_type(type)}"
        task = f" {self._task(type, fields)}" if type.startswith("task-") else ""
        shown = ", ".join(f"{name}={fields[name]}" for name in sorted(fields))
        self.say(f"{head}{':' if shown else ''}{task} {shown}")

    def _task(self, type: str, fields: dict[str, Any]) -> str:
        """The task that an event is about; what it is called has been told by its first events only."""
        uuid = fields.pop("uuid", "")
        if type in ("task-received", "task-sent"):
            name, args, kwargs = (fields.pop(field, "") for field in ("name", "args", "kwargs"))
            self._names[uuid] = f"{name}({uuid}) args={args} kwargs={kwargs}"
            if len(self._names) > _REMEMBERED:
                self._names.popitem(last=False)
        return self._names.get(uuid, "")


def evdump(app: Any = None, out: TextIO | None = None) -> None:
    """Write events until interrupted; the connection is made again if it is lost."""
    dumper = Dumper(out)
    dumper.say("-> evdump: starting capture...")
    try:
        listen(app_or_default(app), {"*": dumper.on_event}, lambda text: dumper.say(f"-> {text}"))
    except (KeyboardInterrupt, SystemExit):
        return


def listen(app: Any, handlers: Mapping[str, Callable[[Any], Any]], say: Callable[[str], Any]) -> None:
    """Call handlers for ever; a lost connection is told to ``say`` and made again, with backoff.

    Where the broker carries no events, they are made of the history, when an attempt has ended. Raises
    ``ImproperlyConfigured`` if there is none either.
    """
    pause = 1.0
    capture = _captures(app, handlers, say)
    while True:
        try:
            for _ in capture():
                pause = 1.0
        except OperationalError as error:
            say(f"Connection lost: {error} Trying again in {pause:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _captures(
    app: Any, handlers: Mapping[str, Callable[[Any], Any]], say: Callable[[str], Any]
) -> Callable[[], Iterator[Any]]:
    """What calls the handlers while it is iterated over."""
    try:
        app.events.Receiver()
    except ImproperlyConfigured:
        if app.history_store is None:
            raise
        say(
            f"{app.broker_shown} carries no events: each attempt is told from the history, when it has ended."
        )

        def follow() -> Iterator[Any]:
            for attempt in app.history.follow():
                for event in events_of(attempt):
                    handler = handlers.get(event["type"]) or handlers.get("*")
                    if handler is not None:
                        handler(event)
                    yield event

        return follow
    return lambda: app.events.Receiver(handlers=handlers).itercapture()


# -- events made of the history --------------------------------------------------------------------------

_ENDS: Final = {
    states.SUCCESS: "task-succeeded",
    states.RETRY: "task-retried",
    states.REVOKED: "task-revoked",
    states.REJECTED: "task-rejected",
}
"""By the state after the attempt; all others failed, or are what no event tells."""


def events_of(attempt: Attempt) -> Iterator[dict[str, Any]]:
    """The events that a worker would have sent of this attempt, with their times."""
    about = {"uuid": attempt.id, "hostname": attempt.worker, "pid": attempt.pid, "queue": attempt.queue}
    call = {"name": attempt.task, "args": attempt.args or "()", "kwargs": attempt.kwargs or "{}"}
    tree = {"root_id": attempt.root or attempt.id, "parent_id": attempt.parent or None}
    received = attempt.received or attempt.started or attempt.ended
    tries = {"retries": attempt.retries}
    yield {"type": "task-received", **about, **call, **tree, **tries, "timestamp": received}
    if attempt.started:
        yield {"type": "task-started", **about, "timestamp": attempt.started}
    ended = {"type": _ENDS.get(attempt.state, "task-failed"), **about, "timestamp": attempt.ended}
    if attempt.state == states.SUCCESS:
        ended |= {"result": attempt.result, "runtime": attempt.runtime}
    elif attempt.state in _ENDS:
        ended |= {"exception": attempt.error} if attempt.error else {}
    elif attempt.state == states.FAILURE:
        ended["exception"] = attempt.error
    else:  # IGNORED, LOST, a state of the application's own
        ended |= {"state": attempt.state, "exception": attempt.error or attempt.state}
    yield ended
