"""The address of a health endpoint, and a socket that listens there.

Apart from the endpoint itself, because the process that opens the socket need not load what answers on it.
"""

from __future__ import annotations

import socket

from celeriac.exceptions import ImproperlyConfigured


def address(text: str) -> tuple[str, int]:
    """Host and port of ``[HOST:]PORT``; without a host it is the loopback interface.

    Raises ``ImproperlyConfigured`` for anything else.
    """
    host, _, port = text.strip().rpartition(":")
    if not port.isdigit() or int(port) > 65535 or text.startswith(":"):
        raise ImproperlyConfigured(
            f"{text!r} is no address for the health endpoint: give a port, or host:port, such as 8787, "
            "0.0.0.0:8787 or [::1]:8787"
        )
    return host.strip("[]") or "127.0.0.1", int(port)


def listen(text: str) -> socket.socket:
    """A listening socket at ``[HOST:]PORT`` (port 0: any that is free).

    It may be opened before a fork, and outlives each of the processes that answer on it. Raises
    ``ImproperlyConfigured`` if the address cannot be taken.
    """
    host, port = address(text)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(16)
    except OSError as error:
        listening.close()
        raise ImproperlyConfigured(
            f"cannot listen on {text} for health checks ({error.strerror}): choose another port, or stop "
            "what uses it"
        ) from None
    return listening
