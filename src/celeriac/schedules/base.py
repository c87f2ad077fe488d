"""What all schedules have in common: a zone, a clock and the question when they are due."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, NamedTuple

from celeriac.schedules.zones import zone

NEVER = timedelta(days=366)
"""What is left until a schedule that is never due again; look again then."""
_TICK = timedelta(microseconds=1)


class schedstate(NamedTuple):
    """The answer of :meth:`BaseSchedule.is_due`."""

    is_due: bool
    next: float | None
    """Seconds until to ask again; ``None`` means never."""


class BaseSchedule:
    """When something is due. A subclass defines :meth:`next_due`, or Celery's :meth:`is_due`.

    ``nowfun`` returns the present time (default: the application's). ``tz`` is the schedule's own zone, a
    name such as ``"Europe/Berlin"`` or a ``tzinfo``; it goes before the application's ``timezone``. ``app``
    is the application (default: the current one). Raises ``ValueError`` for an unknown zone.
    """

    _app: Any = None
    _own_zone: tzinfo | None = None
    _app_zone: tzinfo | None = None
    nowfun: Callable[[], datetime] | None = None

    def __init__(
        self,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
        tz: str | tzinfo | None = None,
    ) -> None:
        self.nowfun = nowfun
        self._app = app
        if tz is not None:
            self.tz = tz

    def next_due(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        """The first due time after ``after``, in UTC; ``None`` if there is none.

        ``anchor`` is where an interval counts from (default: ``after``). Times without a zone are UTC.

        Here, for a class that has only Celery's methods: when :meth:`is_due` says to ask again, which may be
        earlier than it is due (see :attr:`polled`).
        """
        after, now = self._utc(after), self._utc(self.now())
        is_due, wait = self.is_due(after)
        if is_due:
            return max(now, after + _TICK)
        return None if wait is None else max(now + timedelta(seconds=wait), after + _TICK)

    @property
    def polled(self) -> bool:
        """Whether the class decides by Celery's ``is_due`` or ``remaining_estimate``, not by ``next_due``.

        So it is for a class written for Celery, also a subclass of ``crontab`` with an ``is_due`` of its own:
        ask ``is_due(last_run_at)``, and again after as many seconds as it says.
        """
        for cls in type(self).__mro__:
            if "is_due" in vars(cls) or "remaining_estimate" in vars(cls):
                return "next_due" not in vars(cls)
            if "next_due" in vars(cls):
                return False
        return False

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether it is due now after a last run then, and in how many seconds to ask again."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(False, left)
        return schedstate(True, max(self.remaining_estimate(self.now()).total_seconds(), 0))

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long until it is due after a last run then; negative if it has been."""
        if type(self).next_due is BaseSchedule.next_due:
            raise NotImplementedError(f"{type(self).__qualname__} defines neither next_due nor is_due")
        due = self.next_due(self.maybe_make_aware(last_run_at))
        return NEVER if due is None else due - self._utc(self.now())

    def now(self) -> datetime:
        """The present time: ``nowfun()``, else the application's."""
        made: datetime = (self.nowfun or self.app.now)()
        return made

    @property
    def app(self) -> Any:
        """The application: the one given, else the current one."""
        if self._app is not None:
            return self._app
        from celeriac import current_app

        return current_app

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app
        self._app_zone = None

    @property
    def tz(self) -> tzinfo:
        """The zone: the schedule's own, else the application's ``timezone``, which is read once."""
        if self._own_zone is not None:
            return self._own_zone
        if self._app_zone is None:
            self._app_zone = self.app.timezone
        return self._app_zone

    @tz.setter
    def tz(self, tz: str | tzinfo | None) -> None:
        self._own_zone = None if tz is None else zone(tz)

    @property
    def utc_enabled(self) -> bool:
        """The application's ``enable_utc``."""
        return bool(self.app.conf.enable_utc)

    def to_local(self, dt: datetime) -> datetime:
        """``dt``, in this machine's zone if the application is without UTC."""
        return dt if self.utc_enabled else dt.astimezone()

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """A time without a zone, taken as UTC or as local, in the schedule's zone; others as they are."""
        if dt.tzinfo is not None:
            return dt
        return dt.replace(tzinfo=UTC).astimezone(self.tz) if naive_as_utc else dt.replace(tzinfo=self.tz)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BaseSchedule):
            return type(self) is type(other) and self._key() == other._key()
        return NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def _key(self) -> tuple[Any, ...]:
        """What two equal schedules have in common."""
        return (self.nowfun, self._own_zone)

    def _kept(self) -> dict[str, Any]:
        """The arguments that all schedules share, of those that were given, for pickles."""
        given = {"nowfun": self.nowfun, "tz": self._own_zone}
        return {name: value for name, value in given.items() if value is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    @staticmethod
    def _utc(moment: datetime) -> datetime:
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).astimezone(UTC)
