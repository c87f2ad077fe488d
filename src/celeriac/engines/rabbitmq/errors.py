"""What went wrong, said with the remedy; py-amqp's and the system's errors become ours."""

from __future__ import annotations

import socket
import ssl

from amqp import exceptions as amqp

from celeriac.exceptions import CeleriacError, ImproperlyConfigured, OperationalError, StoreFull

FAILURES = (amqp.AMQPError, OSError, ssl.SSLError)
"""What a connection may raise; all of them end it, except a channel's."""


class Blocked(StoreFull):
    """The server takes no messages: its memory or disk alarm is on."""


class Unroutable(OperationalError):
    """No queue took a message that was published."""


def translate(error: Exception, shown: str, doing: str, maybe_done: bool = False) -> CeleriacError:
    """The error of ours for one of py-amqp's or the system's."""
    code, text = getattr(error, "code", 0), getattr(error, "reply_text", "") or str(error)
    remedy = _remedy(error, code, text)
    said = f"{text}. {remedy}" if remedy else _words(error)
    made = OperationalError(f"cannot {doing} at {shown}: {said}")
    made.maybe_done = maybe_done
    return made


def mismatch(text: str, shown: str) -> ImproperlyConfigured:
    """A queue or exchange is there already and is another one than we would declare."""
    return ImproperlyConfigured(
        f"at {shown} it exists already with other properties: {text}. Declare it in task_queues as it is "
        "there (queue_arguments, max_priority, durable, exchange type), or delete it there when it is empty"
    )


def _words(error: Exception) -> str:
    if isinstance(error, socket.timeout | TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused: does the server run, and is this its port?"
    text = getattr(error, "reply_text", "") or str(error)
    return text or type(error).__name__


def _remedy(error: Exception, code: int, text: str) -> str:
    if "ack timed out" in text or "delivery acknowledgement" in text:
        return (
            "A task ran longer than the server's consumer_timeout, so its message went back to the queue: "
            "raise consumer_timeout in rabbitmq.conf (milliseconds) above the longest task, or give it a "
            "time limit"
        )
    if code == 530 and "vhost" in text:
        return "Check the virtual host at the end of the URL; 'rabbitmqctl add_vhost' makes one"
    if code == 403 or isinstance(error, amqp.AccessRefused):
        return "Check user and password in the URL and the user's rights (rabbitmqctl set_permissions)"
    if code == 404:
        return "Declare it (task_queues), or start a worker that does"
    if code == 405:
        return "It belongs to another connection (it is exclusive): use another name"
    if code == 320:
        return "The server or an operator closed the connection: it is opened again"
    return ""
