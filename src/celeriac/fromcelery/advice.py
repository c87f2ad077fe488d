"""What becomes of a Celery project here: each setting by its class, and what needs attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from celeriac.engines import ENGINES, schemes_of_others
from celeriac.exceptions import ImproperlyConfigured
from celeriac.fromcelery.catalogue import ATTENTION
from celeriac.fromcelery.project import Project
from celeriac.fromcelery.sources import Scan
from celeriac.settings import SETTINGS, Support, censor
from celeriac.settings.transport import SETTLED_OPTIONS
from celeriac.urls import mask_url

_RESULTS: Final = ("rpc", "disabled", "cache+memory")
_JSON: Final = frozenset(("json", "application/json"))
_OWN_SCHEDULERS: Final = (
    "celery.beat:PersistentScheduler",
    "celery.beat:Scheduler",
    "celery.beat.PersistentScheduler",
)
_PLUGINS: Final = (
    "django_celery_beat", "django_celery_results", "redbeat", "celery_once", "celery_singleton",
    "celery_batches", "celery_progress", "celery_sqlalchemy_scheduler", "celerybeatmongo",
    "celery_amqp_backend",
)  # fmt: skip
_NAMED: Final = {
    "broker": "broker_url",
    "backend": "result_backend",
    "database": "result_backend",
    "scheduler": "beat_scheduler",
    "pool": "worker_pool",
}
"""Attention -> the setting that does not simply stay then."""
_SHOWN_AT_MOST: Final = 8


@dataclass
class Advice:
    """The report on one project."""

    project: Project
    stays: dict[str, Any] = field(default_factory=dict)
    """Settings that do here what they say, with their values (secrets masked)."""
    settled: dict[str, str] = field(default_factory=dict)
    """Settings and options that the design answers in another way -> how."""
    refused: dict[str, str] = field(default_factory=dict)
    """Settings that are an error here -> what to do instead."""
    wrong: dict[str, str] = field(default_factory=dict)
    """Settings whose value has a type that is not taken here -> the error."""
    defaults: dict[str, str] = field(default_factory=dict)
    """Settings that the project leaves to their default, where ours is another -> the sentence why."""
    attention: dict[str, list[str]] = field(default_factory=dict)
    """Key of ``catalogue.ATTENTION`` -> what was found."""
    shared: bool = True
    """Whether both fleets can share the broker, so that workers can be exchanged one by one."""

    @property
    def blocked(self) -> bool:
        """Whether something must be changed before a worker of ours can start."""
        return bool(
            self.refused or self.wrong or {"broker", "pool", "imports", "names"} & self.attention.keys()
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "project": self.project.how,
            "notes": self.project.notes,
            "stays": self.stays,
            "settled": self.settled,
            "refused": self.refused,
            "wrong": self.wrong,
            "defaults": self.defaults,
            "attention": [
                {"key": key, "about": ATTENTION[key][0], "advice": ATTENTION[key][1], "found": found}
                for key, found in self.attention.items()
            ],
            "tasks": len(self.project.tasks),
            "shared": self.shared,
            "blocked": self.blocked,
        }


def judge(project: Project, scan: Scan, about_flag: Callable[[str], str]) -> Advice:
    """Look at everything that is known of a project.

    ``about_flag`` says what a flag (``worker --pool``) or a command does here, "" if it is the same.
    """
    advice = Advice(project)
    _settings(advice)
    for key, found in (*_of_settings(project.settings), *_of_tasks(project), *_of_sources(scan, about_flag)):
        if found:
            advice.attention.setdefault(key, []).extend(found)
    if project.steps:
        advice.attention["steps"] = sorted(project.steps)
    if project.loader:
        advice.attention["loader"] = [project.loader]
    guesses = {name: guess for name, guess in project.unknown.items() if guess}
    if guesses:
        advice.attention["names"] = [f"{name}: probably {guess}" for name, guess in sorted(guesses.items())]
    url = _first_url(project.settings.get("broker_url"))
    advice.shared = url.partition(":")[0] in ("redis", "rediss", "sentinel", "amqp", "amqps", "pyamqp", "")
    if advice.shared:
        advice.attention["delays"] = []
    advice.attention = {key: advice.attention[key] for key in ATTENTION if key in advice.attention}
    for key, setting in _NAMED.items():
        if key in advice.attention:
            advice.stays.pop(setting, None)
    return advice


def _settings(advice: Advice) -> None:
    given = advice.project.settings
    shown = censor(given)
    for name in sorted(given):
        row, value = SETTINGS[name], given[name]
        if row.support is Support.REFUSED:
            if value != row.celery_default:
                advice.refused[name] = row.doc
        elif row.support is Support.SETTLED:
            advice.settled[name] = row.doc
        elif (error := _type_error(name, value)) and not _judged_apart(name):
            advice.wrong[name] = error
        else:
            advice.stays[name] = shown[name]
    for setting in ("broker_transport_options", "result_backend_transport_options"):
        options = given.get(setting)
        for option in options if isinstance(options, Mapping) else ():
            if option in SETTLED_OPTIONS:
                advice.settled[f"{setting}[{option!r}]"] = SETTLED_OPTIONS[option]
    advice.defaults = {name: row.why for name, row in SETTINGS.items() if row.why and name not in given}


def _judged_apart(name: str) -> bool:
    return name in ("broker_url", "result_backend")


def _type_error(name: str, value: Any) -> str:
    try:
        SETTINGS[name].convert(value)
    except ImproperlyConfigured as error:
        return str(error)
    return ""


def _of_settings(given: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    broker = _first_url(given.get("broker_url"))
    if broker and _kind(broker) not in (*ENGINES, *schemes_of_others()):
        yield "broker", [f"broker_url = {mask_url(broker)}"]
    backend = str(given.get("result_backend") or "")
    if backend.startswith(("db+", "database")):
        yield "database", [f"result_backend = {mask_url(backend)}"]
    elif backend and _kind(backend) not in (*ENGINES, *_RESULTS, *schemes_of_others()):
        yield "backend", [f"result_backend = {mask_url(backend)}"]
    formats = [
        f"{name} = {given[name]!r}"
        for name in (
            "task_serializer",
            "result_serializer",
            "event_serializer",
            "accept_content",
            "result_accept_content",
        )
        if not _JSON.issuperset(_names(given.get(name)))
    ]
    yield "formats", formats
    scheduler = given.get("beat_scheduler")
    if scheduler and str(scheduler) not in _OWN_SCHEDULERS:
        yield "scheduler", [f"beat_scheduler = {scheduler}"]
    entries = given.get("beat_schedule")
    if entries:
        yield "schedule", [f"{len(entries)} in beat_schedule"]
    pool = str(given.get("worker_pool") or "")
    if ":" in pool or "." in pool:
        yield "pool", [f"worker_pool = {pool}"]
    if given.get("worker_consumer") not in (None, "celery.worker.consumer:Consumer"):
        yield "pool", [f"worker_consumer = {given['worker_consumer']}"]
    if given.get("task_default_rate_limit"):
        yield "rates", [f"task_default_rate_limit = {given['task_default_rate_limit']}"]
    numbers = [
        name for name in ("task_default_priority", "task_queue_max_priority") if given.get(name) is not None
    ]
    yield "priorities", [f"{name} = {given[name]}" for name in numbers]
    if given.get("task_acks_late") is False:
        yield "early", ["task_acks_late = False: obeyed, no task of yours is repeated"]
    elif "task_acks_late" not in given:
        yield "early", ["task_acks_late is not set"]


def _of_tasks(project: Project) -> Iterator[tuple[str, list[str]]]:
    tests: tuple[tuple[str, Callable[[Mapping[str, Any]], bool], str], ...] = (
        ("rates", lambda options: bool(options.get("rate_limit")), "rate_limit"),
        ("priorities", lambda options: isinstance(options.get("priority"), int), "priority"),
        ("early", lambda options: options.get("acks_late") is False, "acks_late"),
    )
    for key, concerns, option in tests:
        names = [name for name, options in sorted(project.tasks.items()) if concerns(options)]
        yield key, shorten([f"{name}: {option} = {project.tasks[name][option]!r}" for name in names])
    formats = [
        f"{name}: serializer = {options['serializer']!r}"
        for name, options in sorted(project.tasks.items())
        if options.get("serializer") not in (None, "json")
    ]
    yield "formats", shorten(formats)


def _of_sources(scan: Scan, about_flag: Callable[[str], str]) -> Iterator[tuple[str, list[str]]]:
    yield "imports", shorten([f"{name} ({_places(where)})" for name, where in sorted(scan.missing.items())])
    plugins: dict[str, list[str]] = {}
    kombu: dict[str, list[str]] = {}
    for name, where in scan.imports.items():
        root, _, rest = name.partition(".")
        if root in _PLUGINS:
            plugins.setdefault(root, []).extend(where)
        elif root in ("kombu", "billiard") and rest not in (
            "Queue",
            "Exchange",
            "entity.Queue",
            "entity.Exchange",
        ):
            kombu.setdefault(name, []).extend(where)
    yield "plugins", shorten([f"{name} ({_places(where)})" for name, where in sorted(plugins.items())])
    yield "kombu", shorten([f"{name} ({_places(where)})" for name, where in sorted(kombu.items())])
    flags = {flag: about_flag(flag) for flag in sorted(scan.commands)}
    yield (
        "flags",
        [f"{flag} ({_places(scan.commands[flag])}): {says}" for flag, says in flags.items() if says],
    )


def shorten(found: Sequence[str]) -> list[str]:
    """The first few, and how many more there are."""
    if len(found) <= _SHOWN_AT_MOST:
        return list(found)
    return [*found[: _SHOWN_AT_MOST - 1], f"and {len(found) - _SHOWN_AT_MOST + 1} more"]


def _places(where: Sequence[str]) -> str:
    return where[0] if len(where) == 1 else f"{where[0]} and {len(where) - 1} more"


def _kind(url: str) -> str:
    scheme = url.partition("://")[0].lower() if "://" in url else url
    return scheme if scheme in ENGINES or scheme in _RESULTS else scheme.partition("+")[0]


def _first_url(url: Any) -> str:
    if isinstance(url, list | tuple):
        url = url[0] if url else ""
    return str(url or "").partition(";")[0]


def _names(value: Any) -> set[str]:
    if value is None:
        return set()
    return {value} if isinstance(value, str) else {str(each) for each in value}
