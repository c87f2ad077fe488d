"""The text of ``celeriac report``."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from celeriac import __version__
from celeriac.app.state import app_or_default

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


def bugreport(app: Celeriac | None = None) -> str:
    """Versions and settings of an application (default: the current one), with passwords masked."""
    app = app_or_default(app)
    software = [f"celeriac:{__version__}", f"py:{platform.python_version()}"]
    for name in ("redis", "msgspec", "hiredis"):
        try:
            software.append(f"{name}:{version(name)}")
        except PackageNotFoundError:
            continue
    return "\n".join(
        (
            f"software -> {' '.join(software)}",
            f"platform -> system:{platform.system()} arch:{platform.machine()} imp:{sys.implementation.name}",
            f"settings -> broker:{app.broker_shown} results:{getattr(app.backend, 'url', 'disabled')}",
            "",
            app.conf.humanize(),
        )
    )
