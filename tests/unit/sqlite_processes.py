"""What the SQLite tests run in other processes: ``python sqlite_processes.py <role> <url> ...``.

Each prints one line when it is where the test wants it.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from celeriac.engines import create
from celeriac.engines.base import Delivery, Incarnation, Outcome, Publication, Verdict
from celeriac.engines.results import ResultRecord
from celeriac.engines.schedule import Tick
from celeriac.message import Message, decode_envelope


def say(word: str) -> None:
    """Tell the test."""
    print(word, flush=True)


def done(delivery: Delivery) -> Outcome:
    """The outcome of a task whose result is its own id."""
    task_id = str(decode_envelope(delivery.payload).headers["id"])
    record = ResultRecord(task_id, "SUCCESS", task_id.encode())
    return Outcome(delivery.token, delivery.queue, Verdict.ACK, record)


def work(url: str, child: str) -> None:
    """Claim and settle until nothing is left; then print how many."""
    consumer = create(url, {}).attach(Incarnation("node", int(child), 1, 1))
    outcomes: list[Outcome] = []
    count = 0
    say("started")
    while True:
        answer = consumer.exchange(outcomes, ["q"], 8)
        assert not answer.refused
        outcomes = [done(delivery) for delivery in answer.deliveries]
        count += len(outcomes)
        if not outcomes:
            break
    consumer.close()
    say(str(count))


def stop_in_transaction(url: str) -> None:
    """Stop (SIGSTOP) while holding the gate and the write lock."""
    engine = create(url, {})
    with engine._store.write() as handle:  # type: ignore[attr-defined]
        handle.execute("UPDATE state SET version = version")
        say("stopping")
        os.kill(os.getpid(), signal.SIGSTOP)


def lock_from_outside(url: str, seconds: str) -> None:
    """Hold SQLite's write lock as a foreign program would: without the gate."""
    import sqlite3

    handle = sqlite3.connect(url.removeprefix("sqlite:///").partition("?")[0], isolation_level=None)
    handle.execute("BEGIN IMMEDIATE")
    say("locked")
    time.sleep(float(seconds))
    handle.execute("COMMIT")


def fire(url: str, turn: str) -> None:
    """Lead, and fire every entry's ticks one due time after the other, from where they are, without end."""
    engine = create(url, {})
    term = engine.lead(f"beat-{turn}", 1000.0)
    assert term is not None
    entries = engine.schedule().entries
    due = max(entry.last_due or 0 for entry in entries)
    while True:
        due += 1
        ids = {entry.name: f"{entry.name}@{due:g}" for entry in entries}
        messages = {name: Message({"id": id, "task": "t"}, {}, b"[[], {}, {}]") for name, id in ids.items()}
        ticks = [Tick(name, due, id, Publication(messages[name], "q")) for name, id in ids.items()]
        assert engine.fire(term, ticks) == {}
        say(str(due))


if __name__ == "__main__":
    roles = {each.__name__: each for each in (work, stop_in_transaction, lock_from_outside, fire)}
    roles[sys.argv[1]](*sys.argv[2:])
