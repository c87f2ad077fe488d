"""URLs of brokers and result stores, made safe to show."""

from __future__ import annotations

import re

MASK = "**"

_NEXT_URL = re.compile(r"[;,](?=[A-Za-z][A-Za-z0-9+.\-]*://)")
_SECRET_PARAMETER = re.compile(r"(?i)([?&][^=&#]*(?:pass|secret|token|key|signature)[^=&#]*=)([^&#]*)")


def mask_url(url: str) -> str:
    """Return ``url`` with every password replaced by ``**``.

    Several URLs separated by ``;`` (Celery's form for failover) are each masked; so are query
    parameters whose name tells of a secret. Text that is no URL comes back as it is.
    """
    parts = _NEXT_URL.split(url)
    separators = [*_NEXT_URL.findall(url), ""]
    return "".join(_mask_one(part) + separator for part, separator in zip(parts, separators, strict=True))


def _mask_one(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    # An unescaped "/", "?" or "#" in a password ends the authority too early: then everything up to the
    # last "@" is taken for credentials, because hiding too much is better than showing a password.
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    end = authority.rfind("@")
    if end < 0 and ":" in authority:
        end = _at_sign_of_broken_url(rest, authority)
    if end >= 0:
        user, colon, _ = rest[:end].partition(":")
        rest = user + (f":{MASK}" if colon else "") + rest[end:]
    return scheme + mark + _SECRET_PARAMETER.sub(rf"\1{MASK}", rest)


def _at_sign_of_broken_url(rest: str, authority: str) -> int:
    """Where the credentials end in a URL whose authority has none; -1 if it is host:port and no more."""
    port = authority.rpartition(":")[2]
    at = rest.rfind("@")
    if port.isdigit() and "=" in rest[:at].partition("?")[2]:
        return rest.partition("?")[0].rfind("@")
    return at
