"""Settings made safe to show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from celeriac.settings.table import SETTINGS
from celeriac.urls import mask_url

HIDDEN = "*" * 8

_SECRET_NAME = re.compile(
    r"(?i)API|TOKEN|KEY|SECRET|PASS|SIGNATURE|DATABASE|CREDENTIAL|PROFANITIES_LIST|BEAT_DBURI"
)


def censor(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` with secret values, and passwords in URLs, masked.

    The table says which of our settings are secret; other names, also inside dictionaries, are secret if
    they read like it (``*_TOKEN``, ``password``, ...).
    """
    return {name: _censor_setting(name, value) for name, value in settings.items()}


def _censor_setting(name: str, value: Any) -> Any:
    if name in SETTINGS:
        return HIDDEN if SETTINGS[name].secret and value else _censor_value(value)
    return HIDDEN if _SECRET_NAME.search(name) else _censor_value(value)


def _censor_value(value: Any) -> Any:
    if isinstance(value, str):
        return mask_url(value)
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if isinstance(key, str) and _SECRET_NAME.search(key) else _censor_value(item)
            for key, item in value.items()
        }
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_censor_value(item) for item in value)
    return value
