"""What went wrong, said with the remedy; py-amqp's and the system's errors become ours."""

from __future__ import annotations

import re
import socket
import ssl
from typing import Final

from amqp import exceptions as amqp

from celeriac.exceptions import ImproperlyConfigured, OperationalError, StoreFull

CONNECT: Final = "connect"
"""What is being done (``translate``) while there is no connection yet."""
_TIMEOUT_USED: Final = re.compile(r"Timeout value used: (\d+) ms")

FAILURES = (amqp.AMQPError, OSError, ssl.SSLError)
"""What a connection may raise; all of them end it, except a channel's."""


class Blocked(StoreFull):
    """The server takes no messages: its memory or disk alarm is on."""


class Unroutable(OperationalError):
    """No queue took a message that was published."""


def translate(error: Exception, shown: str, doing: str, maybe_done: bool = False) -> OperationalError:
    """The error of ours for one of py-amqp's or the system's."""
    code, text = getattr(error, "code", 0), getattr(error, "reply_text", "") or str(error)
    remedy = _ended_early(error) if doing == CONNECT else ""
    remedy = remedy or _remedy(error, code, text)
    said = f"{text.rstrip('.')}. {remedy}" if remedy else _words(error)
    made = OperationalError(f"cannot {doing} {'to' if doing == CONNECT else 'at'} {shown}: {said}")
    made.maybe_done = maybe_done
    return made


def mismatch(text: str, shown: str) -> ImproperlyConfigured:
    """A queue or exchange is there already and is another one than we would declare."""
    return ImproperlyConfigured(
        f"{shown} has a queue or exchange of this name already, with other properties: {text}. Declare it in "
        "task_queues as it is there (queue_arguments, max_priority, durable, exchange type), or delete it "
        "there when it is empty"
    )


def _words(error: Exception) -> str:
    if isinstance(error, socket.timeout | TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused: does the server run, and is this its port?"
    if isinstance(error, socket.gaierror):
        return f"the host's name is not known ({error.strerror}): check it in the URL"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "the server or the network ended the connection"
    text = getattr(error, "reply_text", "") or str(error)
    return text or type(error).__name__


def _tls_remedy(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if "mismatch" in str(error) or "not valid for" in str(error):
            return (
                "The server's certificate is for another name: use that name in the URL, or give it in "
                'broker_use_ssl={"server_hostname": ...}'
            )
        return (
            "The server's certificate is signed by nobody who is trusted here: name its authority's file in "
            'broker_use_ssl={"ca_certs": ...}'
        )
    if "WRONG_VERSION_NUMBER" in str(error):
        return "Nobody speaks TLS there: use the server's TLS port (5671 as a rule), or amqp:// without TLS"
    return _NO_CERTIFICATE if "CERTIFICATE_REQUIRED" in str(error) else ""


_NO_CERTIFICATE: Final = (
    "The server wants a certificate of the client's that it trusts: name it in "
    'broker_use_ssl={"certfile": ..., "keyfile": ...}'
)


def _ended_early(error: Exception) -> str:
    """What a server may mean that ends a connection before anything has been said over it."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _NO_CERTIFICATE
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return (
            "The server ended the connection at once: it is shutting down, or this is not its port for "
            "amqp:// (that for TLS is used with amqps://)"
        )
    return ""


def _remedy(error: Exception, code: int, text: str) -> str:
    if isinstance(error, ssl.SSLError):
        return _tls_remedy(error)
    if "ack timed out" in text or "delivery acknowledgement" in text:
        told = _TIMEOUT_USED.search(text)
        seconds = f" ({int(told[1]) / 1000:g} s)" if told else ""
        return (
            f"A task ran longer than the server's consumer_timeout{seconds}, so its message went back to the "
            "queue: raise consumer_timeout in rabbitmq.conf (milliseconds) above the longest task, or give "
            "it a time limit"
        )
    if code == 530 and "refused for user" in text:
        return "Check the virtual host in the URL and the user's rights there (rabbitmqctl set_permissions)"
    if code == 530 and "vhost" in text:
        return "Check the virtual host at the end of the URL; 'rabbitmqctl add_vhost' makes one"
    if code == 403 or isinstance(error, amqp.AccessRefused):
        return "Check user and password in the URL and the user's rights (rabbitmqctl set_permissions)"
    if code == 404:
        return "Declare it (task_queues), or start a worker that does"
    if code == 405:
        return "It belongs to another connection (it is exclusive): use another name"
    if code == 320:
        return "The server is shutting down, or an operator closed the connection: it is opened again"
    if code == 541:
        return "The server failed at it: its log says why"
    return ""
