"""What about a server endangers messages: asked once, when a worker starts."""

from __future__ import annotations

from typing import Any, Final

from celeriac.engines.redis.address import Address
from celeriac.engines.redis.connection import Link, Links, pack
from celeriac.exceptions import OperationalError

OLDEST: Final = (6, 2)


def diagnose(links: Links, address: Address) -> list[str]:
    """Sentences about the server's version, eviction, persistence and Cluster mode; none if all is well."""
    with links.borrow() as link:
        info = _info(link)
        settings = _settings(link)
    warnings = []
    version = info.get("redis_version", "0.0")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        warnings.append(f"Redis {version} at {address.masked} is too old: 6.2 or newer is needed.")
    policy = settings.get("maxmemory-policy", info.get("maxmemory_policy", ""))
    limit = settings.get("maxmemory", info.get("maxmemory", "0"))
    if policy.startswith("allkeys") and limit != "0":
        warnings.append(
            f"Redis at {address.masked} may evict queues when memory is short (maxmemory-policy {policy}): "
            "messages would vanish. Set maxmemory-policy to noeviction or volatile-ttl."
        )
    if settings and settings.get("appendonly") == "no" and not settings.get("save"):
        warnings.append(
            f"Redis at {address.masked} keeps nothing on disk: a restart of the server loses all messages. "
            "Turn on appendonly (or save)."
        )
    if info.get("cluster_enabled") == "1":
        warnings.append(f"Redis at {address.masked} runs as a Cluster, which is not supported.")
    return warnings


def _info(link: Link) -> dict[str, str]:
    text: bytes = link.call(pack(("INFO",)))
    pairs = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, _, value in pairs}


def _settings(link: Link) -> dict[str, str]:
    """Of CONFIG, what we look at; empty where the server does not let us (hosted ones often do not)."""
    wanted = ("maxmemory", "maxmemory-policy", "appendonly", "save")
    try:
        answers: list[Any] = link.calls(
            b"".join(pack(("CONFIG", "GET", name)) for name in wanted), len(wanted)
        )
    except OperationalError:
        return {}
    return {pair[0].decode(): pair[1].decode() for pair in answers if pair}
