"""What the operating system is asked for: node names, pid files, daemons, privileges, processors.

Everything here works without an application, so that the command line can use it before it imports one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import sys
from collections.abc import Callable
from typing import Final

from celeriac.exceptions import CeleriacError

if sys.platform != "win32":
    import fcntl
    import grp
    import pwd

EX_OK: Final = 0
EX_FAILURE: Final = 1
EX_USAGE: Final = 2
"""The command line was wrong (the code that click and argparse use)."""
EX_UNAVAILABLE: Final = 69
"""A server or the workers cannot be reached."""
EX_CANTCREAT: Final = 73
"""A pid or log file cannot be made."""

IS_WINDOWS: Final = sys.platform == "win32"
IS_macOS: Final = sys.platform == "darwin"

DEFAULT_NODE: Final = "celery"


class LockFailed(CeleriacError):
    """Another process holds the pid file; ``pid`` is the number it wrote, 0 if it cannot be read."""

    def __init__(self, message: str, pid: int = 0) -> None:
        self.pid = pid
        super().__init__(message)


# -- names of nodes and of their files -----------------------------------------------------------------


def node_name(name: str | None = None) -> str:
    """Return the full node name ``name@host``, with ``%h``, ``%n``, ``%d`` and ``%%`` filled in.

    A name without ``@`` gets the prefix ``celery@`` (``w1`` becomes ``celery@w1``), as in Celery, and
    none at all gives ``celery@<host>``. ``%h`` is the host's full name, ``%n`` its first part and
    ``%d`` the rest.
    """
    import socket  # not above: it would cost the command line 5 ms

    host = socket.gethostname()
    given = name or f"{DEFAULT_NODE}@{host}"
    prefix, at, where = given.partition("@")
    full = f"{prefix or DEFAULT_NODE}@{where}" if at else f"{DEFAULT_NODE}@{given}"
    first, _, domain = host.partition(".")
    return fill(full, {"h": host, "n": first, "d": domain})


def node_file(pattern: str, node: str, child: int = 0) -> str:
    """Return a log or pid file's path with the node's names filled in.

    ``%n`` is the part of the node name before the ``@``, ``%h`` the whole of it, ``%d`` its domain, ``%i``
    the number of the child process (0 for the node's main process), and ``%I`` the same with a dash before
    it, empty for the main process. ``%%`` is a percent sign.
    """
    name, _, host = node.partition("@")
    domain = host.partition(".")[2]
    values = {"n": name, "h": node, "d": domain, "i": str(child), "I": f"-{child}" if child else ""}
    return fill(pattern, values)


def is_per_child(pattern: str) -> bool:
    """Return whether a file pattern names one file a child process (``%i`` or ``%I``)."""
    return bool(re.search(r"%[iI]", pattern.replace("%%", "")))


def fill(pattern: str, values: dict[str, str]) -> str:
    """Replace ``%x`` by ``values["x"]``; ``%%`` is a percent sign, and what is not known stays."""
    known = {**values, "%": "%"}
    return re.sub(r"%(.)", lambda found: known.get(found[1], found[0]), pattern)


# -- the pid file --------------------------------------------------------------------------------------


class Pidfile:
    """A file with our process id, locked for as long as this process lives.

    The lock, not the number, tells whether the owner is alive: a file left by a crash is simply taken over,
    also when its number belongs to another process by now (as in containers, where everybody is pid 1).
    Children forked from us do not hold the lock.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        self._fd = -1

    def acquire(self) -> None:
        """Lock the file and write our pid. Raises ``LockFailed`` if another process holds it."""
        while self._fd < 0:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | _NOFOLLOW, 0o644)
            try:
                self._lock(fd)
                if self._is_the_file(fd):
                    os.ftruncate(fd, 0)
                    os.write(fd, f"{os.getpid()}\n".encode())
                    self._fd = fd
            finally:
                if self._fd < 0:
                    os.close(fd)
        atexit.register(self.release, os.getpid())

    def release(self, owner: int | None = None) -> None:
        """Remove the file and give up the lock. ``owner``: only if that is this process's id."""
        if self._fd < 0 or owner not in (None, os.getpid()):
            return
        with contextlib.suppress(OSError):
            if self._is_the_file(self._fd):
                os.unlink(self.path)
        os.close(self._fd)
        self._fd = -1

    def holder(self) -> int:
        """Return the pid of the living process that holds the file, or 0 if nobody does."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | _NOFOLLOW)
        except FileNotFoundError:
            return 0
        try:
            self._lock(fd)
        except LockFailed as held:
            return held.pid
        finally:
            os.close(fd)
        return 0

    def _lock(self, fd: int) -> None:
        # Locks of this kind belong to the process: a fork does not pass them on, so a child that outlives
        # us does not keep a successor from starting.
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            written = os.pread(fd, 32, 0).strip()
            pid = int(written) if written.isdigit() else 0
            raise LockFailed(
                f"{self.path} is held by the running process {pid or '(unknown)'}: "
                "stop that one, or use another --pidfile",
                pid,
            ) from None

    def _is_the_file(self, fd: int) -> bool:
        """Whether the path still names the file we locked: its former owner may just have removed it."""
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False


_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)


# -- daemons ---------------------------------------------------------------------------------------------


def detach() -> Callable[[], None]:
    """Go on in a background process; the calling process waits for it and then exits.

    In the daemon this returns a function to be called when the daemon is ready: it lets go of the terminal
    (standard streams become the null device) and makes the original process exit with 0. Until then
    messages still reach the terminal, and if the daemon ends, the original process exits with its status.
    Call it before any thread is started.
    """
    reading, writing = os.pipe()
    first = os.fork()
    if first:
        os.close(writing)
        _exit_as(first, reading)
    os.setsid()
    second = os.fork()  # not a session leader any more: it can never get a terminal back
    if second:
        os.close(writing)
        _exit_as(second, reading)
    os.close(reading)

    def ready() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.close(null)
        os.write(writing, b"++")  # one for each of the two who wait
        os.close(writing)

    return ready


def _exit_as(child: int, reading: int) -> None:
    if os.read(reading, 1):
        os._exit(EX_OK)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


# -- privileges ------------------------------------------------------------------------------------------


def parse_uid(user: str | int) -> int:
    """Return the id of a user given by name or number. Raises ``KeyError`` with a sentence."""
    try:
        return int(user)
    except ValueError:
        pass
    try:
        return pwd.getpwnam(str(user)).pw_uid
    except KeyError:
        raise KeyError(f"this system has no user {user!r}") from None


def parse_gid(group: str | int) -> int:
    """Return the id of a group given by name or number. Raises ``KeyError`` with a sentence."""
    try:
        return int(group)
    except ValueError:
        pass
    try:
        return grp.getgrnam(str(group)).gr_gid
    except KeyError:
        raise KeyError(f"this system has no group {group!r}") from None


def drop_privileges(uid: str | int | None = None, gid: str | int | None = None) -> None:
    """Become another user and group for good, with that user's supplementary groups.

    With a user and no group, the user's own group is taken. ``HOME``, ``USER`` and ``LOGNAME`` follow.
    Raises ``PermissionError`` if we may not, ``KeyError`` for an unknown name, and ``RuntimeError`` if root
    could be got back afterwards.
    """
    if uid is None and gid is None:
        return
    user = parse_uid(uid) if uid is not None else None
    entry = _user_entry(user)
    group = parse_gid(gid) if gid is not None else entry.pw_gid if entry else None
    if user == os.getuid() and group in (None, os.getgid()):
        return
    # Groups first: once the user is changed, they cannot be any more.
    if os.geteuid() == 0:
        if entry:
            os.initgroups(entry.pw_name, entry.pw_gid if group is None else group)
        else:
            os.setgroups([] if group is None else [group])
    if group is not None:
        os.setgid(group)
    if user is None:
        return
    os.setuid(user)
    if entry:
        os.environ.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
    if user and _can_be_root():
        raise RuntimeError(f"privileges were not dropped: the process can still become root (uid {user})")


def _user_entry(uid: int | None) -> pwd.struct_passwd | None:
    try:
        return None if uid is None else pwd.getpwuid(uid)
    except KeyError:
        return None


def _can_be_root() -> bool:
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True


def parse_umask(text: str | int) -> int:
    """Return a umask; text is read as octal (``"022"``). Raises ``ValueError``."""
    return text if isinstance(text, int) else int(text, 8)


# -- processors ------------------------------------------------------------------------------------------


def cpu_count(cgroup: str = "/sys/fs/cgroup") -> int:
    """Return how many processors this process may use: affinity, cut by the container's CPU quota."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        count = os.cpu_count() or 1
    return max(1, min(count, _cpu_quota(cgroup) or count))


def _cpu_quota(root: str) -> int | None:
    """The cgroup's quota in whole processors, rounded up; ``None`` without one."""
    try:
        quota, _, period = _read(root, "cpu.max").partition(" ")
    except OSError:
        try:  # cgroup 1
            quota = _read(root, "cpu/cpu.cfs_quota_us")
            period = _read(root, "cpu/cpu.cfs_period_us")
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or not int(period):
        return None
    return max(1, -(-int(quota) // int(period)))


def _read(root: str, name: str) -> str:
    with open(os.path.join(root, name), encoding="ascii") as file:
        return file.read().strip()
