"""The documentation page of the settings, written from the table.

``python -m celeriac.settings.page > docs/settings.md`` renews it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celeriac.settings.setting import Setting, Support
from celeriac.settings.table import SECTIONS, SETTINGS
from celeriac.settings.transport import SETTLED_OPTIONS

_HEAD = """\
# Settings

Every setting of Celery 5.7 is known here, and a few more. Each is of one class:

* **works**: it does what it says. A setting that waits for a part of Celeriac that is not finished says so:
  a worker names it at its start.
* **settled**: accepted, and answered by the design in another way, which the table says. If you set it, a
  worker says so in one line at its start.
* **refused**: what it asks for does not exist here. It is an error if it is set to anything but Celery's
  default.

Times are in seconds, and a `timedelta` is accepted for each; sizes are in bytes unless the text says
otherwise. `None` means "not set" where the table gives it no meaning of its own.

## Where values come from

The first of these that has a value wins:

1. the command line (`-b`, `--result-backend`, `name=value`);
2. the environment: `CELERY_BROKER_URL`, `CELERY_BROKER_READ_URL`, `CELERY_BROKER_WRITE_URL` and
   `CELERY_RESULT_BACKEND`, and for any setting `CELERIAC_` with its name in capitals, such as
   `CELERIAC_TASK_TIME_LIMIT=60`. Lists are separated by commas; dictionaries are JSON; empty means unset.
   Other variables that begin with `CELERY_` are options of the command, and no settings;
3. what the program sets: `app.conf.x = ...`, `app.conf.update(...)`, `Celeriac(..., x=...)`;
4. `app.conf.add_defaults(...)`;
5. the configuration: `app.config_from_object(...)`;
6. the defaults below.

With `namespace="CELERY"` (Django) a setting is written `CELERY_` and its name in capitals. Names from before
Celery 4 are read too; old and new names in one configuration are an error, as in Celery, except with a
namespace.

A name that is nearly a setting's is an error that names the setting. Other names that are no
settings are kept for your own use; with a namespace, and in the environment, they are left alone.
"""

_DIFFERENCES = """
## Where our defaults do not do what Celery's do

| setting | Celery | here | why |
|---|---|---|---|
"""

_OPTIONS = """
## Transport options that are settled

Inside `broker_transport_options` and `result_backend_transport_options`:

| option | here |
|---|---|
"""


def markdown() -> str:
    """Return the page."""
    parts = [_HEAD, _DIFFERENCES]
    parts += [_difference(row) for row in SETTINGS.values() if row.why]
    for title, rows in SECTIONS.items():
        parts.append(f"\n## {title}\n\n| setting | default | class | |\n|---|---|---|---|\n")
        parts += _rows(rows)
    parts.append(_OPTIONS)
    parts += [f"| `{name}` | {sentence} |\n" for name, sentence in SETTLED_OPTIONS.items()]
    return "".join(parts)


def _difference(row: Setting) -> str:
    celery = "no such setting" if row.ours else _value(row.celery_default)
    return f"| `{row.name}` | {celery} | {_value(row.default)} | {_escape(row.why)} |\n"


def _rows(rows: Iterable[Setting]) -> list[str]:
    order = list(Support)
    return [
        f"| `{row.name}` | {_value(row.default)} | {_class(row)} | {_escape(row.doc)} |\n"
        for row in sorted(rows, key=lambda row: order.index(row.support))
    ]


def _class(row: Setting) -> str:
    return f"{row.support}{', ours' if row.ours else ''}"


def _value(value: Any) -> str:
    return f"`{value!r}`".replace("|", "\\|")


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(markdown(), end="")
