"""Where the store's file is, and how to open it: the URL, its options, and what file systems can carry it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from celeriac.exceptions import ImproperlyConfigured, OperationalError

_SHARED = frozenset(
    {
        *(
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "smbfs",
            "ncpfs",
            "9p",
            "virtiofs",
            "vboxsf",
            "prl_fs",
            "drvfs",
            "fuse",
        ),
        *("osxfs", "grpcfuse", "ceph", "glusterfs", "lustre", "gfs2", "ocfs2", "afs", "beegfs"),
    }
)
"""File systems, by the kernel's names, on which SQLite's log cannot be shared by processes safely."""

_LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs"})
_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")


@dataclass(frozen=True)
class Options:
    """What the URL's query or the transport options may set. Times are seconds."""

    synchronous: str = ""
    """``FULL``, ``NORMAL``, ... for every commit; empty: publishers FULL, workers NORMAL."""
    lock_timeout: float = 10.0
    """How long to wait for another writer before ``OperationalError``. Unless it is set, not longer than a
    publish may take (``publish_timeout``): a worker asks again anyway, a client wants to know."""
    priority_order: str = "higher"
    """Which priority numbers are more urgent, ``higher`` or ``lower`` (``task_priority_order``)."""
    result_tombstone_expires: float = 7 * 86400.0
    """How long to remember that a task had a result which has expired."""
    dead_letters_max: int = 10_000
    """How many dead letters of a queue to keep; the oldest go first."""
    dead_letters_expires: float = 30 * 86400.0
    """How long to keep a dead letter."""
    schedule_scope: str = ""
    """Whose schedule it is: each scope has entries and a leader of its own."""
    reserve: int = 8 << 20
    """Bytes set aside on the disk, freed when it is full so that workers can go on settling."""

    @classmethod
    def parse(cls, query: str, options: Mapping[str, Any]) -> Options:
        """Read known options; the query wins. Options of other engines are not ours to judge: they are
        left alone, but an unknown name in the query is a mistake (``ImproperlyConfigured``)."""
        known = cls.__dataclass_fields__
        asked = dict(parse_qsl(query, keep_blank_values=True))
        if unknown := sorted(set(asked) - set(known)):
            raise ImproperlyConfigured(
                f"the SQLite URL has no option {unknown[0]!r}; there are: {', '.join(known)}"
            )
        merged = {name: value for name, value in options.items() if name in known} | asked
        patience = options.get("publish_timeout")
        if patience is not None:
            merged.setdefault("lock_timeout", min(cls.lock_timeout, patience))
        values = {name: _convert(name, value, getattr(cls, name)) for name, value in merged.items()}
        made = cls(**values)
        if made.synchronous and made.synchronous.upper() not in _SYNCHRONOUS:
            raise ImproperlyConfigured(
                f"synchronous={made.synchronous}: use one of {', '.join(_SYNCHRONOUS)}"
            )
        if made.priority_order not in ("higher", "lower"):
            raise ImproperlyConfigured(
                f"priority_order={made.priority_order!r}: use 'higher' (the default) or 'lower'"
            )
        return made


@dataclass(frozen=True)
class Location:
    """A parsed ``sqlite:`` URL."""

    url: str
    """The URL with the path made absolute, fit to be shown."""
    path: Path
    """Absolute, links resolved: the name under which SQLite locks it."""
    options: Options

    @property
    def folder(self) -> Path:
        """The directory beside the file with the gate, the wake-up pipes and the reserve."""
        return self.path.with_name(self.path.name + ".d")

    @classmethod
    def parse(cls, url: str, options: Mapping[str, Any]) -> Location:
        """Read ``sqlite:///relative.db`` or ``sqlite:////absolute.db``, with ``?option=value``."""
        rest, _, query = url.partition("?")
        _, _, rest = rest.partition(":")
        if rest.startswith("//") and not rest.startswith("///") and rest != "//":
            raise ImproperlyConfigured(
                f"{url!r}: an SQLite URL names no host. Write sqlite:///relative.db or sqlite:////absolute/path.db"
            )
        name = unquote(rest[3:] if rest.startswith("//") else rest)
        if not name or name == ":memory:" or "mode=memory" in query:
            raise ImproperlyConfigured(
                f"{url!r} names no file: workers are other processes and need one, for example "
                "sqlite:///celeriac.db. For tests in one process there is memory://"
            )
        path = Path(os.path.realpath(name))
        shown = f"sqlite:///{path}" + (f"?{query}" if query else "")
        return cls(shown, path, Options.parse(query, options))

    def check(self) -> None:
        """Raise ``OperationalError`` if the directory is missing or on a network or shared file system."""
        parent = self.path.parent
        if not parent.is_dir():
            raise OperationalError(
                f"cannot open {self.path}: the directory {parent} does not exist. Create it"
            )
        kind = file_system(parent)
        if kind in _SHARED or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE):
            raise OperationalError(
                f"cannot keep a store in {self.path}: {parent} is on a network or shared file system "
                f"({kind}), where SQLite's log would be damaged. Use a local disk, or a server (redis://...)"
            )


def file_system(path: Path, mounts: str = "/proc/self/mountinfo") -> str:
    """Return the kernel's name for the file system of ``path``, "" where the system does not tell."""
    try:
        lines = Path(mounts).read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape") if "\\" in left else left.split()[4]
        # >=: of several mounts at one place the last one is seen.
        if len(point) >= best and path.is_relative_to(point):
            best, kind = len(point), right.split()[0]
    return kind


def _convert(name: str, value: Any, default: str | float | int) -> Any:
    try:
        return type(default)(value)
    except (TypeError, ValueError):
        raise ImproperlyConfigured(
            f"SQLite option {name}={value!r}: not a number"
            + (", or not a whole one" * isinstance(default, int))
        ) from None
