"""Periodic tasks at run time (``app.schedule``): what there is in the store, and changes to it.

Beats follow a change within a second. Entries of the code (``beat_schedule``, ``add_periodic_task``) are put
into the store by the leading beat; they can be paused, resumed and run here, and changed in the code only.
"""

from __future__ import annotations

import builtins
import difflib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from celeriac import clock, states
from celeriac.app import definition as definitions
from celeriac.app.definition import Definition
from celeriac.app.ticks import messages
from celeriac.engines.schedule import Entry
from celeriac.exceptions import EntryNotFound, ImproperlyConfigured
from celeriac.message import new_id

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.engines.schedule import ScheduleStore
    from celeriac.result import AsyncResult

BATCH = 1000


class EntryView(msgspec.Struct):
    """A periodic task as it stands now. Times are aware, in UTC."""

    name: str
    task: str
    schedule: str
    """When, for people."""
    source: str
    """``code`` or ``store``."""
    enabled: bool
    next_due: datetime | None
    """``None`` for one that is paused or over, and where the schedule is a class that only beat can ask."""
    overdue: float
    """By how many seconds it should have been sent already, jitter counted in; 0 where nothing is late."""
    last_due: datetime | None
    last_run: datetime | None
    """When the last tick was fired, skipped or left out."""
    last_id: str | None
    """The task id of the last tick that was fired."""
    last_state: str | None
    """What became of it: the state of its result; ``PENDING`` if none is known (yet)."""
    lateness: float | None
    """By how many seconds the last tick was later than its due time (jitter not counted)."""
    runs: int
    skipped: int
    """How many ticks were left out because the task before still ran."""
    definition: Mapping[str, Any]
    """The definition as it is stored: task, schedule, args, kwargs, options, ..."""


class Entries:
    """The periodic tasks of one application's store.

    All methods raise ``ImproperlyConfigured`` if neither broker nor result backend can keep schedules, and
    ``OperationalError`` if the store cannot be reached; those that take a name ``EntryNotFound``.
    """

    def __init__(self, app: Celeriac) -> None:
        self._app = app

    def list(self) -> builtins.list[EntryView]:
        """All entries, by name. (Those of the code are there once a beat has led.)"""
        entries = sorted(self._store.schedule().entries, key=lambda entry: entry.name)
        outcomes = self._outcomes([entry.last_id for entry in entries if entry.last_id])
        return [self._view(entry, outcomes) for entry in entries]

    def get(self, name: str) -> EntryView:
        """One entry."""
        entry = self._entry(name)
        return self._view(entry, self._outcomes([entry.last_id] if entry.last_id else []))

    def add(
        self,
        name: str,
        task: Any,
        schedule: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> EntryView:
        """Add an entry.

        ``task`` is a task or its name, ``schedule`` seconds, a ``timedelta``, a cron string or a schedule;
        ``options`` are those of ``apply_async``. ``fields`` are ``relative``, ``jitter``, ``start``, ``end``,
        ``expires``, ``missed``, ``catch_up``, ``overlap`` and ``enabled``
        (:class:`celeriac.app.definition.Definition`).

        Raises ``ValueError`` if there is one of this name, ``TypeError`` or ``ValueError`` for what is no
        task, schedule or field, ``EncodeError`` for what cannot be stored.
        """
        if self._store.find_entries([name]):
            raise ValueError(
                f"there is a periodic task {name!r} already: remove it first, or change it by change()"
            )
        _check_fields(fields)
        made = definitions.make(
            self._app, name, task, schedule, args=list(args), kwargs=kwargs, options=options, **fields
        )
        self._store.put_entries([Entry(name, definitions.encode(made), enabled=made.enabled)])
        return self.get(name)

    def change(self, name: str, **fields: Any) -> EntryView:
        """Change some of what :meth:`add` was given; ``None`` puts a field back to its default.

        With a new schedule the time before counts no longer: nothing of it is made up for. Raises as
        :meth:`add`, and ``ImproperlyConfigured`` for an entry of the code.
        """
        entry = self._entry(name)
        self._check_source(entry, "changed")
        if "enabled" in fields:
            raise TypeError("change: pause() and resume() are for that, not enabled")
        if "relative" in fields and "schedule" not in fields:
            raise TypeError("change: relative belongs to a schedule, give the schedule as well")
        _check_fields(fields, ("task", "schedule", "args", "kwargs", "options"))
        before = definitions.decode(self._app, name, entry.definition)
        given = {key: getattr(before, key) for key in Definition.__struct_fields__ if key != "name"}
        changed = given.pop("changed")
        made = definitions.make(self._app, name, **{**given, **fields})
        made.changed = changed
        data = definitions.encode(made)
        if not definitions.same_schedule(data, entry.definition):
            made.changed = clock.now()
            data = definitions.encode(made)
        self._store.put_entries([Entry(name, data, entry.source, entry.enabled)])
        return self.get(name)

    def pause(self, name: str) -> None:
        """Fire it no more until :meth:`resume`; also over restarts."""
        self._enable(name, False)

    def resume(self, name: str) -> None:
        """Fire it again. What fell due meanwhile has not been missed; a one-off is made up for."""
        self._enable(name, True)

    def run(self, name: str) -> AsyncResult[Any]:
        """Send its task now, out of turn: its ticks stay as they are.

        Where its ticks must not overlap (``overlap=False``) and one waits or runs, the result is that one's,
        with ``duplicate`` set.
        """
        made = self._definition(self._entry(name))
        task_id = new_id()
        batch = messages(self._app, made, task_id)
        held = self._app.publisher.send(batch) if batch else {}
        holder = held.get(len(batch) - 1)
        result: AsyncResult[Any] = self._app.AsyncResult(holder or task_id, task_name=made.task)
        if holder:
            result.duplicate = True
        return result

    def remove(self, name: str) -> None:
        """Remove an entry. Raises ``ImproperlyConfigured`` for one of the code."""
        self._check_source(self._entry(name), "removed")
        self._store.remove_entries([name])

    # -- helpers ---------------------------------------------------------------------------------------

    @property
    def _store(self) -> ScheduleStore:
        store = self._app.coordinator
        if store is None or not hasattr(store, "fire"):
            raise ImproperlyConfigured(
                "neither the broker nor the result backend can keep schedules: use SQLite, PostgreSQL "
                "or Redis for one of them"
            )
        return store

    def _entry(self, name: str) -> Entry:
        found = self._store.find_entries([name])
        if found:
            return found[0]
        near = difflib.get_close_matches(name, [entry.name for entry in self._store.schedule().entries], 1)
        hint = f"did you mean {near[0]!r}?" if near else "'celeriac schedule list' shows those there are"
        if name in self._app.conf.beat_schedule:
            hint = "it stands in beat_schedule, and no beat has led since: start one"
        raise EntryNotFound(f"there is no periodic task {name!r}: {hint}")

    def _check_source(self, entry: Entry, what: str) -> None:
        if entry.source == "code":
            raise ImproperlyConfigured(
                f"the periodic task {entry.name!r} stands in the code (beat_schedule or add_periodic_task), "
                f"it cannot be {what} here: do it there and restart beat; pausing it takes effect at once"
            )

    def _enable(self, name: str, enabled: bool) -> None:
        entry = self._entry(name)
        self._store.put_entries([Entry(name, entry.definition, entry.source, enabled)])

    def _definition(self, entry: Entry) -> Definition:
        """The entry's definition, with the help of this process's own code where the store has not all."""
        try:
            return definitions.decode(self._app, entry.name, entry.definition)
        except definitions.InCode:
            item = self._app.conf.beat_schedule.get(entry.name)
            if item is None:
                raise
            return definitions.from_item(self._app, entry.name, item)

    def _outcomes(self, ids: Sequence[str]) -> dict[str, str]:
        backend = self._app.backend
        found: dict[str, str] = {}
        for start in range(0, len(ids) if backend is not None else 0, BATCH):
            assert backend is not None
            stored = backend.fetch(ids[start : start + BATCH])
            for task_id, data in stored.items():
                found[task_id] = str(self._app.results.decode(data, task_id)["status"])
        return found

    def _view(self, entry: Entry, outcomes: Mapping[str, str]) -> EntryView:
        data = definitions.read(entry.definition)
        schedule, following, overdue = _said(data.get("schedule")), None, 0.0
        try:
            made = self._definition(entry)
            schedule = repr(made.schedule)
            if entry.enabled and not made.by_is_due:
                following = made.first_due(entry.last_due, entry.since)
                if following is not None:
                    overdue = max(0.0, clock.now() - following - made.delay(following))
        except ValueError:
            pass  # only a scheduler with the code knows; what is stored is shown
        late = None if entry.last_due is None or entry.last_run is None else entry.last_run - entry.last_due
        return EntryView(
            name=entry.name,
            task=str(data.get("task")),
            schedule=schedule,
            source=entry.source,
            enabled=entry.enabled,
            next_due=_moment(following),
            overdue=overdue,
            last_due=_moment(entry.last_due),
            last_run=_moment(entry.last_run),
            last_id=entry.last_id or None,
            last_state=outcomes.get(entry.last_id, states.PENDING) if entry.last_id else None,
            lateness=late,
            runs=entry.runs,
            skipped=entry.skipped,
            definition=data,
        )


_FIELDS = (
    "relative", "jitter", "start", "end", "expires", "missed", "catch_up", "overlap", "enabled",
)  # fmt: skip


def _check_fields(fields: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    for key in fields:
        if key not in _FIELDS and key not in more:
            near = difflib.get_close_matches(key, (*_FIELDS, *more), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join((*more, *_FIELDS))}"
            raise TypeError(f"a periodic task has no {key!r}: {hint}")


def _said(schedule: Any) -> str:
    return str(schedule.get("in_code", schedule)) if isinstance(schedule, dict) else str(schedule)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
