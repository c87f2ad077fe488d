"""A periodic task's definition: what is sent, when, and what happens to ticks that were missed.

It comes from an item of ``beat_schedule`` (:func:`from_item`), from ``app.schedule.add``, or from what the
store keeps (:func:`decode`), and is written as JSON by :func:`encode`.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from celeriac import schedules, serialization
from celeriac.app import times
from celeriac.app.keys import seconds
from celeriac.exceptions import EncodeError, ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

MISSED: Final = ("once", "skip", "all")
"""What can become of missed ticks: one run for all of them, none, or one each (up to ``catch_up``)."""

CATCH_UP: Final = 100
"""How many missed ticks are made up for at most where ``missed`` is ``"all"`` and no number is given."""

ON_TIME: Final = 30.0
"""Seconds by which a tick may be late and is not missed yet: another scheduler has taken over by then."""


class Definition(msgspec.Struct, kw_only=True):
    """A periodic task. Times are aware; ``jitter`` and ``expires`` are seconds."""

    name: str
    task: str
    """The task's name."""
    schedule: Any
    """A schedule of ``celeriac.schedules``, or an object with Celery's ``is_due``."""
    args: Any = ()
    """A list or tuple; any of them, or all, may be a :class:`BeatLazyFunc` where the entry stands in code."""
    kwargs: Any = msgspec.field(default_factory=dict)
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Options of ``apply_async``."""
    jitter: float = 0.0
    """Send each tick up to so many seconds later: for each by another time, the same in every scheduler."""
    start: datetime | None = None
    """No tick before; an interval counts from here."""
    end: datetime | None = None
    """No tick after."""
    expires: float | None = None
    """Seconds after it was sent in which a tick's task must have been started."""
    missed: str = "once"
    """One of :data:`MISSED`."""
    catch_up: int = CATCH_UP
    overlap: bool = True
    """With ``False`` a tick is left out while the task of the tick before waits or runs."""
    enabled: bool = True
    """Whether it is enabled when it is first stored."""
    changed: float = 0.0
    """When its schedule was last changed, epoch seconds: nothing before has been missed."""

    @property
    def by_is_due(self) -> bool:
        """Whether the schedule is asked with ``is_due``: a class of the user's that does not say when."""
        return bool(getattr(self.schedule, "polled", not hasattr(self.schedule, "next_due")))

    @property
    def once(self) -> bool:
        """Whether there is one tick only."""
        return isinstance(self.schedule, schedules.clocked)

    def next_due(self, after: float, since: float) -> float | None:
        """The first due time after ``after``, epoch seconds; ``None`` if there is none.

        ``since`` is when the entry was stored or enabled. Jitter is not counted in.
        """
        if self.start is not None:
            after = max(after, self.start.timestamp() - 1e-6)
        anchor = self.start or _moment(max(since, self.changed))
        moment = _moment(after)
        due = self.schedule.next_due(moment, anchor)
        if due is None or (self.end is not None and due > self.end):
            return None
        if due <= moment:
            raise ValueError(f"{self.schedule!r}.next_due({moment}) is {due}, which is not later")
        return float(due.timestamp())

    def first_due(self, last: float | None, since: float) -> float | None:
        """The next due time of an entry as it stands in the store: ``last`` is its last due time."""
        if self.once and last is None:
            return self.next_due(_BEGINNING, since)
        return self.next_due(max(last or 0.0, since, self.changed), since)

    def delay(self, due: float) -> float:
        """By how many seconds jitter puts off the tick that is due then."""
        if not self.jitter:
            return 0.0
        digest = hashlib.blake2b(f"{self.name}\0{due:.6f}".encode(), digest_size=8).digest()
        return self.jitter * int.from_bytes(digest) / 2**64


_BEGINNING: Final = 0.0


class BeatLazyFunc:
    """An argument that is worked out for each tick, by calling ``func(*args, **kwargs)`` in the scheduler."""

    def __init__(self, func: Any, *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._func_params: dict[str, Any] = {"args": args, "kwargs": kwargs}

    def __call__(self) -> Any:
        return self.delay()

    def delay(self) -> Any:
        """Call the function."""
        return self._func(*self._func_params["args"], **self._func_params["kwargs"])


def from_item(app: Celeriac, name: str, item: Any) -> Definition:
    """Read an item of ``beat_schedule``: Celery's keys, and the fields of :class:`Definition`.

    It may be an object with Celery's keys as attributes. Raises ``ImproperlyConfigured`` for what cannot be,
    naming the entry.
    """
    if isinstance(item, Definition):
        return item
    if hasattr(item, "task") and hasattr(item, "schedule"):
        parts = ("task", "schedule", "args", "kwargs", "options")
        item = {key: getattr(item, key) for key in parts if getattr(item, key, None) is not None}
    if not isinstance(item, Mapping):
        raise ImproperlyConfigured(f"beat_schedule[{name!r}] is a dictionary, not {item!r}")
    fields = {key: value for key, value in item.items() if key not in ("name", "app")}
    for key in fields:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(_KEYS))}"
            raise ImproperlyConfigured(f"beat_schedule[{name!r}] has a key {key!r}: {hint}")
    for key in ("task", "schedule"):
        if fields.get(key) is None:
            raise ImproperlyConfigured(f"beat_schedule[{name!r}] has no {key}")
    relative = bool(fields.pop("relative", False))
    try:
        return make(app, name, fields.pop("task"), fields.pop("schedule"), relative=relative, **fields)
    except (TypeError, ValueError) as exc:
        raise ImproperlyConfigured(f"beat_schedule[{name!r}]: {exc}") from exc


_KEYS: Final = frozenset(Definition.__struct_fields__) - {"name", "changed"} | {"relative"}


def make(
    app: Celeriac, name: str, task: Any, schedule: Any, *, relative: bool = False, **fields: Any
) -> Definition:
    """A definition from values as people write them; raises ``TypeError`` or ``ValueError``.

    ``task`` is a name or a task, ``schedule`` what :func:`read_schedule` takes.
    """
    task = task if isinstance(task, str) else getattr(task, "name", None)
    if not isinstance(task, str):
        raise TypeError("task is a task or its name")
    fields = {key: value for key, value in fields.items() if value is not None}
    for key in ("jitter", "expires"):
        if key in fields:
            fields[key] = seconds(fields[key], key)
    for key in ("start", "end"):
        if key in fields:
            fields[key] = times.aware(fields[key], app.timezone).astimezone(UTC)
    if "start" in fields and "end" in fields and fields["end"] < fields["start"]:
        raise ValueError(f"end ({fields['end']}) is before start ({fields['start']}): it would never be sent")
    if fields.get("missed", "once") not in MISSED:
        raise ValueError(f"missed is one of {', '.join(MISSED)}, not {fields['missed']!r}")
    if not isinstance(fields.get("catch_up", 1), int) or fields.get("catch_up", 1) < 1:
        raise ValueError(f"catch_up is a number from 1, not {fields['catch_up']!r}")
    if "options" in fields:
        fields["options"] = dict(fields["options"])
    if isinstance(fields.get("args"), str | bytes):
        raise TypeError(f"args is a list or tuple, not {fields['args']!r}")
    return Definition(name=name, task=task, schedule=read_schedule(app, schedule, relative), **fields)


def read_schedule(app: Celeriac, value: Any, relative: bool = False) -> Any:
    """A schedule of a number of seconds, a ``timedelta``, a cron string, or a schedule as it is.

    Raises ``TypeError`` or ``ValueError`` for anything else.
    """
    if isinstance(value, bool):
        raise TypeError(f"{value!r} is no schedule")
    if isinstance(value, str):
        value = schedules.cron(value)
    elif isinstance(value, int | float | timedelta):
        value = schedules.maybe_schedule(value, relative, app=app)
    if not hasattr(value, "next_due") and not hasattr(value, "is_due"):
        raise TypeError(
            f"{value!r} is no schedule: give seconds, a timedelta, a cron string, crontab(...), solar(...), "
            "clocked(...), or an object with is_due"
        )
    _bind(value, app)
    return value


# -- as JSON -------------------------------------------------------------------------------------------

_PLAIN: Final = ("jitter", "expires", "missed", "catch_up", "overlap", "enabled", "changed")
_DEFAULTS: Final[dict[str, Any]] = {
    field.name: field.default for field in msgspec.structs.fields(Definition) if field.name in _PLAIN
}


def encode(definition: Definition, strict: bool = True) -> bytes:
    """Write a definition as JSON, without its name.

    What cannot be written raises ``EncodeError``, or, without ``strict``, is noted as being in the code only:
    that is enough for the scheduler that has the code, and for people.
    """
    data: dict[str, Any] = {"task": definition.task, "schedule": _schedule_data(definition.schedule, strict)}
    for key, value in (
        ("args", definition.args),
        ("kwargs", definition.kwargs),
        ("options", definition.options),
    ):
        if value:
            data[key] = _written(key, value, strict)
    for key in ("start", "end"):
        if (moment := getattr(definition, key)) is not None:
            data[key] = moment.isoformat()
    for key in _PLAIN:
        if (value := getattr(definition, key)) != _DEFAULTS[key]:
            data[key] = value
    return serialization.json_dumps(data)


def decode(app: Celeriac, name: str, data: bytes) -> Definition:
    """Read what :func:`encode` wrote. Raises :class:`InCode` if parts of it are in the code only, and
    ``ValueError`` for what is no definition."""
    fields = read(data)
    for key in ("schedule", "args", "kwargs", "options"):
        if _is_in_code(fields.get(key)):
            raise InCode(f"{name}: its {key} can be had from the application's code only")
    try:
        schedule = _shared_schedule(msgspec.json.encode(fields.pop("schedule")))
        for key in ("start", "end"):
            if key in fields:
                fields[key] = datetime.fromisoformat(fields[key])
        made = Definition(name=name, schedule=schedule, **fields)
    except (KeyError, TypeError, ValueError, AttributeError, ImportError) as exc:
        raise ValueError(f"{name}: the stored definition cannot be read: {exc!r}") from exc
    _bind(schedule, app)
    return made


def read(data: bytes) -> dict[str, Any]:
    """The JSON of a definition as it is. Raises ``ValueError`` if it is none."""
    fields = serialization.loads(data, "application/json", "utf-8", _JSON)
    if not isinstance(fields, dict):
        raise ValueError("a definition is a JSON object")
    return fields


def same_schedule(one: bytes, other: bytes) -> bool:
    """Whether two definitions, as JSON, say the same about when."""
    first, second = read(one), read(other)
    return all(first.get(key) == second.get(key) for key in ("schedule", "start"))


class InCode(ValueError):
    """A definition has parts that cannot be stored."""


_JSON: Final = frozenset(("application/json",))
_CODE: Final = "in_code"


def _schedule_data(schedule: Any, strict: bool) -> Any:
    try:
        return schedules.to_json(schedule)
    except (TypeError, ValueError) as exc:
        if strict:
            raise EncodeError(f"{exc}; or put the entry into beat_schedule") from exc
        return {_CODE: f"{type(schedule).__module__}.{type(schedule).__qualname__}"}


def _written(key: str, value: Any, strict: bool) -> Any:
    try:
        serialization.json_dumps(value, {key: value})
    except EncodeError:
        if strict:
            raise
        return {_CODE: type(value).__name__}
    return value


def _is_in_code(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {_CODE}


@functools.lru_cache(maxsize=4096)
def _shared_schedule(data: bytes) -> Any:
    """A schedule from JSON. Entries with the same one share it: a crontab takes up to 12 KiB."""
    return schedules.from_json(msgspec.json.decode(data))


def _bind(schedule: Any, app: Celeriac) -> None:
    """Tell a schedule its application, whose zone it is in if it has none of its own."""
    if getattr(schedule, "_app", None) is None:
        try:
            schedule.app = app
        except AttributeError:
            pass  # a class of the user's that wants none


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
