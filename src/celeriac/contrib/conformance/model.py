"""What the state machine in ``machine`` remembers: messages and workers, in plain Python."""

from __future__ import annotations

from dataclasses import dataclass, field

from celeriac.engines.base import Consumer, Delivery

Line = tuple[str, bool]
"""A queue and whether it is its urgent lane."""


@dataclass
class Known:
    """What the model knows of one message."""

    line: Line
    state: str = "ready"
    place: int = 0
    """When it last went to the back of its line."""
    step: int | None = None
    """The step that returned it to the front of its line; ``None`` while it has not been claimed."""
    token: int = 0
    due: float = 0.0
    order: int = 0
    """When it was delayed or parked: settles equal due times."""
    deliveries: int = 0
    lost: str | None = None
    once: bool = False
    key: str = ""
    """Its dead letter's."""
    waits_for: str = ""
    """What it is parked for: a bucket or a place."""
    admitted: bool = False
    unique: str = ""
    """The unique key it holds."""


@dataclass
class Worker:
    """A consumer and what it holds."""

    consumer: Consumer
    held: dict[int, Delivery] = field(default_factory=dict)
    """By token."""
