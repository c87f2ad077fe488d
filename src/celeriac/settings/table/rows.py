"""How a row of the table is written: one function for each class of setting."""

from __future__ import annotations

from typing import Any

from celeriac.settings.kinds import Kind
from celeriac.settings.setting import Setting, Support

_SAME: Any = object()


def works(
    name: str,
    kind: Kind,
    default: Any,
    doc: str,
    *,
    optional: bool = False,
    celery: Any = _SAME,
    why: str = "",
    secret: bool = False,
) -> Setting:
    """A setting of Celery's that does here what it says; ``celery`` is its default there if ours differs."""
    return Setting(
        name,
        kind,
        default,
        Support.WORKS,
        doc,
        optional=optional or default is None,
        celery_default=default if celery is _SAME else celery,
        why=why,
        secret=secret,
    )


def settled(name: str, kind: Kind, default: Any, doc: str) -> Setting:
    """A setting of Celery's that is accepted and answered by the design in another way: ``doc`` says how."""
    return Setting(
        name, kind, default, Support.SETTLED, doc, optional=default is None, celery_default=default
    )


def refused(name: str, kind: Kind, default: Any, doc: str, *, secret: bool = False) -> Setting:
    """A setting of Celery's for something that does not exist here; ``doc`` says what to do instead."""
    return Setting(
        name,
        kind,
        default,
        Support.REFUSED,
        doc,
        optional=default is None,
        celery_default=default,
        secret=secret,
    )


def own(
    name: str,
    kind: Kind,
    default: Any,
    doc: str,
    *,
    optional: bool = False,
    why: str = "",
    secret: bool = False,
) -> Setting:
    """A setting that Celery does not have."""
    return Setting(
        name,
        kind,
        default,
        Support.WORKS,
        doc,
        optional=optional or default is None,
        ours=True,
        why=why,
        secret=secret,
    )
