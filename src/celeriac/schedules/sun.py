"""Events of the sun, by the library ephem (``pip install celeriac[solar]``)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from celeriac.exceptions import ImproperlyConfigured
from celeriac.schedules.base import BaseSchedule


class _Event(NamedTuple):
    horizon: str
    """Degrees above the horizon at which the sun is taken to be there."""
    search: str
    """The method of ``ephem.Observer`` that finds it."""
    center: bool
    """Whether the middle of the sun counts, not its upper edge."""


EVENTS = {
    "dawn_astronomical": _Event("-18", "next_rising", True),
    "dawn_nautical": _Event("-12", "next_rising", True),
    "dawn_civil": _Event("-6", "next_rising", True),
    "sunrise": _Event("-0:34", "next_rising", False),
    "solar_noon": _Event("0", "next_transit", False),
    "sunset": _Event("-0:34", "next_setting", False),
    "dusk_civil": _Event("-6", "next_setting", True),
    "dusk_nautical": _Event("-12", "next_setting", True),
    "dusk_astronomical": _Event("-18", "next_setting", True),
}
_STARTS = {"next_rising": -6, "next_transit": 0, "next_setting": 6}
"""The hour, by the mean time of the place, to look for a day's event from: far from any such event."""
_DAYS = 367
_DAY = timedelta(days=1)


class solar(BaseSchedule):
    """An event of the sun at a place: ``solar("sunset", 52.5, 13.4)``.

    ``event``: ``dawn_astronomical``, ``dawn_nautical``, ``dawn_civil``, ``sunrise``, ``solar_noon``,
    ``sunset``, ``dusk_civil``, ``dusk_nautical`` or ``dusk_astronomical``. ``lat`` and ``lon`` are degrees,
    north and east positive. On a day without the event (polar night) it does not run.

    Raises ``ValueError`` for another event or no such place, ``ImproperlyConfigured`` without ephem.
    """

    def __init__(self, event: str, lat: float, lon: float, nowfun: Any = None, app: Any = None) -> None:
        if event not in EVENTS:
            raise ValueError(f"solar: there is no event {event!r}; there are {', '.join(EVENTS)}")
        if not -90 <= lat <= 90:
            raise ValueError(f"solar: lat is from -90 to 90 degrees, not {lat}")
        if not -180 <= lon <= 180:
            raise ValueError(f"solar: lon is from -180 to 180 degrees, not {lon}")
        super().__init__(nowfun=nowfun, app=app)
        self.event, self.lat, self.lon = event, lat, lon
        self._observer = self._place()

    def next_due(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        """The event's first time after ``after``, in UTC; ``None`` if it does not occur within a year.

        Each day's event is looked for from the same moment, so that one event has one time, whenever it is
        asked for.
        """
        after = self._utc(after)
        try:
            start = self._start(after) - _DAY
            for _ in range(_DAYS):
                due = self._within_a_day(start)
                if due is not None and due > after:
                    return due
                start += _DAY
        except OverflowError:
            pass
        return None

    def _within_a_day(self, start: datetime) -> datetime | None:
        import ephem

        event = EVENTS[self.event]
        search = getattr(self._observer, event.search)
        options = {"use_center": True} if event.center else {}
        try:
            found = search(ephem.Sun(), start=ephem.Date(start), **options)
        except ephem.CircumpolarError:
            return None
        due: datetime = found.datetime().replace(tzinfo=UTC)
        return due if due < start + _DAY else None

    def _start(self, moment: datetime) -> datetime:
        ahead = timedelta(hours=self.lon / 15 - _STARTS[EVENTS[self.event].search])
        there: date = (moment + ahead).date()
        return datetime(there.year, there.month, there.day, tzinfo=UTC) - ahead

    def _place(self) -> Any:
        try:
            import ephem
        except ImportError as error:
            raise ImproperlyConfigured(
                "solar schedules need the library ephem: pip install 'celeriac[solar]'"
            ) from error
        place = ephem.Observer()
        place.lat, place.lon, place.elev, place.pressure = str(self.lat), str(self.lon), 0, 0
        place.horizon = EVENTS[self.event].horizon
        return place

    def __json__(self) -> dict[str, Any]:
        return {"type": "solar", "event": self.event, "lat": self.lat, "lon": self.lon}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.event, self.lat, self.lon), self._kept()

    def _key(self) -> tuple[Any, ...]:
        return (*super()._key(), self.event, self.lat, self.lon)

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"
