"""Where RabbitMQ is: URLs and the options that concern a connection."""

from __future__ import annotations

import os
import random
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from celeriac.exceptions import ImproperlyConfigured
from celeriac.urls import mask_url

PORT: Final = 5672
TLS_PORT: Final = 5671
_SCHEMES: Final = {"amqp": False, "pyamqp": False, "amqps": True}
_SEPARATOR: Final = re.compile(r"[;,](?=[A-Za-z][A-Za-z0-9+.\-]*://)|;")

_MECHANISMS: Final = ("PLAIN", "AMQPLAIN", "EXTERNAL", "GSSAPI")
_TLS_OPTIONS: Final = frozenset(
    ("ca_certs", "certfile", "keyfile", "cert_reqs", "server_hostname", "ciphers", "ssl_version",
     "tls_minimum_version", "tls_maximum_version", "context")
)  # fmt: skip

_FILES: Final = frozenset(("ca_certs", "certfile", "keyfile"))


class Host(NamedTuple):
    """One server of a cluster."""

    host: str
    port: int
    user: str
    password: str
    vhost: str
    tls: Any
    """``False``, or a dictionary of TLS options as py-amqp takes them."""
    shown: str
    """The URL with its password masked."""


class Address(NamedTuple):
    """All the servers that may be asked, and how."""

    hosts: list[Host]
    masked: str
    order: Callable[[Sequence[Host]], Iterable[Host]]
    """Endless: the order in which they are tried, from the first on."""
    heartbeat: float
    login_method: str | None
    connect_timeout: float
    timeout: float
    """Seconds that any answer of the server may take."""


def parse(url: str, options: Mapping[str, Any]) -> Address:
    """Read one URL or several, separated by ``;``. Raises ``ImproperlyConfigured``."""
    hosts = [_host(part.strip(), options) for part in _SEPARATOR.split(url) if part.strip()]
    if not hosts:
        raise ImproperlyConfigured("broker_url is empty: use amqp://user:password@host:5672/vhost")
    method = options.get("login_method")
    if method is not None and method not in _MECHANISMS:
        raise ImproperlyConfigured(
            f"broker_login_method {method!r} is unknown: use one of {', '.join(_MECHANISMS)}, or leave it out"
        )
    return Address(
        hosts,
        mask_url(url),
        _order(options.get("failover_strategy")),
        float(options.get("heartbeat") or 0),
        method,
        float(options.get("connect_timeout", options.get("socket_connect_timeout", 4.0))),
        float(options.get("read_timeout", options.get("socket_timeout", 10.0))),
    )


def _host(url: str, options: Mapping[str, Any]) -> Host:
    shown = mask_url(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ImproperlyConfigured(
            f"cannot read the URL {shown}: {error}. "
            "Write special characters of a password in percent form (%2F for /)"
        ) from None
    if parts.scheme.lower() not in _SCHEMES:
        raise ImproperlyConfigured(f"{shown} is not a URL of RabbitMQ: use amqp:// or amqps://")
    secure = _SCHEMES[parts.scheme.lower()]
    tls = _tls(options.get("ssl"), secure, parts.hostname or "localhost")
    unknown = [key for key, _ in parse_qsl(parts.query)]
    if unknown:
        raise ImproperlyConfigured(
            f"{shown}: options belong in broker_transport_options, not in the URL: {', '.join(unknown)}"
        )
    vhost = unquote(parts.path[1:]) or "/"
    return Host(
        parts.hostname or "localhost",
        port or (TLS_PORT if tls else PORT),
        unquote(parts.username or "guest"),
        unquote(parts.password or "guest"),
        vhost,
        tls,
        shown,
    )


def _tls(given: Any, secure: bool, hostname: str) -> Any:
    """py-amqp's TLS options: ``broker_use_ssl``; the certificate is checked unless it says not to."""
    if not given and not secure:
        return False
    options = dict(given) if isinstance(given, Mapping) else {}
    names = {name.removeprefix("ssl_"): value for name, value in options.items() if name != "ssl_version"}
    if "ssl_version" in options:
        names["ssl_version"] = options["ssl_version"]
    for name in names.keys() - _TLS_OPTIONS:
        raise ImproperlyConfigured(
            f"broker_use_ssl has no option {name!r}: known are {', '.join(sorted(_TLS_OPTIONS))}"
        )
    for name in _FILES & names.keys():
        if names[name] is not None and not os.path.isfile(names[name]):
            raise ImproperlyConfigured(f"broker_use_ssl: there is no file {names[name]!r} ({name})")
    if "context" in names:  # arguments of ssl.create_default_context, and check_hostname
        names["context"] = {"check_hostname": True, **names["context"]}
        names.setdefault("server_hostname", hostname)
        return names
    names.setdefault("cert_reqs", ssl.CERT_REQUIRED)
    if names["cert_reqs"] != ssl.CERT_NONE:
        names.setdefault("server_hostname", hostname)
    return names


def _order(strategy: Any) -> Callable[[Sequence[Host]], Iterable[Host]]:
    if strategy in (None, "round-robin"):
        return cycle
    if strategy == "shuffle":
        return _shuffled
    if callable(strategy):
        return strategy  # type: ignore[no-any-return]
    raise ImproperlyConfigured(
        f"broker_failover_strategy {strategy!r} is unknown: use 'round-robin', 'shuffle' or a function that "
        "takes the list of servers and yields them in the order in which they are to be tried, without end"
    )


def _shuffled(hosts: Sequence[Host]) -> Iterator[Host]:
    while True:
        yield from random.sample(list(hosts), len(hosts))
