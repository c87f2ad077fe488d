"""A small state machine over what every broker gives, also one whose messages cannot be looked at.

It asks for nothing but a ``Broker``: messages are published, claimed, settled, lost with their consumer,
buried and replayed, and at the end every message must be where the model says, once. (``machine`` walks the
whole diagram, on engines that show each state.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from celeriac.contrib.conformance.helpers import claim, drain, id_of, incarnation, outcome, pubs
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import Consumer, Delivery, Verdict

QUEUES = ("q1", "q2")
VERDICTS = (Verdict.ACK, Verdict.ACK, Verdict.GIVE_BACK, Verdict.REQUEUE, Verdict.DEAD)


@dataclass
class Child:
    """A consumer and what it holds, by task id."""

    consumer: Consumer
    held: dict[str, Delivery] = field(default_factory=dict)


class Carrier(RuleBasedStateMachine):
    """The machine; ``open_rig`` makes a fresh store."""

    def __init__(self, open_rig: Callable[[], Rig]) -> None:
        super().__init__()
        self.rig = open_rig()
        self.engine = self.rig.open()
        self.children: list[Child] = []
        self.waiting: dict[str, str] = {}
        """Task id -> queue."""
        self.dead: dict[str, str] = {}
        self.published = self.attached = 0

    @rule(count=st.integers(1, 5), queue=st.sampled_from(QUEUES))
    def publish(self, count: int, queue: str) -> None:
        ids = [str(number) for number in range(self.published, self.published + count)]
        self.published += count
        self.engine.publish(pubs(ids, queue))
        self.waiting.update(dict.fromkeys(ids, queue))

    @precondition(lambda self: len(self.children) < 3)
    @rule()
    def attach(self) -> None:
        self.attached += 1
        self.children.append(Child(self.engine.attach(incarnation(child=self.attached))))

    @precondition(lambda self: self.children)
    @rule(data=st.data(), limit=st.integers(1, 5))
    def claim(self, data: st.DataObject, limit: int) -> None:
        child = data.draw(st.sampled_from(self.children))
        queue = data.draw(st.sampled_from(QUEUES))
        deliveries = claim(child.consumer, limit, (queue,))
        assert len(deliveries) <= limit
        for delivery in deliveries:
            task_id = id_of(delivery.payload)
            assert self.waiting.pop(task_id) == queue, "it was handed out twice, or to another queue"
            child.held[task_id] = delivery

    @precondition(lambda self: any(child.held for child in self.children))
    @rule(data=st.data(), verdict=st.sampled_from(VERDICTS))
    def settle(self, data: st.DataObject, verdict: Verdict) -> None:
        child = data.draw(st.sampled_from([child for child in self.children if child.held]))
        task_id = data.draw(st.sampled_from(sorted(child.held)))
        delivery = child.held.pop(task_id)
        ended = outcome(delivery, verdict)
        if verdict is Verdict.DEAD:
            ended.reason, ended.task_id = "failed", task_id
            self.dead[task_id] = delivery.queue
        elif verdict is not Verdict.ACK:
            self.waiting[task_id] = delivery.queue
        assert child.consumer.exchange([ended], [], 0).refused == []

    @precondition(lambda self: self.children)
    @rule(data=st.data(), in_order=st.booleans())
    def lose(self, data: st.DataObject, in_order: bool) -> None:
        child = data.draw(st.sampled_from(self.children))
        self.children.remove(child)
        if in_order:
            child.consumer.close()
        else:
            self.rig.die(child.consumer)
            self.engine.release(child.consumer.owner.name, {})
        self.waiting.update({task_id: delivery.queue for task_id, delivery in child.held.items()})

    @precondition(lambda self: self.dead)
    @rule(data=st.data(), again=st.booleans())
    def take_dead(self, data: st.DataObject, again: bool) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.dead)))
        (key,) = [x.key for x in self.engine.dead_letters(limit=1000) if x.task_id == task_id]
        assert (self.engine.replay([key]) if again else self.engine.purge_dead([key])) == 1
        queue = self.dead.pop(task_id)
        if again:
            self.waiting[task_id] = queue

    def teardown(self) -> None:
        """Every message is where it should be, once."""
        try:
            for child in self.children:
                child.consumer.close()
                self.waiting.update({task_id: one.queue for task_id, one in child.held.items()})
            letters = {letter.task_id: letter.queue for letter in self.engine.dead_letters(limit=1000)}
            assert letters == self.dead
            last = self.engine.attach(incarnation(child=self.attached + 1))
            for queue in QUEUES:
                left = [task_id for task_id, where in self.waiting.items() if where == queue]
                # A server that pushes may need a moment: what is due to come comes before the wait is over.
                found = drain(last, (queue,))
                while len(found) < len(left) and last.wait((queue,), 5.0):
                    found += drain(last, (queue,))
                assert sorted(found) == sorted(left)
            last.close()
        finally:
            self.rig.close()
