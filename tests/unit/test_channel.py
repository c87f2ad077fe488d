"""What supervisor and agent tell each other arrives, in order and whole."""

from __future__ import annotations

import socket

from celeriac.engines.base import Loss
from celeriac.engines.history import Attempt
from celeriac.worker.channel import Channel, Death, Message, Ready, Stop


def pair() -> tuple[Channel, Channel]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return Channel(one), Channel(other)


def test_the_death_of_a_child_with_thousands_of_tasks_arrives_whole() -> None:
    """It is more than a datagram takes, and more than the system keeps for a reader."""
    sender, receiver = pair()
    attempt = Attempt("i" * 36, "shop.charge", "LOST", "celery", "w@h", 2.0, error="killed " * 20)
    death = Death("node:1:1", {token: Loss(task_id="i" * 36) for token in range(5000)}, [attempt] * 5000)
    for message in (Ready(), death, Stop("ordered")):
        sender.send(message)
    arrived: list[Message] = []
    for _ in range(1000):
        arrived += receiver.receive()
        sender.flush()
    assert arrived == [Ready(), death, Stop("ordered")]
    sender.close()
    receiver.close()


def test_what_nobody_takes_waits() -> None:
    sender, receiver = pair()
    receiver.close()
    sender.send(Ready())
    sender.flush()
    sender.close()
