"""Stamps: marks that calls carry with them, for those who look at tasks later (or revoke them).

A stamp is a header of the message, listed in ``stamped_headers``. A signature keeps its stamps among its
options, under the same names as Celery.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celeriac.canvas.chain import chain
    from celeriac.canvas.chord import chord
    from celeriac.canvas.group import group
    from celeriac.canvas.signature import Signature

NAMES = "stamped_headers"


class StampingVisitor(ABC):
    """Gives stamps to the parts of a canvas as ``stamp(visitor)`` comes to them.

    Every hook is called with the part and the stamps it has so far, and returns more of them (those of a
    hook that ends something are ignored). What is returned is stamped under its name; if it holds
    ``stamped_headers``, only the names listed there are stamps, and the rest are options of the call.
    Stamps given to a group, chain or header are those of all its members too.
    """

    @abstractmethod
    def on_signature(self, sig: Signature, **headers: Any) -> dict[str, Any]:
        """The stamps of a task's signature."""

    def on_group_start(self, group: group, **headers: Any) -> dict[str, Any]:
        """The stamps of a group, before its members get theirs."""
        return {}

    def on_group_end(self, group: group, **headers: Any) -> None:  # noqa: B027  # a hook
        """Called when the members of a group have been stamped."""

    def on_chain_start(self, chain: chain, **headers: Any) -> dict[str, Any]:
        """The stamps of a chain, before its steps get theirs."""
        return {}

    def on_chain_end(self, chain: chain, **headers: Any) -> None:  # noqa: B027  # a hook
        """Called when the steps of a chain have been stamped."""

    def on_chord_header_start(self, sig: chord, **header: Any) -> dict[str, Any]:
        """The stamps of a chord's header and body; by default those of a group."""
        return self.on_group_start(_header(sig), **header)

    def on_chord_header_end(self, sig: chord, **header: Any) -> None:
        """Called when a chord's header has been stamped."""
        self.on_group_end(_header(sig), **header)

    def on_chord_body(self, sig: chord, **header: Any) -> dict[str, Any]:
        """The stamps of a chord's body."""
        return {}

    def on_callback(self, callback: Signature, **header: Any) -> dict[str, Any]:
        """The stamps of a callback (``link``)."""
        return {}

    def on_errback(self, errback: Signature, **header: Any) -> dict[str, Any]:
        """The stamps of an error callback (``link_error``)."""
        return {}


def add_stamps(
    headers: Mapping[str, Any],
    found: Mapping[str, Any] | None,
    append: bool,
    own: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """``headers`` with what a visitor has ``found``, and a signature's ``own`` options that are stamps.

    Nothing is shared with what is given. Of two stamps of one name the first counts, in the order above;
    with ``append`` both do, in a list. Lists are always joined.
    """
    stamps = copy.deepcopy(dict(headers))
    names = list(stamps.pop(NAMES, None) or stamps)
    for more in (found, own):
        if not more:
            continue
        listed = more.get(NAMES)
        names += [*more] if listed is None and more is found else listed or []
        # A signature's options are not all stamps; what a visitor returns beside them is set as an option.
        values = {k: v for k, v in more.items() if k != NAMES and (more is found or k in names)}
        _merge(stamps, values, append)
    stamps[NAMES] = list(dict.fromkeys(names))
    return stamps


def stamp_task(
    sig: Signature, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]
) -> None:
    """Stamp a signature, its callbacks and error callbacks."""
    stamp_links(sig, visitor, append, headers)
    found = None if visitor is None else visitor.on_signature(sig, **headers) or {}
    sig["options"].update(add_stamps(headers, found, append, sig["options"]))


def stamp_links(
    sig: Signature, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]
) -> None:
    """Stamp the callbacks and error callbacks of a signature."""
    from celeriac.canvas.signature import listed, maybe_signature

    options = sig["options"]
    for key in ("link", "link_error"):
        if not options.get(key):
            continue
        links = [maybe_signature(link, sig._app) for link in listed(options[key])]
        for link in links:
            hook = None if visitor is None else visitor.on_callback if key == "link" else visitor.on_errback
            found = None if hook is None else hook(link, **headers) or {}
            link.stamp(visitor, append, **add_stamps(headers, found, append))
        options[key] = links


def _merge(into: dict[str, Any], more: Mapping[str, Any], append: bool) -> None:
    for key, value in more.items():
        mine = into.get(key)
        if key not in into:
            into[key] = copy.deepcopy(value)
        elif isinstance(mine, dict) and isinstance(value, dict):
            _merge(mine, value, append)
        elif isinstance(mine, list) and isinstance(value, list):
            into[key] = [*mine, *value]
        elif append:
            both = [] if mine is None else list(mine) if isinstance(mine, list | tuple | set) else [mine]
            into[key] = [*both, *value] if isinstance(value, list) else [*both, value]


def _header(sig: chord) -> group:
    from celeriac.canvas.group import group

    return group(sig.tasks, app=sig._app)
