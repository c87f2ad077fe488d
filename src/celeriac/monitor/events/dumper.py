"""Dumper: writes events as lines, as they come."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from celeriac.app import app_or_default
from celeriac.exceptions import OperationalError

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
    """Call handlers for ever; a lost connection is told to ``say`` and made again, with backoff."""
    pause = 1.0
    while True:
        receiver = app.events.Receiver(handlers=handlers)
        try:
            for _ in receiver.itercapture():
                pause = 1.0
        except OperationalError as error:
            say(f"Connection lost: {error} Trying again in {pause:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
