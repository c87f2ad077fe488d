"""The table of ``celeriac events``: workers and the tasks they have just had to do with, kept up to date."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from celeriac.monitor.events.dumper import listen

REFRESH: Final = 0.5
"""Seconds between two pictures."""
_COLOURS: Final = {
    "SUCCESS": "green",
    "FAILURE": "red",
    "REVOKED": "red",
    "REJECTED": "red",
    "RETRY": "yellow",
    "STARTED": "cyan",
    "ONLINE": "green",
    "OFFLINE": "red",
}


def watch(app: Any) -> None:
    """Show the table until Ctrl-C."""
    state = app.events.State(max_tasks_in_memory=2000)
    said: list[str] = []
    thread = threading.Thread(
        target=listen, args=(app, {"*": state.event}, said.append), name="celeriac-events", daemon=True
    )
    thread.start()
    with Live(picture(state), auto_refresh=False, screen=True) as live:
        try:
            while thread.is_alive():
                time.sleep(REFRESH)
                trouble = said[-1] if said else ""
                live.update(state.freeze_while(picture, state, trouble, live.console), refresh=True)
                said.clear()
        except KeyboardInterrupt:
            return


def picture(state: Any, trouble: str = "", console: Console | None = None) -> Group:
    """What is shown of a state: its workers, and as many of its newest tasks as there is room for."""
    workers = Table("worker", "state", "active", "processed", "load", "version", box=None, expand=True)
    for worker in sorted(state.workers.values(), key=lambda worker: str(worker.hostname)):
        load = " ".join(f"{each:.2f}" for each in worker.loadavg or ())
        workers.add_row(
            _plain(worker.hostname), _coloured(worker.status_string), _shown(worker.active),
            _shown(worker.processed), load, _plain(f"{worker.sw_ident or ''} {worker.sw_ver or ''}"),
        )  # fmt: skip
    tasks = Table("task", "id", "worker", "time", "state", "runtime", box=None, expand=True)
    room = max(5, (console.height if console is not None else 24) - len(state.workers) - 6)
    for _, task in state.tasks_by_time(limit=4 * room):
        if len(tasks.rows) == room:
            break
        tasks.add_row(
            _plain(task.name or ""), _plain(task.uuid), _plain(task.worker.hostname if task.worker else ""),
            _clock(task.timestamp), _coloured(task.state),
            "" if task.runtime is None else f"{task.runtime:.3f} s",
        )  # fmt: skip
    head = f"{state.event_count} events, {len(state.tasks)} tasks, {len(state.workers)} workers (Ctrl-C ends)"
    return Group(Text(head, style="bold"), Text(trouble, style="red"), workers, Text(""), tasks)


def _plain(text: Any) -> Text:
    """Text of others: nothing in it is a style or a control character."""
    return Text("".join(letter if letter.isprintable() else "?" for letter in str(text)), overflow="ellipsis")


def _coloured(state: Any) -> Text:
    text = _plain(state)
    text.stylize(_COLOURS.get(str(state), ""))
    return text


def _shown(number: Any) -> str:
    return "" if number is None else str(number)


def _clock(timestamp: float | None) -> str:
    return "" if timestamp is None else datetime.fromtimestamp(timestamp).strftime("%H:%M:%S")
