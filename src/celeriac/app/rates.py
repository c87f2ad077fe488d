"""Rate limits as text and numbers."""

from __future__ import annotations

from typing import Any, Final

from celeriac.exceptions import ImproperlyConfigured


def interval(rate: Any) -> float:
    """Seconds between two tokens of a rate limit: a number a second, or ``"10/s"``, ``"10/m"``, ``"10/h"``.

    No limit (``None``, 0, "") is 0.0. Raises ``ImproperlyConfigured`` for anything else.
    """
    if not rate:
        return 0.0
    try:
        if isinstance(rate, str):
            number, _, unit = rate.partition("/")
            per_second = float(number) / _SECONDS[unit or "s"]
        else:
            per_second = float(rate)
        if not per_second >= 0:  # so that "nan" is none either
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ImproperlyConfigured(
            f"a rate limit is a number of tasks a second or text such as '10/s', '10/m', '10/h', not {rate!r}"
        ) from None
    return 1.0 / per_second if per_second else 0.0


_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
