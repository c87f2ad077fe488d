"""Celery's JSON: plain JSON, and ``{"__type__": ..., "__value__": ...}`` for what JSON has no form for.

Written and read as kombu does it: ``datetime``, ``date``, ``time``, ``UUID``, ``Decimal`` and ``bytes`` keep
their type; an object with a method ``__json__()`` is written as what that returns, a lazy Django string
as its text. Tuples become lists; sets, dataclasses and everything else are refused.

Two encoders share the work. msgspec is 5 to 10 times as fast as ``json``, but it writes dates, sets,
enums and dataclasses in forms of its own and non-finite floats as ``null``. So it gets only what
:func:`is_plain` has seen to be exactly JSON; everything else goes to ``json`` with kombu's rules.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import sys
import uuid
from collections.abc import Callable
from typing import Any, Final

import msgspec

from celeriac.exceptions import DecodeError

_SCALARS: Final = frozenset({str, int, bool, type(None)})
_TEXT: Final = frozenset({str})
_CONTAINERS: Final = frozenset({list, tuple, dict})
_WALK: Final = 32
"""Longest container that is walked in Python: beyond it ``json``'s own C loop costs no more than our walk."""

encode_plain: Final = msgspec.json.Encoder().encode
"""Writes what :func:`is_plain` says yes to; raises ``UnicodeEncodeError`` for lone surrogates."""
_fast_decode: Final = msgspec.json.Decoder().decode


def dumps(value: Any) -> bytes:
    """Return ``value`` as JSON.

    Raises ``TypeError`` or ``ValueError`` for what cannot be written; ``serialization.dumps`` turns
    them into an ``EncodeError`` that names the culprit.
    """
    try:
        if is_plain(value):
            return encode_plain(value)
    except (RecursionError, UnicodeEncodeError):
        # A circular value, which the slow encoder names; or lone surrogates, which it escapes.
        pass
    return _slow_encode(value).encode("ascii")


def loads(data: bytes | str) -> Any:
    """Return the value written in ``data``; raises ``DecodeError``."""
    # The marker could also be spelt with escapes; nobody does, but then it must not be missed.
    marked = "__type__" in data or "\\u005" in data if isinstance(data, str) else _is_marked(data)
    if not marked:
        try:
            return _fast_decode(data)
        except (ValueError, RecursionError):
            pass  # NaN, 1e400 and lone surrogates are read by json, which also words the error.
    try:
        return _slow_decode(data if isinstance(data, str) else data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DecodeError(f"not JSON: the bytes are not UTF-8 (at byte {error.start})") from error
    except RecursionError as error:
        raise DecodeError("not read: the JSON is nested too deeply") from error
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        raise DecodeError(f"not JSON: {error}") from error


def is_plain(value: Any) -> bool:
    """Tell whether ``encode_plain`` writes ``value`` exactly as JSON means it.

    It may say no to a long value that is plain: then ``dumps`` is as fast.
    """
    kind = type(value)
    if kind is dict:
        if not _TEXT.issuperset(map(type, value)):
            return False
        items = value.values()
    elif kind is list or kind is tuple:
        items = value
    else:
        return kind in _SCALARS or (kind is float and math.isfinite(value))
    if _SCALARS.issuperset(map(type, items)):
        return True
    if len(value) > _WALK:
        return False
    # Written for speed: no generator, no call for scalars and empty parts.
    for item in items:
        kind = type(item)
        if kind not in _SCALARS and (item or kind not in _CONTAINERS) and not is_plain(item):
            return False
    return True


def register_type(
    kind: type[Any],
    marker: str | None,
    encoder: Callable[[Any], Any],
    decoder: Callable[[Any], Any] = lambda value: value,
) -> None:
    """Teach the format a type: instances of ``kind`` are written as ``encoder(value)`` under ``marker``.

    With ``marker=None`` the encoder's result is written bare and no decoder is needed. The markers
    must be known to every client and worker that reads them.
    """
    _encoders[kind] = (marker, encoder)
    if marker is not None:
        _decoders[marker] = decoder


def _is_marked(data: bytes) -> bool:
    return b"__type__" in data or b"\\u005" in data


def _default(value: Any) -> Any:
    """Write what ``json`` cannot: called by it for every such object."""
    reduce = getattr(value, "__json__", None)
    if reduce is not None:
        return reduce()
    if _is_lazy_text(value):
        return str(value)
    for kind, (marker, encode) in _encoders.items():
        if isinstance(value, kind):
            return encode(value) if marker is None else {"__type__": marker, "__value__": encode(value)}
    if isinstance(value, bytes):
        try:
            return {"__type__": "bytes", "__value__": value.decode("utf-8")}
        except UnicodeDecodeError:
            return {"__type__": "base64", "__value__": base64.b64encode(value).decode("ascii")}
    raise TypeError(f"an object of type {type(value).__name__} has no JSON form")


def _is_lazy_text(value: Any) -> bool:
    # Only a process that has loaded Django can hold such a string: do not import it to find out.
    functional = sys.modules.get("django.utils.functional")
    return functional is not None and isinstance(value, functional.Promise)


def _restore(found: dict[str, Any]) -> Any:
    if found.keys() != {"__type__", "__value__"}:
        return found
    marker = found["__type__"]
    decode = _decoders.get(marker) if isinstance(marker, str) else None
    if decode is None:
        raise ValueError(f"unknown extended type {marker!r}")
    return decode(found["__value__"])


def _restore_uuid(fields: dict[str, str]) -> uuid.UUID:
    return uuid.UUID(**fields)  # type: ignore[arg-type]


_encoders: dict[type[Any], tuple[str | None, Callable[[Any], Any]]] = {}
_decoders: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda text: text.encode("utf-8"),
    "base64": lambda text: base64.b64decode(text.encode("ascii")),
}

# A datetime is a date too: the order counts.
register_type(datetime.datetime, "datetime", datetime.datetime.isoformat, datetime.datetime.fromisoformat)
register_type(
    datetime.date, "date", datetime.date.isoformat, lambda text: datetime.datetime.fromisoformat(text).date()
)
register_type(datetime.time, "time", datetime.time.isoformat, datetime.time.fromisoformat)
register_type(decimal.Decimal, "decimal", str, decimal.Decimal)
register_type(uuid.UUID, "uuid", lambda value: {"hex": value.hex}, _restore_uuid)

_slow_encode: Final = json.JSONEncoder(default=_default).encode
_slow_decode: Final = json.JSONDecoder(object_hook=_restore).decode
