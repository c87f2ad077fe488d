"""The one table of every setting: Celery's and ours."""

from __future__ import annotations

from celeriac.settings.setting import Setting
from celeriac.settings.table import app, broker, elsewhere, monitor, result, task, worker

SECTIONS: dict[str, tuple[Setting, ...]] = {
    "Application": app.ROWS,
    "Broker": broker.ROWS,
    "Results": result.ROWS,
    "Tasks": task.ROWS,
    "Worker": worker.ROWS,
    "Scheduler, events and remote control": monitor.ROWS,
    "Stores that only Celery has": elsewhere.ROWS,
}
"""The table by subject, in the order of the documentation."""

SETTINGS: dict[str, Setting] = {row.name: row for rows in SECTIONS.values() for row in rows}
"""Every setting by its name."""

OLD_NAMES: dict[str, str] = {row.old_name: row.name for row in SETTINGS.values() if row.old_name}
"""Names before Celery 4, to today's."""
