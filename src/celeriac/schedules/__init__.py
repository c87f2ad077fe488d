"""Schedules: when a periodic task is due.

:class:`schedule` is an interval, :class:`crontab` a set of minutes of the calendar with Celery's fields,
:class:`cron` the same as text with cron's own meaning, :class:`solar` an event of the sun and
:class:`clocked` one moment. All are checked when they are made, can be compared, pickled and written as JSON
(:func:`to_json`, :func:`from_json`). Nothing here reads a clock but :meth:`BaseSchedule.now`.

The rule at daylight-saving jumps, and at every other change of a zone's offset, is stated in
:mod:`celeriac.schedules.walls`.
"""

from celeriac.schedules.base import BaseSchedule, schedstate
from celeriac.schedules.crons import cron
from celeriac.schedules.crontabs import crontab
from celeriac.schedules.fields import ParseException, crontab_parser
from celeriac.schedules.intervals import maybe_schedule, schedule
from celeriac.schedules.moments import clocked
from celeriac.schedules.stored import from_json, to_json
from celeriac.schedules.sun import solar

__all__ = [
    "BaseSchedule",
    "ParseException",
    "clocked",
    "cron",
    "crontab",
    "crontab_parser",
    "from_json",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
    "to_json",
]
