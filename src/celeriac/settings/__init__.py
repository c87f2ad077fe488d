"""Settings: the one table of them all, and the configuration object that holds their values.

``SETTINGS`` says of every setting, Celery's and ours, what it is called, its type and default, and whether
it works here, is settled by the design, or is refused. :class:`Settings` is an application's ``conf``.
"""

from __future__ import annotations

from celeriac.settings.layered import Settings, Source
from celeriac.settings.loading import from_arguments, from_environment, from_mapping, from_object
from celeriac.settings.setting import Setting, Support
from celeriac.settings.show import censor
from celeriac.settings.table import OLD_NAMES, SECTIONS, SETTINGS

__all__ = [
    "OLD_NAMES",
    "SECTIONS",
    "SETTINGS",
    "Setting",
    "Settings",
    "Source",
    "Support",
    "censor",
    "from_arguments",
    "from_environment",
    "from_mapping",
    "from_object",
]
