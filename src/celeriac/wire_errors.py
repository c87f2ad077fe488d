"""Exceptions as data: ``{"exc_type", "exc_message", "exc_module"}``, Celery's form in results.

Reading never imports anything and makes nothing but exceptions: a result store that an attacker can
write to must not be a way to run code (compare CVE-2021-23727).

Celeriac's exceptions are written under the names of their counterparts (``celery.exceptions.Ignore``,
``billiard.exceptions.TimeLimitExceeded``, ``kombu.exceptions.OperationalError``): a real Celery client
makes its own class of them, where a name under ``celeriac`` would give it a nameless stand-in. Read,
those names give Celeriac's classes, whoever wrote them and whether or not Celery is installed here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final

from celeriac import exceptions, extended_json
from celeriac.exceptions import DecodeError, SecurityError
from celeriac.saferepr import shown


def encode_exception(
    exc: BaseException, encode: Callable[[Any], Any] = extended_json.dumps
) -> dict[str, Any]:
    """Return ``exc`` as data. Arguments that ``encode`` refuses are replaced by their ``repr``.

    Its cause and traceback are not part of it: a result carries the traceback as text.
    """
    kind = type(exc)
    module, name = _WRITTEN.get(kind) or (kind.__module__, kind.__qualname__)
    arguments = [_writable(argument, encode) for argument in exc.args]
    return {"exc_type": name, "exc_message": arguments, "exc_module": module}


def decode_exception(data: Mapping[str, Any] | BaseException) -> BaseException:
    """Return the exception that ``data`` describes (an exception is returned as it is).

    A class that is not loaded in this process is stood in for by one of the same name. A class whose
    constructor does not take the stored arguments is made without calling it, so that ``except``
    clauses still work. Classes beyond ``Exception`` (``SystemExit``) are stood in for as well: no stored
    value may stop a process.

    Raises ``DecodeError`` if ``data`` has not this form, and ``SecurityError`` if it names something
    that is not an exception.
    """
    if isinstance(data, BaseException):
        return data
    if not isinstance(data, Mapping) or not isinstance(data.get("exc_type"), str):
        raise DecodeError("the stored exception is not an object with exc_type, exc_message and exc_module")
    module, name = data.get("exc_module"), data["exc_type"]
    message = data.get("exc_message", "")
    arguments = tuple(message) if isinstance(message, list | tuple) else (message,)
    return _create(_find_class(module, name), arguments)


def _writable(argument: Any, encode: Callable[[Any], Any]) -> Any:
    try:
        encode(argument)
    except Exception:  # a user's object may raise anything
        return shown(argument)
    return argument


def _find_class(module: Any, name: str) -> type[Exception]:
    ours = _READ.get((module, name))
    if ours is not None:
        return ours
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    if found is None:
        return _stand_in(name)
    for part in name.split("."):
        # Looked up without getattr: it could import (lazy modules) or run properties.
        if not isinstance(found, ModuleType | type) or part not in vars(found):
            return _stand_in(name)
        found = vars(found)[part]
    if not isinstance(found, type) or not issubclass(found, BaseException):
        raise SecurityError(f"Refused a stored exception: {module}.{name} is not an exception class.")
    return found if issubclass(found, Exception) else _stand_in(name)


def _stand_in(name: str) -> type[Exception]:
    try:
        return type(name, (Exception,), {"__module__": exceptions.__name__})
    except ValueError as error:  # a null character in the name
        raise DecodeError(f"the stored exception has an impossible name: {name!r:.80}") from error


def _create(kind: type[Exception], arguments: tuple[Any, ...]) -> Exception:
    try:
        return kind(*arguments)
    except Exception:  # a user's constructor may raise anything
        pass
    try:
        bare = kind.__new__(kind, *arguments)
        bare.args = arguments
        str(bare), repr(bare)  # it may need attributes that only the constructor sets
    except Exception:  # as above
        return Exception(f"{kind}({arguments})")
    return bare


_CELERY: Final = (
    "AlreadyRegistered AlwaysEagerIgnored BackendError BackendGetMetaError BackendStoreError "
    "CDeprecationWarning CPendingDeprecationWarning CeleryCommandException CeleryError CeleryWarning "
    "ChordError DuplicateNodenameWarning DuplicateTaskNameWarning FixupWarning Ignore ImproperlyConfigured "
    "IncompleteStream InvalidTaskError MaxRetriesExceededError NotConfigured NotRegistered QueueNotFound "
    "Reject Retry SecurityError SecurityWarning TaskError TaskPredicate TaskRevokedError TimeoutError"
)
_BILLIARD: Final = "SoftTimeLimitExceeded Terminated TimeLimitExceeded WorkerLostError"
_KOMBU: Final = "ContentDisallowed DecodeError EncodeError OperationalError"

_WRITTEN: Final[dict[type[BaseException], tuple[str, str]]] = {
    getattr(exceptions, name): (module, name)
    for module, names in (
        ("celery.exceptions", _CELERY),
        ("billiard.exceptions", _BILLIARD),
        ("kombu.exceptions", _KOMBU),
    )
    for name in names.split()
}
_READ: Final[dict[tuple[Any, str], type[Any]]] = {
    **{wire: kind for kind, wire in _WRITTEN.items()},
    # celery.exceptions also offers what it takes from the other two.
    **{("celery.exceptions", name): kind for kind, (_, name) in _WRITTEN.items()},
}
