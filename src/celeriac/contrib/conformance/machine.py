"""The state diagram of ``celeriac.engines.base`` as a Hypothesis state machine with a model in plain Python.

Every rule does one thing to the engine and to the model; the model says what the engine may answer. After
every rule each message must be in the one state that the model says, and in order where order is promised.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from celeriac.contrib.conformance.helpers import id_of, message, node, notes_of, pub, record
from celeriac.contrib.conformance.model import FAR, PLACES, QUEUES, Known, Line, Model, Worker
from celeriac.contrib.conformance.rig import Rig
from celeriac.engines.base import (
    Answer,
    Delivery,
    Depth,
    Incarnation,
    Loss,
    Outcome,
    Unique,
    Verdict,
)
from celeriac.exceptions import Fenced, OperationalError

RARELY = st.sampled_from((False, False, False, True))
ORDERS = (["q1", "q2"], ["q2", "q1"], ["q1"], ["q2"])
ENDS = ("ack", "give_back", "delay", "requeue", "park", "enter", "bury", "mark_once", "settle_in_vain")
STATES = ("ready", "delayed", "leased", "parked", "dead")


class Diagram(RuleBasedStateMachine):
    """The machine; ``open_rig`` makes a fresh store."""

    def __init__(self, open_rig: Callable[[], Rig]) -> None:
        super().__init__()
        self.rig = open_rig()
        self.engine = self.rig.open()
        interval = 3 * self.rig.unit if self.rig.drives_clock else FAR  # never over where it cannot be driven
        self.model = Model(interval, self.rig.marks_apart)
        self.results: dict[str, bytes] = {}
        self.workers: list[Worker] = []
        self.highest_token = 0

    def teardown(self) -> None:
        self.rig.close()

    # -- words for the rules ---------------------------------------------------------------------------

    def now(self) -> float:
        return self.engine.beat(node("clock", "nowhere", lease=FAR))

    def pick(self, data: st.DataObject, count: int) -> tuple[Worker, list[Delivery]]:
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.held]))
        tokens = data.draw(
            st.lists(st.sampled_from(sorted(worker.held)), min_size=1, max_size=count, unique=True)
        )
        return worker, [worker.held[token] for token in tokens]

    def exchange(self, worker: Worker, outcomes: list[Outcome], queues: list[str], limit: int) -> Answer:
        """An exchange, whose request or answer is sometimes lost on the way and then repeated."""
        fault = random.choice(("none", "none", "reply", "request"))
        if fault == "none":
            return worker.consumer.exchange(outcomes, queues, limit)
        lose = self.rig.lose_next_reply if fault == "reply" else self.rig.lose_next_request
        lose(worker.consumer)
        try:
            worker.consumer.exchange(outcomes, queues, limit)
        except OperationalError:
            return worker.consumer.repeat()
        raise AssertionError("the answer was not lost")

    def settle(self, worker: Worker, outcomes: list[Outcome]) -> None:
        """Outcomes whose leases are held; no queue is asked for, so nothing is promoted on the way."""
        answer = self.exchange(worker, outcomes, [], 0)
        assert answer.refused == []
        assert answer.deliveries == []
        for outcome in outcomes:
            del worker.held[outcome.token]
            self.model.let_go(outcome.queue, outcome.token)

    # -- publishing ------------------------------------------------------------------------------------

    @initialize()
    def first_workers(self) -> None:
        self.attach()
        self.attach()

    def attach(self) -> None:
        number = self.model.tick()
        self.engine.beat(node(f"n{number}", "host", number, lease=FAR))
        self.workers.append(Worker(self.engine.attach(Incarnation(f"n{number}", 1, 1, slots=2))))

    @rule(
        lines=st.lists(st.tuples(st.sampled_from(QUEUES), st.booleans()), min_size=2, max_size=8),
        delay=st.sampled_from((None, None, 0.0, 1.0, FAR)),
        key=st.sampled_from(("", "", "k1", "k2")),
    )
    def publish(self, lines: list[Line], delay: float | None, key: str) -> None:
        """A batch; the last of it under a unique key, sometimes."""
        batch = []
        now = self.now()
        if delay == 1.0 and not self.rig.drives_clock:
            delay = 0.0
        for line in lines:
            task_id = f"t{self.model.tick()}"
            priority = self.rig.urgent if line[1] else self.rig.lax
            batch.append(pub(task_id, line[0], priority=priority, delay=delay))
            if delay is not None:
                batch[-1].delay = delay * self.rig.unit
            if key and len(batch) == len(lines):
                batch[-1].unique = Unique(key, FAR)
                if holder := self.model.holder(key):
                    assert self.engine.publish(batch) == {len(batch) - 1: holder}
                    return
            self.model.known[task_id] = Known(line, unique=batch[-1].unique.key if batch[-1].unique else "")
            if delay is None:
                self.model.line_up(task_id)
            else:
                self.model.put_off(task_id, now + delay * self.rig.unit)
        assert self.engine.publish(batch) == {}

    # -- claiming --------------------------------------------------------------------------------------

    @rule(data=st.data(), queues=st.sampled_from(ORDERS), limit=st.integers(1, 6))
    def claim(self, data: st.DataObject, queues: list[str], limit: int) -> None:
        worker = data.draw(st.sampled_from(self.workers))
        answer = self.exchange(worker, [], queues, limit)
        self.model.promote(queues, answer.now)
        admissible = {
            queue: parked[0] for queue in queues if (parked := self.model.admissible(queue, answer.now))
        }
        placeable = {queue: self.model.placeable(queue) for queue in queues}
        ready = sum(len(self.model.ids("ready", queue)) for queue in queues)
        unparked = len(admissible) + sum(map(len, placeable.values()))
        assert len(answer.deliveries) == min(limit, ready + unparked)
        self.model.check_order(
            [each for each in answer.deliveries if not each.admitted and not each.placed], queues
        )
        for delivery in answer.deliveries:
            task_id = id_of(delivery.payload)
            assert delivery.token > self.highest_token
            self.highest_token = delivery.token
            known = self.model.known[task_id]
            if delivery.placed:
                assert placeable[delivery.queue].pop(0) == task_id
                assert delivery.admitted is known.admitted
                self.model.inside[delivery.queue].add(delivery.token)
            elif delivery.admitted:
                assert admissible.pop(delivery.queue) == task_id
                self.model.taken[delivery.queue] = answer.now
            else:
                assert known.state == "ready"
            noted = notes_of(delivery)
            assert (noted.deliveries, noted.lost) == (known.deliveries, known.lost)
            known.state, known.token, known.once = "leased", delivery.token, False
            known.admitted = delivery.admitted
            worker.held[delivery.token] = delivery

    # -- settling --------------------------------------------------------------------------------------

    @precondition(lambda self: any(worker.held for worker in self.workers))
    @rule(data=st.data(), ways=st.lists(st.sampled_from(ENDS), min_size=1, max_size=6))
    def finish(self, data: st.DataObject, ways: list[str]) -> None:
        for way in ways:
            if any(worker.held for worker in self.workers):
                getattr(self, way)(data)

    @rule(
        data=st.data(),
        queues=st.sampled_from(ORDERS),
        ways=st.lists(st.sampled_from(ENDS), min_size=1, max_size=6),
    )
    def work(self, data: st.DataObject, queues: list[str], ways: list[str]) -> None:
        """What workers mostly do, in one rule, so that it is what the walks mostly do."""
        self.claim(data, queues, 3)
        self.finish(data, ways)
        self.claim(data, queues, 2)

    def ack(self, data: st.DataObject) -> None:
        follow_ups = data.draw(st.integers(0, 2))
        worker, deliveries = self.pick(data, 4)
        outcomes = []
        for delivery in deliveries:
            task_id = id_of(delivery.payload)
            result = record(task_id)
            self.results[task_id] = result.payload
            key = self.model.known[task_id].unique
            self.model.gone(task_id)
            batch = []
            for _ in range(follow_ups):
                follow_up = f"t{self.model.tick()}"
                batch.append(pub(follow_up, delivery.queue, priority=self.rig.lax))
                self.model.known[follow_up] = Known((delivery.queue, False))
                self.model.line_up(follow_up)
            outcome = Outcome(delivery.token, delivery.queue, result=result, publications=batch)
            outcome.task_id, outcome.unique, outcome.place = task_id, key, f"place of {delivery.queue}"
            outcomes.append(outcome)
        self.settle(worker, outcomes)

    def give_back(self, data: st.DataObject) -> None:
        by_agent = data.draw(st.booleans())
        worker, deliveries = self.pick(data, 4)
        step = self.model.tick()
        deliveries = [each for each in deliveries if not self.model.known[id_of(each.payload)].once]
        for delivery in deliveries:
            known = self.model.known[id_of(delivery.payload)]
            known.state, known.step, known.token = "ready", step, delivery.token
        if not by_agent:
            outcomes = [Outcome(each.token, each.queue, Verdict.GIVE_BACK) for each in deliveries]
            for outcome in outcomes:
                outcome.place = f"place of {outcome.queue}"
            self.settle(worker, outcomes)
            return
        leases = [(each.queue, each.token) for each in deliveries]
        assert self.engine.give_back(worker.consumer.owner.name, leases) == len(leases)
        for queue, token in leases:
            del worker.held[token]
            self.model.let_go(queue, token)

    def delay(self, data: st.DataObject) -> None:
        delay = data.draw(st.sampled_from((0.0, 1.0, FAR)))
        new = data.draw(st.booleans())
        worker, (delivery,) = self.pick(data, 1)
        if delay == 1.0 and not self.rig.drives_clock:
            delay = 0.0
        task_id = id_of(delivery.payload)
        known = self.model.known[task_id]
        self.model.put_off(task_id, self.now() + delay * self.rig.unit)
        new = new and known.lost is None  # what is only to be ended is never retried
        if new:
            known.deliveries = 0
        outcome = Outcome(
            delivery.token,
            delivery.queue,
            Verdict.DELAY,
            delay=delay * self.rig.unit,
            message=message(task_id, retries=1) if new else None,
            task_id=task_id,
            place=f"place of {delivery.queue}",
        )
        self.settle(worker, [outcome])

    def requeue(self, data: st.DataObject) -> None:
        worker, (delivery,) = self.pick(data, 1)
        self.model.line_up(id_of(delivery.payload))
        place = f"place of {delivery.queue}"
        self.settle(worker, [Outcome(delivery.token, delivery.queue, Verdict.REQUEUE, place=place)])

    def park(self, data: st.DataObject) -> None:
        worker, (delivery,) = self.pick(data, 1)
        queue = delivery.queue
        now = self.now()
        free = self.model.has_token(queue, now) and not self.model.line_for("bucket", queue)
        assert self.engine.admit(queue, f"bucket of {queue}", self.model.interval) is free
        if free:
            self.model.taken[queue] = now
            return
        task_id = id_of(delivery.payload)
        self.model.wait_in_line(task_id, "bucket")
        outcome = Outcome(delivery.token, queue, Verdict.PARK, bucket=f"bucket of {queue}", task_id=task_id)
        outcome.place = f"place of {queue}"
        self.settle(worker, [outcome])

    def enter(self, data: st.DataObject) -> None:
        """Take a place, or be parked for one."""
        worker, (delivery,) = self.pick(data, 1)
        queue, token = delivery.queue, delivery.token
        inside = self.model.inside[queue]
        free = len(inside) < PLACES and not self.model.line_for("place", queue)
        lease = (worker.consumer.owner.name, queue, token)
        assert self.engine.enter(f"place of {queue}", PLACES, lease) is (free or token in inside)
        if free or token in inside:
            inside.add(token)
            return
        task_id = id_of(delivery.payload)
        self.model.wait_in_line(task_id, "place")
        self.settle(worker, [Outcome(token, queue, Verdict.PARK, place=f"place of {queue}", task_id=task_id)])

    def bury(self, data: st.DataObject) -> None:
        worker, (delivery,) = self.pick(data, 1)
        task_id = id_of(delivery.payload)
        outcome = Outcome(
            delivery.token, delivery.queue, Verdict.DEAD, reason="failed", task="t.add", task_id=task_id
        )
        outcome.unique, self.model.known[task_id].unique = self.model.known[task_id].unique, ""
        outcome.place = f"place of {delivery.queue}"
        self.settle(worker, [outcome])
        (letter,) = [letter for letter in self.engine.dead_letters(limit=1000) if letter.task_id == task_id]
        self.model.known[task_id].state, self.model.known[task_id].key = "dead", letter.key

    def settle_in_vain(self, data: st.DataObject) -> None:
        if not self.model.ended:
            return
        verdict = data.draw(st.sampled_from(Verdict))
        queue, token = data.draw(st.sampled_from(self.model.ended))
        worker = data.draw(st.sampled_from(self.workers))
        vain = Outcome(
            token,
            queue,
            verdict,
            result=record("vain"),
            publications=[pub("vain", queue)],
            bucket="vain",
            delay=0.0,
            reason="failed",
        )
        assert self.exchange(worker, [vain], [], 0).refused == [token]

    def mark_once(self, data: st.DataObject) -> None:
        worker, (delivery,) = self.pick(data, 1)
        assert worker.consumer.mark_once(delivery)
        self.model.known[id_of(delivery.payload)].once = True

    # -- losing owners ---------------------------------------------------------------------------------

    def end(self, worker: Worker) -> None:
        self.workers.remove(worker)
        try:
            worker.consumer.exchange([], list(QUEUES), 5)
        except Fenced:
            return
        raise AssertionError("a lost owner was served")

    @rule(data=st.data(), how=st.sampled_from(("child_dies", "node_dies", "worker_stops")), really=RARELY)
    def lose(self, data: st.DataObject, how: str, really: bool) -> None:
        if not really:  # else nobody would hold anything for long
            return
        worker = data.draw(st.sampled_from(self.workers))
        getattr(self, how)(data, worker)
        self.attach()

    def child_dies(self, data: st.DataObject, worker: Worker) -> None:
        mark = data.draw(st.sampled_from((None, "timeout:5")))
        counted = data.draw(st.booleans())
        started = data.draw(st.sets(st.sampled_from(sorted(worker.held)))) if worker.held else set()
        losses = {token: Loss(counted, mark) for token in started}
        assert self.engine.release(worker.consumer.owner.name, losses) == len(worker.held)
        self.model.return_all(worker, losses)
        self.end(worker)

    def node_dies(self, data: st.DataObject, worker: Worker) -> None:
        started = sorted(worker.held)[:2]
        pid = int(worker.consumer.owner.node[1:])
        recovered = self.engine.recover("host", lambda other, _: other != pid)
        assert sum(each.messages for each in recovered) == len(worker.held)
        assert sum(each.started for each in recovered) == len(started)
        self.model.return_all(worker, {token: Loss() for token in started})
        self.end(worker)

    def worker_stops(self, data: st.DataObject, worker: Worker) -> None:
        if data.draw(st.booleans()):
            worker.consumer.close()
        self.engine.leave(worker.consumer.owner.node)
        self.model.return_all(worker)
        self.workers.remove(worker)

    # -- operators -------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.known)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.model.known)), max_size=4, unique=True))
        expected = [task_id for task_id in ids if self.model.known[task_id].state in ("delayed", "parked")]
        assert sorted(self.engine.cancel(ids)) == sorted(expected)
        for task_id in expected:
            self.model.gone(task_id)

    @rule(queue=st.sampled_from(QUEUES), really=RARELY)
    def purge(self, queue: str, really: bool) -> None:
        if not really:  # else there would seldom be much in line
            return
        doomed = [
            task_id for state in ("ready", "delayed", "parked") for task_id in self.model.ids(state, queue)
        ]
        assert self.engine.purge([queue]) == len(doomed)
        for task_id in doomed:
            self.model.gone(task_id)

    @precondition(lambda self: self.model.ids("dead"))
    @rule(data=st.data(), replay=st.booleans())
    def raise_or_forget_the_dead(self, data: st.DataObject, replay: bool) -> None:
        task_id = data.draw(st.sampled_from(self.model.ids("dead")))
        known = self.model.known[task_id]
        if replay:
            assert self.engine.replay([known.key]) == 1
            known.deliveries, known.lost = 0, None
            self.model.line_up(task_id)
        else:
            assert self.engine.purge_dead([known.key]) == 1
            known.state = "gone"

    @precondition(lambda self: self.rig.drives_clock)
    @rule(units=st.sampled_from((0.5, 1.0, 5.0)))
    def time_passes(self, units: float) -> None:
        self.rig.advance(units * self.rig.unit)

    # -- what must always hold -------------------------------------------------------------------------

    @invariant()
    def every_message_is_in_the_one_state_it_should_be(self) -> None:
        now = self.now()
        depths = self.engine.depth(QUEUES)
        for queue in QUEUES:
            expected = {state: set(self.model.ids(state, queue)) for state in STATES}
            found = {state: self.peek(queue, state) for state in STATES}
            # What has fallen due since the last exchange may be seen as delayed still or as ready already.
            due = {task_id for task_id in expected["delayed"] if self.model.known[task_id].due <= now}
            promoted = found["ready"] & due
            expected["delayed"] -= promoted
            expected["ready"] |= promoted
            assert found == expected
            assert depths[queue]._replace(age=None) == Depth(*(len(expected[state]) for state in STATES))

    def peek(self, queue: str, state: str) -> set[str]:
        """The ids of the queue's messages in a state, each there once."""
        if state == "dead":
            ids = [letter.task_id for letter in self.engine.dead_letters(queue, limit=1000)]
        else:
            ids = [id_of(payload) for payload in self.engine.peek(queue, 0, 1000, state)]
        assert len(ids) == len(set(ids))
        return set(ids)

    @invariant()
    def unique_keys_are_held_by_those_who_have_not_ended(self) -> None:
        for key in ("k1", "k2"):
            assert self.engine.holder(key) == self.model.holder(key)

    @invariant()
    def results_are_those_of_the_acknowledged(self) -> None:
        assert self.engine.fetch([*self.model.known, "vain"]) == self.results
