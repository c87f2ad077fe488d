"""Mistakes in a canvas that can be seen before it is sent: arguments that do not fit, results turned off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.canvas.chain import chain
from celeriac.canvas.chord import chord
from celeriac.canvas.group import group
from celeriac.canvas.signature import Signature, listed, maybe_signature
from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


def check(sig: Any, app: Celeriac, args: Iterable[Any], kwargs: Mapping[str, Any] | None) -> None:
    """Raise ``TypeError`` if the arguments of any task in ``sig`` do not fit it.

    ``args`` and ``kwargs`` are what the first tasks get; every following one gets a result before its own
    arguments. Tasks that this application does not know are passed over. Raises ``ImproperlyConfigured``
    for a chord without results.
    """
    _Check(app).look(sig, tuple(args), dict(kwargs or {}), ())


class _Result:
    """Stands for a result that is not there yet."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<{self.text}>"


class _Check:
    def __init__(self, app: Celeriac) -> None:
        self.app = app

    def look(self, sig: Any, args: tuple[Any, ...], kwargs: dict[str, Any], where: tuple[str, ...]) -> None:
        sig = maybe_signature(sig, None)
        if isinstance(sig, chain):
            self._chain(sig, args, kwargs, where)
        elif isinstance(sig, group):
            for number, member in enumerate(sig.tasks, 1):
                self.look(member, (*args, *sig["args"]), kwargs, (*where, f"task {number} of the group"))
        elif isinstance(sig, chord):
            self._chord(sig, args, kwargs, where)
        else:
            self._task(sig, args, kwargs, where)
        for number, callback in enumerate(listed(sig["options"].get("link")), 1):
            if not isinstance(sig, group):
                self.look(callback, (_Result("result"),), {}, (*where, f"callback {number} of {_name(sig)}"))

    def _chain(
        self, sig: chain, args: tuple[Any, ...], kwargs: dict[str, Any], where: tuple[str, ...]
    ) -> None:
        args, kwargs = ((), {}) if sig["immutable"] else (args, kwargs)
        args = (*args, *sig["args"])
        before = None
        number = 0
        for step in (maybe_signature(each, None) for each in sig.tasks):
            number += 1
            if isinstance(step, group) and not step.tasks:
                continue
            if before is not None:
                args, kwargs = (_Result(f"result of {_name(before)}"),), {}
            self.look(step, args, kwargs, (*where, f"step {number} of the chain"))
            before = step

    def _chord(
        self, sig: chord, args: tuple[Any, ...], kwargs: dict[str, Any], where: tuple[str, ...]
    ) -> None:
        if self.app.backend is None:
            raise ImproperlyConfigured(
                f"a chord needs the results of its header, and results are turned off (result_backend is "
                f"{self.app.conf.result_backend!r}): set result_backend to a store, or leave it out for the "
                f"broker's own. The chord is {sig!r}"
            )
        args = tuple(sig["args"]) if sig["immutable"] else (*args, *sig["args"])
        for number, member in enumerate(sig.tasks, 1):
            self.look(member, args, kwargs, (*where, f"task {number} of the chord's header"))
        if sig.body is not None:
            self.look(sig.body, (_Result("list of the header's results"),), {}, (*where, "the chord's body"))

    def _task(
        self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], where: tuple[str, ...]
    ) -> None:
        task = sig._type or self.app.tasks.get(sig["task"])
        if task is None or not (self.app.strict_typing if task.typing is None else task.typing):
            return
        merged, merged_kwargs, _ = sig._merge(args, kwargs, None)
        try:
            task.check_arguments(merged, merged_kwargs)
        except TypeError as error:
            shown = [repr(a) for a in merged] + [f"{k}={v!r}" for k, v in merged_kwargs.items()]
            place = ", in ".join(reversed(where)) or "the call"
            hint = (
                ". A step that takes no result of the one before is written with .si(...)"
                if any(isinstance(a, _Result) for a in merged)
                else ""
            )
            raise TypeError(
                f"{place} would call {sig['task']}({', '.join(shown)}), which does not fit: {error}{hint}"
            ) from None


def _name(sig: Any) -> str:
    """What to call a part in a message."""
    if isinstance(sig, chain):
        return _name(sig.tasks[-1]) if sig.tasks else "an empty chain"
    if isinstance(sig, chord):
        return _name(sig.body) if sig.body is not None else "a chord"
    if isinstance(sig, group):
        return "the group"
    name: str = sig["task"]
    return name
