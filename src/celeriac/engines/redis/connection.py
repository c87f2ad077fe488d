"""Connections: redis-py's ``Connection`` objects, owned by us and never repeating a command.

redis-py's clients send a command again when its answer is lost, which doubles a push and orphans a claim.
Here a command is sent once; if no answer comes, the connection is closed and the caller is told. Commands are
packed by hiredis beforehand: 40 % less client CPU than ``evalsha()``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final, NoReturn

import hiredis
from redis import exceptions as errors
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry
from redis.sentinel import Sentinel

from celeriac.engines.redis.address import Address
from celeriac.exceptions import CeleriacError, Fenced, OperationalError, StoreFull

Word = str | bytes | int | float
"""A part of a command."""

pack: Final[Callable[[tuple[Word, ...]], bytes]] = hiredis.pack_command  # type: ignore[assignment]
"""Pack one command (its stub knows tuples of one word only)."""
_STALE_AFTER: Final = 0.001
"""Seconds after which an idle connection is looked at before it is used. The server may have closed it: what
is sent then has an unknown fate and is not sent again, where a new connection would have done. A look costs
some microseconds, which only a loop without a pause would feel."""
_MAX_IDLE: Final = 32
"""Connections kept for reuse."""
_HINTS: Final = {
    "NOAUTH": "put the password into the URL (redis://user:password@host)",
    "WRONGPASS": "check user and password in the URL",
    "NOPERM": "give this user the missing permission (ACL SETUSER)",
    "READONLY": "this is a replica; use the primary, or Sentinel",
    "LOADING": "the server is still reading its data; try again soon",
    "BUSY": "another client's script holds the server",
}


class Link:
    """One connection. Not for two threads at once."""

    __slots__ = ("address", "connection", "used")

    def __init__(self, address: Address, *, protocol: int = 2, timeout: float | None = None) -> None:
        """Connect; raises ``OperationalError``. ``timeout`` replaces the address' seconds for an answer."""
        self.address = address
        self.used = time.monotonic()
        try:
            # Typed as Any: half of redis-py's connections has no types.
            self.connection: Any = make(address, protocol, timeout)
            patience = timeout or address.timeout
            # A server that accepts and then says nothing is no better than one that does not accept.
            self.connection.socket_timeout = min(patience, address.connect_timeout)
            self.connection.connect()
            self.connection.socket_timeout = patience
            self.patience(patience)
        except (errors.RedisError, OSError) as error:
            reason = str(error).rstrip(".")
            raise OperationalError(
                f"cannot connect to Redis at {address.masked}: {reason}. Is the server running and reachable?"
            ) from error

    def call(self, command: bytes) -> Any:
        """Send one packed command and return its answer."""
        try:
            self.connection.send_packed_command([command])
            return self.connection.read_response()
        except errors.RedisError as error:
            self.fail(error)

    def calls(self, commands: bytes, count: int) -> list[Any]:
        """Send ``count`` commands, packed and joined, in one write; return their answers.

        If one is an error, it is raised after all answers have been read.
        """
        answers: list[Any] = []
        failure: errors.ResponseError | None = None
        try:
            self.connection.send_packed_command([commands])
            for _ in range(count):
                try:
                    answers.append(self.connection.read_response())
                except errors.ResponseError as error:
                    failure = failure or error
        except errors.RedisError as error:
            self.fail(error)
        if failure is not None:
            self.fail(failure)
        return answers

    def fail(self, error: Exception) -> NoReturn:
        """Raise ``error`` as one of ours; the connection is closed unless the answer was complete."""
        place = self.address.masked
        if not isinstance(error, errors.ResponseError) or isinstance(error, errors.ReadOnlyError):
            # A replica keeps refusing: only a new connection finds the new primary.
            self.close()
        told = translated(error, place)
        if isinstance(told, OperationalError) and not isinstance(error, errors.ResponseError):
            told.maybe_done = not isinstance(error, errors.BusyLoadingError)
        raise told from error

    @property
    def fileno(self) -> int:
        """The socket's descriptor, or -1 when closed."""
        sock = self.connection._sock
        return -1 if sock is None else sock.fileno()

    def usable(self) -> bool:
        """Whether the connection is open and clean; looks at the socket only after some idle time."""
        if self.connection._sock is None:
            return False
        if time.monotonic() - self.used < _STALE_AFTER:
            return True
        try:
            return not self.connection.can_read(0)
        except (errors.RedisError, OSError):
            return False

    def patience(self, seconds: float) -> None:
        """Wait so long for an answer from now on."""
        sock = self.connection._sock
        if sock is not None and sock.gettimeout() != seconds:
            sock.settimeout(seconds)

    def close(self) -> None:
        """Disconnect. In a forked child the parent's session is left alone."""
        self.connection.disconnect()


class Links:
    """Connections to one address, lent out one by one; any thread may borrow."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: deque[Link] = deque()

    @contextmanager
    def borrow(self, timeout: float | None = None) -> Iterator[Link]:
        """A connection for the time of the block; it is dropped if the block leaves it broken.

        ``timeout``, if it is shorter, replaces the address' seconds for an answer.
        """
        link = self.take()
        # Not put back to the address's time afterwards: most lenders want what the last one wanted, and
        # each change is a system call.
        link.patience(min(timeout or self.address.timeout, self.address.timeout))
        try:
            yield link
        except CeleriacError:
            self.put(link)
            raise
        except BaseException:
            link.close()
            raise
        else:
            self.put(link)

    def take(self) -> Link:
        """A connected link; raises ``OperationalError``."""
        while self._idle:
            link = self._idle.pop()
            if link.usable():
                return link
            link.close()
        return Link(self.address)

    def put(self, link: Link) -> None:
        """Give a link back."""
        link.used = time.monotonic()
        if link.connection._sock is None:
            return
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(link)
        else:
            link.close()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()


def translated(error: Exception, place: str) -> CeleriacError:
    """``error`` of redis-py as one of ours; ``place`` is the masked URL."""
    text = str(error)
    code = text.partition(" ")[0]
    if code == "FENCED" or "FENCED " in text:
        return Fenced(f"{text.partition('FENCED ')[2]} ({place})")
    full = isinstance(error, errors.OutOfMemoryError) or "OOM command" in text or code in ("OOM", "MISCONF")
    if full:
        return StoreFull(
            f"Redis at {place} has no room left: {text}. Raise maxmemory or free the disk; "
            "nothing was stored."
        )
    if isinstance(error, errors.ReadOnlyError):
        code = "READONLY"
    elif isinstance(error, errors.BusyLoadingError):
        code = "LOADING"
    hint = next((hint for name, hint in _HINTS.items() if code == name or f"{name} " in text), "")
    if isinstance(error, errors.TimeoutError):
        hint = "the server did not answer in time (socket_timeout); whether it acted is not known"
    return OperationalError(
        f"Redis at {place} failed: {text or type(error).__name__}" + (hint and f"; {hint}")
    )


_NAMELESS: Final[dict[str, Any]] = (
    {"driver_info": None} if find_spec("redis.driver_info") else {"lib_name": None, "lib_version": None}
)
"""Leave out CLIENT SETINFO: a round trip a connection, and to fill it in redis-py reads its own package's
metadata, which costs each process 20 ms and 1.7 MiB. (The keyword changed with redis-py 7.)"""


def make(address: Address, protocol: int, timeout: float | None) -> Any:
    """A connection of redis-py's, not yet connected; ``timeout`` (seconds) goes before the address's."""
    kwargs: dict[str, Any] = {
        "db": address.db,
        "username": address.username,
        "password": address.password,
        "socket_timeout": timeout or address.timeout,
        "socket_connect_timeout": address.connect_timeout,
        "health_check_interval": int(address.health_check),
        "client_name": address.client_name,
        "protocol": protocol,
        "retry": Retry(NoBackoff(), 0),
        **_NAMELESS,
    }
    if address.path is not None:
        unix: Any = UnixDomainSocketConnection
        return unix(path=address.path, **kwargs)
    host, port = _primary(address) if address.sentinels else (address.host, address.port)
    kwargs |= {
        "host": host,
        "port": port,
        "socket_keepalive": address.keepalive,
        "socket_keepalive_options": address.keepalive_options,
    }
    if address.tls is None:
        plain: Any = Connection
        return plain(**kwargs)
    return SSLConnection(**kwargs, **address.tls)


def _primary(address: Address) -> tuple[str, int]:
    options = {
        "socket_timeout": address.connect_timeout,
        "socket_connect_timeout": address.connect_timeout,
        **address.sentinel_options,
    }
    ask: Any = Sentinel
    sentinel = ask(address.sentinels, sentinel_kwargs=options)
    host, port = sentinel.discover_master(address.master)
    return str(host), int(port)
