"""The application's configuration: one value a setting, out of several layers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from celeriac.exceptions import ImproperlyConfigured
from celeriac.settings import loading
from celeriac.settings.setting import Support
from celeriac.settings.show import censor
from celeriac.settings.table import SETTINGS
from celeriac.settings.transport import transport_notes

Source = Callable[[], Mapping[str, Any]]
"""Returns settings by today's names, as the functions of ``celeriac.settings.loading`` do."""

_NO_DEFAULT: Any = object()


class Settings(MutableMapping[str, Any]):
    """Settings by attribute (``conf.task_acks_late``) and by key (``conf["task_acks_late"]``).

    A value is taken from the first of these layers that has it:

    1. :meth:`override`, for the command line;
    2. the environment (``CELERY_BROKER_URL`` and its like, ``CELERIAC_<NAME>``);
    3. what was set at run time: ``conf.x = ...``, ``conf["x"] = ...``, :meth:`update`;
    4. :meth:`add_defaults`, the latest first;
    5. the source, set by :meth:`configure`: the configuration module, object or dictionary;
    6. :meth:`maybe_defaults`;
    7. the table's defaults.

    The source, the environment and callables given to ``add_defaults`` are read once, at the first read of
    any setting, by one thread. Setting a value does not read them, and acts at once.

    Old names (``CELERY_ACKS_LATE``) and, with a namespace, prefixed ones stand for today's. Names that are
    no settings are kept as they are. Raises ``ImproperlyConfigured``, at the line that sets it, for a value
    of the wrong type or a name that is nearly a setting's.
    """

    # The instance dictionary holds nothing but resolved values, so that reading a setting is one plain
    # attribute look-up: __getattr__ is only asked before the first read and for what is not there.
    __slots__ = (
        "__dict__",
        "_added",
        "_changes",
        "_configured",
        "_defaults",
        "_environ",
        "_environment",
        "_fallbacks",
        "_loaded",
        "_loading",
        "_lock",
        "_namespace",
        "_overrides",
        "_source",
        "_values",
    )

    _added: list[Callable[[], Mapping[str, Any]] | Mapping[str, Any]]
    _changes: dict[str, Any]
    _configured: dict[str, Any]
    _defaults: dict[str, Any]
    _environ: Mapping[str, str]
    _environment: dict[str, Any]
    _fallbacks: dict[str, Any]
    _loaded: bool
    _loading: bool
    _lock: threading.RLock
    _namespace: str | None
    _overrides: dict[str, Any]
    _source: Source | None
    _values: dict[str, Any]

    def __init__(
        self,
        changes: Mapping[str, Any] | None = None,
        source: Source | None = None,
        *,
        namespace: str | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._lock = threading.RLock()
        self._loaded = self._loading = False
        self._source, self._namespace, self._environ = source, namespace, environ
        self._defaults = {name: _fresh(setting.default) for name, setting in SETTINGS.items()}
        self._fallbacks, self._configured, self._added = {}, {}, []
        self._changes, self._environment, self._overrides, self._values = {}, {}, {}, {}
        if changes:
            self.update(changes)

    # -- where values come from --------------------------------------------------------------------------

    def configure(self, source: Source | None, *, namespace: str | None = None) -> None:
        """Replace the source; it is called at the next read of a setting."""
        with self._lock:
            self._source, self._namespace = source, namespace
            # _values stays until the new ones are there, for readers that are just about to look into it.
            self._loaded = False
            self.__dict__.clear()

    def add_defaults(self, values: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Add values that hold over the source but under what is set at run time, as in Celery.

        A callable is called at the first read.
        """
        with self._lock:
            self._added.append(values if callable(values) else self._read(values))
            if self._loaded:
                self._evaluate_added()
                self._publish()

    def maybe_defaults(self, values: Mapping[str, Any]) -> None:
        """Add values for settings that nobody sets: they hold over the table's defaults only."""
        with self._lock:
            self._fallbacks.update(self._read(values))
            self._publish()

    def override(self, values: Mapping[str, Any]) -> None:
        """Set values that hold over everything, the environment included: for the command line."""
        with self._lock:
            self._overrides.update(self._read(values))
            self._publish()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several values, all or none: a mapping, pairs or keywords."""
        values = self._read(dict(*args, **kwargs))
        with self._lock:
            self._changes.update(values)
            self._publish()

    def clear(self) -> None:
        """Forget what was set at run time."""
        with self._lock:
            self._changes.clear()
            self._publish()

    # -- reading -----------------------------------------------------------------------------------------

    def is_set(self, name: str) -> bool:
        """Tell whether anybody has given ``name`` a value, the table's default apart."""
        self.load()
        name = loading.canonical(name, self._namespace)
        return any(name in layer for layer in self._layers()[1:])

    def load(self) -> None:
        """Read the source and the environment if that has not been done; safe to call from any thread.

        Raises what the source raises, and reads again at the next try.
        """
        if self._loaded:
            return
        with self._lock:
            if self._loaded:
                return
            if self._loading:
                raise ImproperlyConfigured(
                    "a setting is read while the configuration is being read: the configuration module must "
                    "not use the application's conf, nor import what does"
                )
            self._loading = True
            try:
                self._configured = dict(self._source()) if self._source else {}
                self._evaluate_added()
                self._environment = loading.from_environment(self._environ)
                self._loaded = True
                self._publish()
            finally:
                self._loading = False

    @property
    def loaded(self) -> bool:
        """Whether the source and the environment have been read."""
        return self._loaded

    def check(self) -> None:
        """Raise ``ImproperlyConfigured`` if settings are set that ask for what does not exist here."""
        self.load()
        lines = [
            f"\n  {setting.name}: {setting.doc}"
            for setting in SETTINGS.values()
            if setting.support is Support.REFUSED
            and self._values[setting.name] not in (setting.default, setting.celery_default)
        ]
        if lines:
            raise ImproperlyConfigured("settings that are not supported:" + "".join(lines))

    def settled_notes(self) -> list[str]:
        """Return one line for each setting in use that does not do here what it does in Celery."""
        self.load()
        notes = []
        for setting in SETTINGS.values():
            if setting.support is Support.SETTLED and self._values[setting.name] != setting.default:
                notes.append(f"{setting.name}: {setting.doc}")
        notes += transport_notes("broker_transport_options", self._values["broker_transport_options"])
        return notes + transport_notes(
            "result_backend_transport_options", self._values["result_backend_transport_options"]
        )

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Return the settings that were set, or all, with passwords and keys masked."""
        self.load()
        shown = {
            name: value
            for name, value in self._values.items()
            if (name in SETTINGS or not callable(value)) and (with_defaults or self.is_set(name))
        }
        return censor(shown) if censored else shown

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """Return :meth:`table` as text, a setting a line."""
        return "\n".join(f"{name}: {value!r}" for name, value in self.table(with_defaults, censored).items())

    # -- attributes and keys -----------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as exc:
            raise AttributeError(exc.args[0]) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self.update({name: value})

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError as exc:
            raise AttributeError(exc.args[0]) from None

    def __getitem__(self, name: str) -> Any:
        self.load()
        value = self._values.get(name, _NO_DEFAULT)
        if value is _NO_DEFAULT:
            value = self._values.get(loading.canonical(name, self._namespace), _NO_DEFAULT)
        if value is _NO_DEFAULT:
            hint = loading.suggest(name)
            raise KeyError(f"no setting {name!r}" + (f": did you mean {hint!r}?" if hint else ""))
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __delitem__(self, name: str) -> None:
        with self._lock:
            name = loading.canonical(name, self._namespace)
            if name not in self._changes:
                raise KeyError(f"setting {name!r} was not set at run time")
            del self._changes[name]
            self._publish()

    def __contains__(self, name: object) -> bool:
        self.load()
        return isinstance(name, str) and loading.canonical(name, self._namespace) in self._values

    def __iter__(self) -> Iterator[str]:
        self.load()
        return iter(list(self._values))

    def __len__(self) -> int:
        self.load()
        return len(self._values)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *SETTINGS})

    def __repr__(self) -> str:
        state = repr(self.table()) if self._loaded else "not read yet"
        return f"<{type(self).__name__}: {state}>"

    # -- the layers --------------------------------------------------------------------------------------

    def _read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Today's names and converted values of what is set here and now."""
        result = {}
        for given, value in values.items():
            name = loading.canonical(given, self._namespace)
            loading.refuse_near_miss(name)
            result[name] = SETTINGS[name].convert(value) if name in SETTINGS else value
        return result

    def _evaluate_added(self) -> None:
        self._added = [self._read(values()) if callable(values) else values for values in self._added]

    def _layers(self) -> list[Mapping[str, Any]]:
        """From the lowest to the highest."""
        added = [values for values in self._added if not callable(values)]
        middle = (self._fallbacks, self._configured, *added)
        return [self._defaults, *middle, self._changes, self._environment, self._overrides]

    @property
    def resolved(self) -> Mapping[str, Any]:
        """All values by name; another mapping whenever one of them may have changed."""
        if not self._loaded:
            self.load()
        return self._values

    def _publish(self) -> None:
        """Resolve the layers anew; a reader in another thread sees the old value or the new one."""
        if not self._loaded:
            return
        values: dict[str, Any] = {}
        for layer in self._layers():
            values.update(layer)
        for name in ("broker_read_url", "broker_write_url"):
            values[name] = values[name] or values["broker_url"]
        for name in ("task_default_exchange", "task_default_routing_key"):
            values[name] = values[name] or values["task_default_queue"]
        methods = type(self)
        self.__dict__.update((n, v) for n, v in values.items() if n in SETTINGS or not hasattr(methods, n))
        for name in self._values.keys() - values.keys():
            self.__dict__.pop(name, None)
        self._values = values


def _fresh(default: Any) -> Any:
    """A copy of a default that people change in place (``conf.beat_schedule["x"] = ...``)."""
    return dict(default) if isinstance(default, dict) else default
