"""Serialisers by name and content type: json, yaml, msgpack and, only when allowed by name, pickle.

The formats and labels are kombu's. Writing names the part of a value that cannot be written; reading
accepts only content types that the caller allows, because unpickling runs whatever the bytes say.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from celeriac import extended_json
from celeriac.compression import compress, decompress
from celeriac.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    SecurityError,
)
from celeriac.extended_json import loads as json_loads
from celeriac.extended_json import register_type
from celeriac.saferepr import repr_args
from celeriac.wire_errors import decode_exception, encode_exception

__all__ = [
    "Serializer",
    "compress",
    "decode_exception",
    "decompress",
    "dumps",
    "encode_exception",
    "ensure_accept",
    "json_dumps",
    "json_loads",
    "loads",
    "register",
    "register_type",
    "repr_args",
    "serializer",
]


class Serializer(NamedTuple):
    """One way to turn a value into bytes and back."""

    name: str
    content_type: str
    content_encoding: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def dumps(
    value: Any, serializer: str = "json", names: Mapping[str, Any] | None = None
) -> tuple[str, str, bytes]:
    """Return ``(content_type, content_encoding, data)`` of ``value``.

    ``names`` are the named parts of the value (``{"args": args, ...}``), by which an error speaks of
    the culprit. Raises ``EncodeError`` if a part of it cannot be written, ``ImproperlyConfigured`` for an
    unknown serializer.
    """
    chosen = _by_name.get(serializer) or _named(serializer)
    try:
        return chosen.content_type, chosen.content_encoding, chosen.encode(value)
    except ImproperlyConfigured:
        raise
    except Exception as error:  # a user's __json__ or __reduce__ may raise anything
        raise _explain(chosen, names or {"value": value}, error) from error


def loads(data: bytes, content_type: str, content_encoding: str, accept: Container[str]) -> Any:
    """Return the value of ``data``, if ``content_type`` is among the accepted ones.

    ``content_encoding`` matters only to text of a type that has no decoder. Raises
    ``ContentDisallowed`` for what is not accepted and ``DecodeError`` for what is not what it says.
    """
    if content_type not in accept:
        raise _refuse(content_type)
    chosen = _by_type.get(content_type)
    if chosen is None:
        raise DecodeError(f"no serializer is registered for the content type {content_type!r}")
    try:
        return chosen.decode(data)
    except (DecodeError, ContentDisallowed, SecurityError):
        raise
    except ImproperlyConfigured as error:
        raise DecodeError(str(error)) from error
    except Exception as error:  # garbage makes decoders raise nearly anything
        raise DecodeError(f"unreadable {chosen.name} data: {type(error).__name__}: {error}") from error


def json_dumps(value: Any, names: Mapping[str, Any] | None = None) -> bytes:
    """Return ``value`` as Celery's extended JSON, whatever is registered as ``json``.

    Raises ``EncodeError`` naming the part that cannot be written, with ``names`` as in :func:`dumps`.
    """
    try:
        return extended_json.dumps(value)
    except Exception as error:  # as in dumps()
        raise _explain(_JSON, names or {"value": value}, error) from error


def ensure_accept(names: Iterable[str]) -> frozenset[str]:
    """Return the content types meant by short names (``"json"``) or content types.

    Raises ``ImproperlyConfigured`` for a name that is neither.
    """
    return frozenset(name if "/" in name else _named(name).content_type for name in names)


def serializer(name: str) -> Serializer:
    """Return the serializer of that short name; raises ``ImproperlyConfigured`` if there is none."""
    return _by_name.get(name) or _named(name)


def register(
    name: str,
    encoder: Callable[[Any], str | bytes],
    decoder: Callable[[bytes], Any],
    content_type: str,
    content_encoding: str = "utf-8",
) -> None:
    """Add a serializer (or replace one), to be used by ``name`` in settings and task options.

    ``encoder`` may return text, which is sent as UTF-8. Workers must also accept it (``accept_content``).
    """

    def encode(value: Any) -> bytes:
        written = encoder(value)
        return written.encode("utf-8") if isinstance(written, str) else written

    _add(Serializer(name, content_type, content_encoding, encode, decoder))


# -- errors that say where and what to do ----------------------------------------------------------


def _explain(chosen: Serializer, names: Mapping[str, Any], error: Exception) -> EncodeError:
    if isinstance(error, EncodeError):
        return error
    for name, part in names.items():
        found = _find(chosen, part, name, ())
        if found is not None:
            path, culprit = found
            return EncodeError(
                f"{path}: {_describe(culprit)} cannot be written as {chosen.name}. {_remedy(culprit, chosen)}"
            )
    return EncodeError(f"The value cannot be written as {chosen.name}: {error}")


def _find(chosen: Serializer, value: Any, path: str, outer: tuple[int, ...]) -> tuple[str, Any] | None:
    """Return the path and the innermost part of ``value`` that cannot be written."""
    try:
        chosen.encode(value)
        return None
    except Exception:  # that is the question
        pass
    if id(value) in outer or len(outer) > 50:
        return path, value
    for key, part in _parts(value):
        found = _find(chosen, part, f"{path}[{repr_args(key, 60)}]", (*outer, id(value)))
        if found is not None:
            return found
    return path, value


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list | tuple) else ()


def _describe(value: Any) -> str:
    kind = type(value)
    if isinstance(value, dict | list | tuple):
        return f"a {kind.__name__} that contains itself or has keys of other types"
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"an object of type {name}"


def _remedy(value: Any, chosen: Serializer) -> str:
    """Return a sentence that says what to pass instead."""
    kind = type(value)
    if isinstance(value, set | frozenset):
        return "Pass a list: list(value)."
    if isinstance(value, dict):
        return "Use strings as keys and no references back to the container."
    if isinstance(value, list | tuple):
        return "Pass data without references back to the container."
    if kind.__name__ == "timedelta":
        return "Pass seconds: value.total_seconds()."
    if hasattr(value, "_meta") and hasattr(value, "pk"):
        return "Pass the model's primary key and load it in the task."
    if hasattr(kind, "model_dump"):
        return "Pass value.model_dump(mode='json'), or declare the task with pydantic=True."
    if hasattr(kind, "__dataclass_fields__"):
        return "Pass dataclasses.asdict(value)."
    if any(base.__module__ == "enum" for base in kind.__mro__):
        return "Pass value.value."
    if chosen.name == "json":
        return "Pass plain data (text, numbers, lists, dicts), or give its class a __json__() method."
    return "Pass plain data (text, numbers, lists, dicts)."


def _refuse(content_type: str) -> ContentDisallowed:
    known = _by_type.get(content_type)
    name = known.name if known else content_type
    return ContentDisallowed(
        f"Refused to read content of type {content_type!r}: it is not in accept_content. "
        f"Add {name!r} there if you trust everybody who can write to this broker and result store."
    )


def _named(name: str) -> Serializer:
    found = _by_name.get(name)
    if found is None:
        known = ", ".join(sorted(_by_name))
        raise ImproperlyConfigured(f"There is no serializer {name!r}. Known: {known}.")
    return found


# -- the serializers -------------------------------------------------------------------------------


def _add(made: Serializer) -> None:
    _by_name[made.name] = made
    _by_type[made.content_type] = made


def _library(name: str, extra: str) -> Any:
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"The serializer {extra!r} needs a library: pip install 'celeriac[{extra}]'."
        ) from error


@cache
def _yaml_dumper() -> Any:
    """The safe dumper, which refuses subclasses of ``dict``, but that signatures are such."""
    yaml = _library("yaml", "yaml")
    dumper: Any = type("Dumper", (yaml.SafeDumper,), {})
    dumper.add_multi_representer(dict, yaml.SafeDumper.represent_dict)
    return dumper


def _yaml_encode(value: Any) -> bytes:
    text: str = _library("yaml", "yaml").dump(value, Dumper=_yaml_dumper())
    return text.encode("utf-8")


def _yaml_decode(data: bytes) -> Any:
    return _library("yaml", "yaml").safe_load(data)


def _msgpack_encode(value: Any) -> bytes:
    # Not left to the library, which takes a dictionary's size from len(): that of a group counts its tasks.
    packed: bytes = _library("msgpack", "msgpack").packb(
        value, use_bin_type=True, strict_types=True, default=_plain_type
    )
    return packed


def _plain_type(value: Any) -> Any:
    """A value of a type derived from one that msgpack has, as one of that type."""
    for kind, plain in _PLAIN_TYPES:
        if isinstance(value, kind):
            return plain(value)
    raise TypeError(f"can not serialize {type(value).__name__!r} object")


_PLAIN_TYPES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (tuple, list), (dict, dict), (list, list), (str, str.__str__), (int, int), (float, float), (bytes, bytes),
)  # fmt: skip


def _msgpack_decode(data: bytes) -> Any:
    return _library("msgpack", "msgpack").unpackb(data, raw=False)


def _pickle_encode(value: Any) -> bytes:
    # Protocol 4 is what Celery writes, and every supported Python reads it.
    return pickle.dumps(value, protocol=4)


_by_name: Final[dict[str, Serializer]] = {}
_by_type: Final[dict[str, Serializer]] = {}

_JSON: Final = Serializer("json", "application/json", "utf-8", extended_json.dumps, json_loads)
_add(_JSON)
_add(Serializer("yaml", "application/x-yaml", "utf-8", _yaml_encode, _yaml_decode))
_add(Serializer("msgpack", "application/x-msgpack", "binary", _msgpack_encode, _msgpack_decode))
_add(Serializer("pickle", "application/x-python-serialize", "binary", _pickle_encode, pickle.loads))
