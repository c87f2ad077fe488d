"""The field: stores, nodes and producers as processes of their own, and what can be done to them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from celeriac import Celeriac
from celeriac.exceptions import OperationalError
from tests.faults.ledger import MOST_NOTES, Entry, Fault, Journal, Run, judge, runs_once
from tests.faults.node import PATIENCE, ROOT, Node, Stuck, await_true, is_stopped, send_signal
from tests.proxy import Proxy

LEASE = 2.0
CONF = {"worker_lease": LEASE, "broker_publish_timeout": 20.0}


class Field:
    """One store with nodes and producers on it, and a journal of what ran."""

    fenced = True
    """Whether the store refuses what a stale worker writes."""

    def __init__(
        self,
        urls: Sequence[str],
        folder: Path,
        seed: int,
        scenario: str,
        backend: str | None = None,
        **conf: Any,
    ) -> None:
        """``urls``: the store for the suite itself, then for the producers and each node, if other ones.

        ``backend``: where results are kept, if not there.
        """
        self.folder = folder
        self.rng = random.Random(seed)
        self.seed = seed
        self.entry = Entry(scenario)
        self.faults: list[Fault] = []
        self.backend = backend
        self.app = Celeriac("suite", broker=urls[0], backend=backend, set_as_current=False)
        self.journal = Journal(folder / "journal")
        self.journal.path.touch()
        self.conf = {**CONF, **conf}
        self._deadly: set[str] = set()
        self.producers: list[subprocess.Popen[bytes]] = []
        self._began = time.monotonic()
        self._lists = 0
        self._looked = 0.0
        self._producer_url = urls[1] if len(urls) > 1 else urls[0]
        self.nodes = [
            Node(f"node{n}", self._env(url), folder / f"node{n}.log")
            for n, url in enumerate(urls[2:] or [urls[0]] * 2, 1)
        ]

    def start(self) -> None:
        """Start the nodes."""
        for node in self.nodes:
            node.start(ready=False)
        for node in self.nodes:
            node.await_line("ready.")

    def _env(self, url: str) -> dict[str, str]:
        return {
            **os.environ,
            **({"FAULTS_BACKEND": self.backend} if self.backend else {}),
            "FAULTS_BROKER": url,
            "FAULTS_CONF": json.dumps(self.conf),
            "FAULTS_JOURNAL": str(self.journal.path),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        }

    # -- load --------------------------------------------------------------------------------------

    def produce(self, count: int) -> subprocess.Popen[bytes]:
        """Start a producer of ``count`` acknowledged tasks."""
        self._lists += 1
        words = [
            f"p{self._lists}",
            str(self.seed * 1000 + self._lists),
            str(count),
            str(self._list(self._lists)),
        ]
        with (self.folder / f"producer{self._lists}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.producer", *words],
                env=self._env(self._producer_url), cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip
        self.producers.append(process)
        return process

    def acknowledged(self, number: int | None = None) -> list[str]:
        """The keys that were acknowledged to producers: to all, or to one."""
        lists = range(1, self._lists + 1) if number is None else [number]
        return [key for n in lists if self._list(n).exists() for key in self._list(n).read_text().split()]

    def _list(self, number: int) -> Path:
        return self.folder / f"acknowledged{number}"

    def await_starts(self, more: int) -> bool:
        """Wait until ``more`` further runs have started; False if everything there is was run before.

        However long it takes, as long as runs start.
        """
        self.journal.read()
        wanted = len(self.journal.starts) + more
        while len(self.journal.starts) < wanted:
            before = len(self.journal.starts)

            def moved(before: int = before) -> bool:
                self.journal.read()
                return len(self.journal.starts) > before or self.is_done()

            await_true(moved, f"{wanted - before} more tasks start")
            if len(self.journal.starts) == before:
                return False
        return True

    def is_done(self) -> bool:
        """Whether the producers have ended and nothing waits or runs any more."""
        if any(producer.poll() is None for producer in self.producers):
            return False
        if time.monotonic() - self._looked < 0.1:
            return False
        self._looked = time.monotonic()
        return self._left() == 0

    def _left(self) -> int:
        """How many messages wait or run; some, if the store cannot be asked: its faults strike us too."""
        try:
            return self._waiting()
        except OperationalError:
            return 1

    def _waiting(self) -> int:
        depth = self.app.broker.depth(["celery"])["celery"]
        return depth.ready + depth.delayed + depth.leased + depth.parked

    def drain(self) -> None:
        """Wait until everything is done: all producers ended, nothing ready, delayed, parked or leased."""
        for producer in self.producers:
            try:
                code = producer.wait(300)
            except subprocess.TimeoutExpired:
                raise Stuck("a producer does not end") from None
            if code not in (0, -signal.SIGKILL):
                self.entry.notes.append(f"a producer ended with code {code}")
        seen, since = -1, time.monotonic()
        while True:
            waiting = self._left()
            if not waiting:
                return
            self.journal.read()
            if len(self.journal.starts) != seen:
                seen, since = len(self.journal.starts), time.monotonic()
            if time.monotonic() - since > PATIENCE:
                self.entry.notes.append(f"nothing moves any more: {waiting} messages")
                return
            time.sleep(0.02)

    # -- faults ------------------------------------------------------------------------------------

    def note(
        self, kind: str, victims: Sequence[int] = (), at: float | None = None, taken_over: bool = False
    ) -> Fault:
        """Enter a fault into the ledger; ``at`` is now unless given."""
        fault = Fault(kind, time.monotonic() if at is None else at, frozenset(victims), taken_over)
        self.faults.append(fault)
        return fault

    @contextlib.contextmanager
    def cutting(self, kind: str, nodes: Sequence[Node]) -> Iterator[None]:
        """Enter a fault, done in this block, that costs these nodes their connections.

        No worker is to blame. They come back within their lease, so nothing of theirs may be run again.
        """
        self.note(kind)
        yield

    def kill_child(self) -> None:
        """SIGKILL one child of one node."""
        node = self.rng.choice(self.nodes)
        children = node.children()
        if children:
            victim = self.rng.choice(sorted(children))
            self.note("child killed", [victim])
            send_signal(victim, signal.SIGKILL)

    def kill_agent(self) -> None:
        """SIGKILL a node's agent and wait for its successor."""
        node = self.rng.choice(self.nodes)
        agent = node.agent()
        if agent is not None:
            self.note("agent killed")
            send_signal(agent, signal.SIGKILL)
            await_true(lambda: node.agent() not in (None, agent), "a new agent")

    def kill_node(self) -> None:
        """SIGKILL a supervisor, with which all of its node dies, and start the node again."""
        node = self.rng.choice(self.nodes)
        node.process.send_signal(signal.SIGSTOP)  # so that it has no further children after we looked
        os.waitid(os.P_PID, node.process.pid, os.WSTOPPED)
        self.note("node killed", node.children())
        node.process.kill()
        node.process.wait()
        node.start()

    def freeze_node(self) -> bool:
        """SIGSTOP a node that runs a task, until others have taken it over; then SIGCONT.

        Returns whether it came to that: a node caught between two tasks, or at the gate of an SQLite file
        (nobody can write then), is let go at once.
        """
        node = self._busy_node()
        if node is None:
            return False
        pids = [node.process.pid, *node.members()]
        children = node.children()
        at = time.monotonic()
        for pid in pids:
            send_signal(pid, signal.SIGSTOP)
        await_true(lambda: all(is_stopped(pid) for pid in pids), "the node is stopped")
        try:
            self.journal.read()
            # One that started a moment ago is still at its sleep: it wakes up and ends after the takeover.
            cut = [run for run in self.journal.open_runs(children) if not runs_once(run.key)]
            if not cut or self._holds_a_lock(pids):
                return False
            self.note("node frozen", children, at, taken_over=True)
            await_true(lambda: self._restarted(cut), "a frozen node's task starts elsewhere")
            for pid in children:
                send_signal(pid, signal.SIGCONT)
            await_true(lambda: self._ended(cut), "the stale runs end")
        finally:
            for pid in pids:
                send_signal(pid, signal.SIGCONT)
        await_true(lambda: not set(children) & set(node.children()), "the woken node starts anew")
        await_true(lambda: len(node.children()) == node.size, "the woken node's new children")
        return True

    def freeze_child(self) -> bool:
        """SIGSTOP one child in the middle of a task, for longer than the lease, while its node beats.

        Nobody may take over what it runs. Returns as :meth:`freeze_node`.
        """
        node = self._busy_node()
        if node is None:
            return False
        self.journal.read()
        child = self.rng.choice(node.children())
        send_signal(child, signal.SIGSTOP)
        try:
            await_true(lambda: is_stopped(child), "the child is stopped")
            self.journal.read()
            if not self.journal.open_runs([child]) or self._holds_a_lock([child]):
                return False
            self.note("child frozen")
            time.sleep(1.5 * LEASE)
        finally:
            send_signal(child, signal.SIGCONT)
        return True

    def freeze_agent(self) -> bool:
        """SIGSTOP an agent until the others have taken its node for dead. Returns as :meth:`freeze_node`."""
        node = self._busy_node()
        agent = node.agent() if node is not None else None
        if node is None or agent is None:
            return False
        others = [other for other in self.nodes if other is not node]
        for each in self.nodes:
            each.forget_log()
        children = node.children()
        send_signal(agent, signal.SIGSTOP)
        try:
            await_true(lambda: is_stopped(agent), "the agent is stopped")
            if self._holds_a_lock([agent]):
                return False
            fault = self.note("agent frozen", children, taken_over=True)
            await_true(lambda: any("Recovered" in other.news() for other in others), "others take over")
            fault.victims |= frozenset(node.children())
        finally:
            send_signal(agent, signal.SIGCONT)
        await_true(lambda: "others took over its tasks: starting anew" in node.news(), "the node starts anew")
        return True

    def hole_past_lease(self, node: Node, other: Node, way: Proxy) -> None:
        """Let nothing pass on a node's way until the other node has taken its tasks over."""
        other.forget_log()
        node.forget_log()
        children = node.children()
        self.note("black hole past the lease", children, taken_over=True)
        way.black_hole()
        other.await_line("Recovered")
        way.black_hole(False)
        way.cut()
        await_true(lambda: not set(children) & set(node.children()), "the node starts anew")

    def _busy_node(self) -> Node | None:
        """A node that runs a task now, most likely one that sleeps; ``None`` if none does for a while."""

        def found() -> list[Node]:
            self.journal.read()
            latest = time.monotonic() - 0.005
            return [
                node
                for node in self.nodes
                if any(run.at < latest for run in self.journal.open_runs(node.children()))
            ]

        try:
            return self.rng.choice(await_true(found, "a task runs", 2.0))
        except Stuck:
            return None

    def _restarted(self, cut: list[Run]) -> bool:
        self.journal.read()
        return all(self.journal.newest[run.key] > run.token for run in cut)

    def _ended(self, cut: list[Run]) -> bool:
        self.journal.read()
        return not any(self.journal.running.get(run.pid) == run for run in cut)

    def _holds_a_lock(self, pids: Sequence[int]) -> bool:
        """Whether a stopped process has the turn to write an SQLite file: nobody else can write then."""
        inodes = {path.stat().st_ino for path in self.folder.rglob("*") if path.is_file()}
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if "->" in words or "WRITE" not in words:
                continue  # waits for it, or only reads
            if int(words[4]) in pids and int(words[5].rpartition(":")[2]) in inodes:
                return True
        return False

    def kill_producer(self) -> None:
        """SIGKILL a producer in the middle of its work; another one takes over what it did not get done."""
        running = [n for n, p in enumerate(self.producers, 1) if p.poll() is None]
        if running:
            number = self.rng.choice(running)
            self.note("producer killed")
            self.producers[number - 1].kill()
            self.producers[number - 1].wait()

    def expect_deaths(self, key: str) -> None:
        """The task of this key kills whatever process runs it: what else that process held is excused."""
        self._deadly.add(key)

    def _note_deaths(self) -> None:
        self.journal.read()
        for run in self.journal.starts:
            if run.key in self._deadly:
                self.note("poison ran", [run.pid], run.at)

    # -- the end -----------------------------------------------------------------------------------

    def close(self, expected_dead: dict[str, int] | None = None) -> Entry:
        """Stop everything and judge; ``expected_dead`` is how many dead letters of a reason there must be."""
        for producer in self.producers:
            if producer.poll() is None:
                producer.kill()
                producer.wait()
        for node in self.nodes:
            node.stop()
        self._note_deaths()
        self._judge(expected_dead or {})
        self.app.close()
        if len(self.entry.notes) > MOST_NOTES:
            self.entry.notes[MOST_NOTES:] = [f"... and {len(self.entry.notes) - MOST_NOTES} more"]
        self.entry.seconds = time.monotonic() - self._began
        return self.entry

    def _judge(self, expected_dead: dict[str, int]) -> None:
        self.journal.read()
        acknowledged = set(self.acknowledged())
        ran = {run.key for run in self.journal.starts} | acknowledged
        results = self._results(sorted(ran))
        judge(self.entry, self.journal, self.faults, acknowledged, results, self.fenced)
        if self.entry.given_up:
            expected_dead = {**expected_dead, "lost": self.entry.given_up}
        self._unexpected_letters(expected_dead)
        for node in self.nodes:
            self.entry.notes += [
                f"{node.name}: {line}" for line in node.log.read_text(errors="replace").splitlines()
                if "Traceback" in line or "CRITICAL" in line
            ][:5]  # fmt: skip

    def _unexpected_letters(self, expected: dict[str, int]) -> None:
        """Count the dead letters, and those that are more or fewer than were to come, by reason."""
        letters = self.app.broker.dead_letters(limit=10_000)
        self.entry.dead = len(letters)
        for reason in {letter.reason for letter in letters} | expected.keys():
            count = sum(1 for letter in letters if letter.reason == reason)
            if count != expected.get(reason, 0):
                self.entry.dead_unexpected += abs(count - expected.get(reason, 0))
                self.entry.notes.append(
                    f"{count} dead letters for {reason!r}, expected {expected.get(reason, 0)}"
                )

    def _results(self, keys: list[str]) -> dict[str, int]:
        """The tokens of the runs whose results are stored, by key."""
        assert self.app.backend is not None
        tokens = {}
        for start in range(0, len(keys), 500):
            for key, payload in self.app.backend.fetch(keys[start : start + 500]).items():
                meta = json.loads(payload)
                if meta["status"] == "SUCCESS" and meta["result"]["key"] == key:
                    tokens[key] = meta["result"]["token"]
                elif runs_once(key) and meta["result"].get("exc_type") == "WorkerLostError":
                    tokens[key] = 0
        return tokens


def machine() -> str:
    """What the figures were taken on."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), "unknown processor",
    )  # fmt: skip
    return f"{os.cpu_count()} x {model}, {os.uname().sysname} {os.uname().release}"
