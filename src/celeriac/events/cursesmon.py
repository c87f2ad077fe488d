"""Celery's screen for a terminal has no function of ours that could be called: a command shows it."""

raise ImportError(
    "celeriac.events has no cursesmon: run `celeriac -A proj events` for a live table of workers and tasks, "
    "or read events by app.events.Receiver"
)
