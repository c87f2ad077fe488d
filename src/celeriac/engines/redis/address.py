"""Where a Redis is and how to get in: URLs, transport options, TLS, Sentinel."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from celeriac.exceptions import ImproperlyConfigured

CONNECT_TIMEOUT: Final = 5.0
"""Seconds to wait for a connection (``socket_connect_timeout``)."""
SOCKET_TIMEOUT: Final = 15.0
"""Seconds to wait for an answer (``socket_timeout``)."""
SEP: Final = "\x06\x16"
STEPS: Final = (0, 3, 6, 9)

_OFF: Final = ("0", "false", "no", "off")
_SSL_NAMES: Final = (
    "keyfile", "certfile", "cert_reqs", "ca_certs", "ca_data", "ca_path", "check_hostname", "password",
    "min_version", "ciphers",
)  # fmt: skip
_SSL_OPTIONS: Final = ("ssl", "broker_use_ssl", "redis_backend_use_ssl")


class Address(msgspec.Struct, frozen=True):
    """One server (or Sentinel-watched group of servers) and the options that concern keys and sockets."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    """Of a unix socket, instead of host and port."""
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: dict[str, Any] | None = None
    """Arguments of redis-py's ``SSLConnection``; ``None`` without TLS."""
    sentinels: tuple[tuple[str, int], ...] = ()
    master: str | None = None
    sentinel_options: dict[str, Any] = {}
    timeout: float = SOCKET_TIMEOUT
    connect_timeout: float = CONNECT_TIMEOUT
    keepalive: bool = True
    keepalive_options: dict[int, int] | None = None
    health_check: float = 0
    client_name: str | None = None
    prefix: str = ""
    sep: str = SEP
    steps: tuple[int, ...] = STEPS
    """The priorities that have a list of their own, most urgent first."""
    fanout_prefix: str = "/{db}."
    """What the channels of fanout exchanges begin with."""
    fanout_patterns: bool = True
    """Whether they end with the routing key."""
    masked: str = ""
    """The URL without its secrets."""

    def same_server(self, other: Address) -> bool:
        """Whether both lead to the same server with the same rights."""
        return self._place() == other._place() and (self.username or "default") == (
            other.username or "default"
        )

    def _place(self) -> tuple[Any, ...]:
        if self.sentinels:
            return (frozenset(self.sentinels), self.master)
        if self.path is not None:
            return (self.path,)
        host = "localhost" if self.host in ("127.0.0.1", "::1") else self.host
        return (host, self.port)


def parse(url: str, options: Mapping[str, Any]) -> Address:
    """Read ``url`` (``redis://``, ``rediss://``, ``unix://``, ``redis+socket://``, ``sentinel://a;sentinel://b``).

    ``options`` (Celery's transport options) win over the URL's query. Raises ``ImproperlyConfigured``.
    """
    try:
        return _parse(url, options)
    except (ValueError, TypeError) as error:
        raise ImproperlyConfigured(
            f"bad Redis URL or transport option for {masked_url(url)}: {error}. "
            "A URL looks like redis://user:password@host:6379/0"
        ) from None


def masked_url(url: str) -> str:
    """``url`` without its password and query, for messages."""
    return ";".join(_masked_one(part) for part in url.split(";"))


def _masked_one(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    rest = rest.partition("?")[0]
    credentials, at, place = rest.rpartition("@")
    if at:
        user = credentials.partition(":")[0]
        rest = f"{user}:**@{place}" if ":" in credentials else f"{user}@{place}"
    return scheme + separator + rest


def _parse(url: str, options: Mapping[str, Any]) -> Address:
    first, *others = [part for part in url.split(";") if part]
    parts = urlsplit(first)
    query = dict(parse_qsl(parts.query))
    merged: dict[str, Any] = {**query, **options}
    fields = _common_fields(merged)
    fields["username"] = unquote(parts.username) if parts.username else merged.get("username")
    fields["password"] = unquote(parts.password) if parts.password else merged.get("password")
    scheme = parts.scheme.lower()
    if scheme in ("unix", "socket", "redis+socket"):
        fields["path"] = unquote(parts.netloc.rpartition("@")[2] + parts.path)
        fields["db"] = _database(merged.get("virtual_host", merged.get("db", 0)))
    else:
        fields["host"] = parts.hostname or "localhost"
        fields["port"] = parts.port or 6379
        fields["db"] = _database(merged.get("db", parts.path.strip("/") or 0))
    if scheme == "sentinel":
        fields |= _sentinel_fields(parts.hostname or "localhost", parts.port or 26379, others, merged)
    fields["tls"] = _tls(scheme, merged)
    return Address(masked=masked_url(url), **fields)


def _common_fields(merged: Mapping[str, Any]) -> dict[str, Any]:
    steps = tuple(sorted(int(step) for step in merged.get("priority_steps", STEPS)))
    if not steps:
        raise ValueError("priority_steps must name at least one step")
    return {
        "timeout": float(merged.get("socket_timeout") or SOCKET_TIMEOUT),
        "connect_timeout": float(merged.get("socket_connect_timeout") or CONNECT_TIMEOUT),
        "keepalive": str(merged.get("socket_keepalive", True)).lower() not in _OFF,
        "keepalive_options": _keepalive_options(merged.get("socket_keepalive_options")),
        "health_check": float(merged.get("health_check_interval") or 0),
        "client_name": merged.get("client_name"),
        "prefix": str(merged.get("global_keyprefix") or ""),
        "sep": str(merged.get("sep", SEP)),
        "steps": steps,
        "fanout_prefix": _fanout_prefix(merged.get("fanout_prefix", True)),
        "fanout_patterns": str(merged.get("fanout_patterns", True)).lower() not in _OFF,
    }


def _fanout_prefix(value: Any) -> str:
    if str(value).lower() in _OFF or not value:
        return ""
    return value if isinstance(value, str) and value.lower() not in ("1", "true", "yes", "on") else "/{db}."


def _keepalive_options(given: Mapping[Any, Any] | None) -> dict[int, int]:
    # A peer that vanished (power, network) is noticed in about 15 s: by probes while we wait for an answer,
    # by TCP_USER_TIMEOUT while our own bytes stay unacknowledged.
    if given is not None:
        return {int(name): int(value) for name, value in given.items()}
    wanted = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def _database(value: Any) -> int:
    text = str(value).strip("/")
    if not text.isdigit():
        raise ValueError(f"the database must be a number, not {text!r}")
    return int(text)


def _sentinel_fields(host: str, port: int, others: list[str], merged: Mapping[str, Any]) -> dict[str, Any]:
    master = merged.get("master_name")
    if not master:
        raise ValueError("Sentinel needs the transport option master_name")
    places = [(host, port)]
    for other in others:
        parts = urlsplit(other if "://" in other else f"sentinel://{other}")
        places.append((parts.hostname or "localhost", parts.port or 26379))
    sentinel_options = dict(merged.get("sentinel_kwargs") or {})
    return {"sentinels": tuple(places), "master": str(master), "sentinel_options": sentinel_options}


def _tls(scheme: str, merged: Mapping[str, Any]) -> dict[str, Any] | None:
    given = next((merged[name] for name in _SSL_OPTIONS if merged.get(name)), None)
    if scheme != "rediss" and not given:
        return None
    settings = dict(given) if isinstance(given, Mapping) else {}
    tls: dict[str, Any] = {}
    for name in _SSL_NAMES:
        for key in (f"ssl_{name}", name) if name != "password" else ("ssl_password",):
            if settings.get(key) is not None:
                tls[f"ssl_{name}"] = settings[key]
        if merged.get(f"ssl_{name}") is not None:
            tls[f"ssl_{name}"] = merged[f"ssl_{name}"]
    if "ssl_cert_reqs" in tls:
        tls["ssl_cert_reqs"] = _cert_reqs(tls["ssl_cert_reqs"])
    if isinstance(tls.get("ssl_check_hostname"), str):
        tls["ssl_check_hostname"] = tls["ssl_check_hostname"].lower() in ("1", "true", "yes", "on")
    return tls


def _cert_reqs(value: Any) -> str:
    names = {ssl.CERT_NONE: "none", ssl.CERT_OPTIONAL: "optional", ssl.CERT_REQUIRED: "required"}
    if value in names:
        return names[value]
    word = str(value).lower().removeprefix("cert_")
    if word not in names.values():
        raise ValueError(f"ssl_cert_reqs must be required, optional or none, not {value!r}")
    return word
