"""The base class for a scheduler of your own (``beat_scheduler = "pkg.module:Class"``, or ``-S``)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

from celeriac.app.names import given_or_default
from celeriac.beat.entries import with_defaults
from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

OTHERS: Final = ("django", "django_celery_beat", "redbeat", "celery_sqlalchemy_scheduler", "celerybeatmongo")
"""Packages, and a short name, of schedulers for Celery that keep entries or a lock in a database."""

DEFAULTS: Final = frozenset(("celery.beat:PersistentScheduler", "celery.beat:Scheduler"))
"""Names of Celery's schedulers, which mean that of Celeriac."""


class Scheduler:
    """Says which entries there are; the leading beat asks it, puts them into the store and fires them.

    A subclass overrides one of these, as in Celery:

    * :meth:`setup_schedule`, called once, to fill :attr:`schedule`;
    * the property :attr:`schedule`, to return a dictionary worked out anew, from a database for example: name
      -> an item as in ``beat_schedule``, or an object with ``task``, ``schedule`` and perhaps ``args``,
      ``kwargs`` and ``options``;
    * :meth:`tick`, called while this beat leads, to change :attr:`schedule`; it returns the seconds until it
      wants to be called again;
    * :meth:`sync` and :meth:`close`, called when this beat leads no longer and when it ends.

    After each :meth:`tick` the entries that have appeared, changed or gone are brought into the store.
    When each is due, that it is fired once, and how far it has come is the store's and the beat's business,
    so Celery's hooks for these (``is_due``, ``apply_entry``, ``apply_async``, ``send_task``, ``reserve``,
    ``populate_heap``) do not exist: a class that has one is refused. Several beats run; only the leading
    one's scheduler is asked.
    """

    max_interval: float = 5.0
    """Seconds between two calls of :meth:`tick`, unless it says otherwise."""

    REFUSED: ClassVar[tuple[str, ...]] = (
        "is_due", "apply_entry", "apply_async", "send_task", "reserve", "populate_heap",
    )  # fmt: skip

    def __init__(
        self,
        app: Celeriac,
        schedule: dict[str, Any] | None = None,
        max_interval: float | None = None,
        lazy: bool = False,
        **kwargs: Any,
    ) -> None:
        """``lazy`` leaves out :meth:`setup_schedule`. More that Celery passes is taken and not used."""
        self.app = app
        self.data: dict[str, Any] = {} if schedule is None else schedule
        self.max_interval = max_interval or app.conf.beat_max_loop_interval or self.max_interval
        if not lazy:
            self.setup_schedule()

    def setup_schedule(self) -> None:
        """Take the entries of ``beat_schedule`` and the default ones."""
        self.data.update(with_defaults(self.app, self.app.conf.beat_schedule))

    def install_default_entries(self, data: dict[str, Any]) -> None:
        """Add the entries in ``data`` and those that every application has (``celery.backend_cleanup``)."""
        self.update_from_dict(with_defaults(self.app, data))

    def update_from_dict(self, dict_: dict[str, Any]) -> None:
        """Add entries, or replace those of the same names."""
        self.schedule.update(dict_)

    def add(self, **fields: Any) -> None:
        """Add an entry: ``name`` and the keys of an item of ``beat_schedule``."""
        self.schedule[fields["name"]] = {key: value for key, value in fields.items() if key != "name"}

    @property
    def schedule(self) -> dict[str, Any]:
        """The entries, name -> item."""
        return self.data

    @schedule.setter
    def schedule(self, schedule: dict[str, Any]) -> None:
        self.data = schedule

    def tick(self) -> float:
        """Called while this beat leads; return the seconds until the next call."""
        return self.max_interval

    def sync(self) -> None:
        """Called when this beat leads no longer."""

    def close(self) -> None:
        """Called when the beat ends."""
        self.sync()

    @property
    def info(self) -> str:
        """A line for the start-up message; empty for none."""
        return ""


def find_scheduler(app: Celeriac, given: Any = None) -> type[Scheduler] | None:
    """The class that ``given`` (``-S``) or ``beat_scheduler`` names; ``None`` for Celeriac's own way.

    Raises ``ImproperlyConfigured`` for a name that leads nowhere, and a class that cannot work here.
    """
    chosen = given or app.conf.beat_scheduler
    if isinstance(chosen, str) and chosen.replace("celeriac.", "celery.") in DEFAULTS:
        return None
    if isinstance(chosen, str) and re.split("[.:]", chosen)[0] in OTHERS:
        raise ImproperlyConfigured(
            f"beat_scheduler={chosen!r} works with Celery only. Here it is not needed: leave it out. "
            "Any number of beats may run, and entries are added, changed, paused and removed at run time by "
            "app.schedule and 'celeriac schedule'. To take entries from a database of your own, subclass "
            "celeriac.beat.Scheduler"
        )
    if isinstance(chosen, str) and ":" not in chosen and "." not in chosen:
        chosen = _by_entry_point(chosen)
    try:
        found = given_or_default(chosen, None)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ImproperlyConfigured(f"beat_scheduler={chosen!r} cannot be imported: {exc}") from exc
    if found is Scheduler:
        return None
    if not (isinstance(found, type) and issubclass(found, Scheduler)):
        raise ImproperlyConfigured(
            f"beat_scheduler={chosen!r} is no subclass of celeriac.beat.Scheduler. Celery's and "
            "django-celery-beat's schedulers cannot run here; entries can be added, changed and removed at "
            "run time without one, by app.schedule"
        )
    for hook in Scheduler.REFUSED:
        if hasattr(found, hook):
            raise ImproperlyConfigured(
                f"{found.__qualname__}.{hook} would never be called: when entries are due and how they are "
                "fired is not the scheduler class's business here. See celeriac.beat.Scheduler for what is"
            )
    return found


def _by_entry_point(name: str) -> Any:
    from importlib.metadata import entry_points

    for group in ("celeriac.beat_schedulers", "celery.beat_schedulers"):
        for point in entry_points(group=group, name=name):
            return point.load()
    raise ImproperlyConfigured(f"there is no scheduler {name!r}: give its class as pkg.module:Class")
