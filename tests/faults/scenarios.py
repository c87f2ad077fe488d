"""The scenarios: which faults, in which order, on which store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.faults.beat_stage import Beats
from tests.faults.chord_stage import Stage
from tests.faults.full import disk, memory
from tests.faults.garbage import garbage, strew
from tests.faults.ledger import Entry
from tests.faults.network import connections, network, quorum, server
from tests.faults.node import Stuck, await_true
from tests.faults.places import field_on, place
from tests.faults.project import poison


def processes(engine: str, seed: int, tasks: int) -> Entry:
    """Children, agents and whole nodes are killed, and nodes frozen past their lease, while tasks run."""
    with field_on(engine, "processes", seed) as (field, _):
        for part in (tasks // 2, tasks - tasks // 2):
            field.produce(part)

        def sure(freeze: Callable[[], bool]) -> None:
            for _attempt in range(30):
                if freeze():
                    return
                if field.is_done():
                    field.produce(500)
            raise Stuck("nothing could be frozen while it ran a task")

        # Every kind is met however few the tasks are; then by chance, a child most often.
        kills: list[Callable[[], Any]] = [field.kill_child, field.kill_agent, field.kill_node]
        freezes = [field.freeze_node, field.freeze_agent, field.freeze_child]
        plan = [*kills, *(partial(sure, freeze) for freeze in freezes)]
        while field.await_starts(field.rng.randrange(50, 250)) or plan:
            if plan:
                plan.pop(0)()
            elif field.rng.random() < 0.92:
                field.rng.choices(kills, (8, 2, 2))[0]()
            else:
                sure(field.rng.choice(freezes))
    return field.entry


def threads(engine: str, seed: int, tasks: int) -> Entry:
    """Nodes with one process of two threads are killed in whole or in part."""
    with field_on(engine, "threads pool", seed, worker_pool="threads") as (field, _):
        field.produce(tasks)
        plan = [field.kill_child, field.kill_agent, field.kill_node]
        while field.await_starts(field.rng.randrange(50, 250)) or plan:
            (plan.pop(0) if plan else field.rng.choice((field.kill_child, field.kill_node)))()
    return field.entry


def producers(engine: str, seed: int, tasks: int) -> Entry:
    """Producers are killed in mid-publish; what was acknowledged to them is done."""
    with field_on(engine, "producers", seed) as (field, _):
        while len(field.acknowledged()) < tasks:
            producer = field.produce(tasks)
            enough = len(field.acknowledged()) + field.rng.randrange(20, max(21, tasks // 4))
            await_true(
                lambda enough=enough, producer=producer: (
                    len(field.acknowledged()) >= enough or producer.poll() is not None
                ),
                "a producer publishes",
            )
            field.kill_producer()
    return field.entry


def messages(engine: str, seed: int, tasks: int) -> Entry:
    """Garbage, unknown tasks and tasks that kill their process lie between the others."""
    poisoned, unknown = 3, 5
    strewn = garbage()
    dead = {"undecodable": len(strewn), "deliveries": poisoned, "unknown": unknown}
    with field_on(engine, "messages", seed, dead) as (field, here):
        field.produce(tasks)
        field.await_starts(tasks // 10)
        for payload in strewn:
            field.note("garbage")
            strew(here, payload)
        for number in range(unknown):
            field.note("unknown task")
            field.app.send_task("tests.faults.project.nowhere", (number,))
        for number in range(poisoned):
            poison_key = f"poison-{number}"
            field.note("poison")
            field.expect_deaths(poison_key)
            field.app.send_task(poison.name, (poison_key,), task_id=poison_key)
    return field.entry


def chords(engine: str, seed: int, tasks: int) -> Entry:
    """Chords of three tasks, half of them with one that fails, for each of which a process is killed: in a
    header task, before or after the last part is stored, while the body is taken, before and after it is
    sent, in the body or the error callback, and in the agent that sends it after such a death. Each must end
    in exactly one body or exactly one error callback. (The numbers are those of the chords.)"""
    entry = Entry("chords")
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(place(engine))
        stage = Stage(here.url(), here.backend, here.folder)
        stack.callback(stage.close)
        stage.play(entry, tasks)
    return entry


def two_beats(engine: str, seed: int, tasks: int) -> Entry:
    """Two beats are killed, and frozen for longer than a term, while an entry is due 50 times a second: each
    tick must be sent once, and in order. (The numbers are those of the ticks; standstill is the longest time
    without one.)"""
    return _beats(engine, "2 beats", 2, seed, tasks)


def three_beats(engine: str, seed: int, tasks: int) -> Entry:
    """The same with three."""
    return _beats(engine, "3 beats", 3, seed, tasks)


def _beats(engine: str, scenario: str, count: int, seed: int, ticks: int) -> Entry:
    entry = Entry(scenario)
    with contextlib.ExitStack() as stack:
        beats = Beats(stack.enter_context(place(engine)).url(), count, seed)
        stack.callback(beats.close)
        beats.play(entry, ticks)
    return entry


SCENARIOS: dict[str, list[tuple[Callable[[str, int, int], Entry], int]]] = {
    "sqlite": [
        (processes, 50_000),
        (threads, 5_000),
        (producers, 5_000),
        (messages, 2_000),
        (disk, 10_000),
        (chords, 180),
        (two_beats, 2_000),
        (three_beats, 2_000),
    ],
    "redis": [
        (processes, 50_000),
        (threads, 5_000),
        (server, 10_000),
        (connections, 10_000),
        (network, 10_000),
        (memory, 10_000),
        (producers, 5_000),
        (messages, 2_000),
        (chords, 180),
        (two_beats, 2_000),
        (three_beats, 2_000),
    ],
    "postgres": [
        (processes, 20_000),
        (threads, 5_000),
        (server, 20_000),
        (connections, 20_000),
        (network, 20_000),
        (producers, 5_000),
        (messages, 2_000),
        (chords, 180),
        (two_beats, 2_000),
        (three_beats, 2_000),
    ],
    "rabbitmq": [
        (processes, 20_000),
        (threads, 5_000),
        (server, 20_000),
        (connections, 20_000),
        (network, 20_000),
        (quorum, 20_000),
        (producers, 2_000),
        (messages, 1_000),
        (chords, 60),
    ],
}
"""For each engine: scenario and number of tasks of the long form."""
