"""The field: stores, nodes and producers as processes of their own, and what can be done to them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from celeriac import Celeriac
from tests.faults.ledger import Entry, Fault, Journal, Run, judge, runs_once

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 60.0
"""Seconds without what is waited for, after which the suite gives up and says so."""
LEASE = 2.0
MOST_NOTES = 20
CONF = {"worker_lease": LEASE, "broker_publish_timeout": 20.0}


class Stuck(AssertionError):
    """What should have happened did not."""


def await_true(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """Look every 5 ms until ``condition()`` is true; return its value, raise ``Stuck`` after ``timeout``."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise Stuck(f"{what}: not within {timeout:g} s")
        time.sleep(0.005)
    return value


class Node:
    """A ``celeriac worker`` with two children, whose log is a file; it can be ended and started again."""

    def __init__(self, name: str, env: dict[str, str], log: Path, children: int = 2) -> None:
        self.name = name
        self.env = env
        self.log = log
        self.size = children
        self.process: subprocess.Popen[bytes] | None = None
        self._seen = 0

    def start(self, ready: bool = True) -> None:
        """Start the process, and wait until its children work unless told not to."""
        self._seen = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-m", "celeriac", "-A", "tests.faults.project", "worker"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-l", "INFO", "-c", str(self.size), "-n", f"{self.name}@%h"],
                env=self.env, cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip
        if ready:
            self.await_line("ready.")

    def await_line(self, part: str, timeout: float = PATIENCE) -> None:
        """Wait until its log has ``part``, counted from the node's last start or :meth:`forget_log`."""
        try:
            await_true(lambda: part in self.news(), f"{self.name} writes {part!r}", timeout)
        except Stuck as stuck:
            raise Stuck(f"{stuck}\n{self.news()[-3000:]}") from None

    def forget_log(self) -> None:
        """Let :meth:`await_line` see only what comes from now on."""
        self._seen = self.log.stat().st_size

    def news(self) -> str:
        """The log since the last start."""
        with self.log.open("rb") as file:
            file.seek(self._seen)
            return file.read().decode(errors="replace")

    def members(self) -> dict[int, str]:
        """The pids of its agent and children, with their names."""
        found = {}
        try:
            pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:
            return {}
        for pid in map(int, pids):
            try:
                found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                continue
        return {pid: name for pid, name in found.items() if name.startswith("celeriac:")}

    def children(self) -> list[int]:
        return [pid for pid, name in self.members().items() if name != "celeriac:agent"]

    def agent(self) -> int | None:
        return next((pid for pid, name in self.members().items() if name == "celeriac:agent"), None)

    def stop(self) -> None:
        """End it in order, or by force if it does not."""
        if self.process is not None and self.process.poll() is None:
            for pid in (self.process.pid, *self.members()):
                _signal(pid, signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Field:
    """One store with nodes and producers on it, and a journal of what ran."""

    def __init__(self, urls: Sequence[str], folder: Path, seed: int, scenario: str, **conf: Any) -> None:
        """``urls``: the store for the suite itself, then for the producers and each node, if other ones."""
        self.folder = folder
        self.rng = random.Random(seed)
        self.seed = seed
        self.entry = Entry(scenario)
        self.faults: list[Fault] = []
        self.app = Celeriac("suite", broker=urls[0], set_as_current=False)
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

    def await_starts(self, more: int, timeout: float = PATIENCE) -> bool:
        """Wait until ``more`` further runs have started; False if everything there is was run before."""
        self.journal.read()
        wanted = len(self.journal.starts) + more

        def reached() -> bool:
            self.journal.read()
            return len(self.journal.starts) >= wanted or self.is_done()

        await_true(reached, f"{more} more tasks start", timeout)
        return len(self.journal.starts) >= wanted

    def is_done(self) -> bool:
        """Whether the producers have ended and nothing waits or runs any more."""
        if any(producer.poll() is None for producer in self.producers):
            return False
        if time.monotonic() - self._looked < 0.1:
            return False
        self._looked = time.monotonic()
        return self._waiting() == 0

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
            waiting = self._waiting()
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

    def kill_child(self) -> None:
        """SIGKILL one child of one node."""
        node = self.rng.choice(self.nodes)
        children = node.children()
        if children:
            victim = self.rng.choice(sorted(children))
            self.note("child killed", [victim])
            _signal(victim, signal.SIGKILL)

    def kill_agent(self) -> None:
        """SIGKILL a node's agent and wait for its successor."""
        node = self.rng.choice(self.nodes)
        agent = node.agent()
        if agent is not None:
            self.note("agent killed")
            _signal(agent, signal.SIGKILL)
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
            _signal(pid, signal.SIGSTOP)
        await_true(lambda: all(_is_stopped(pid) for pid in pids), "the node is stopped")
        try:
            self.journal.read()
            # One that started a moment ago is still at its sleep: it wakes up and ends after the takeover.
            cut = [run for run in self.journal.open_runs(children) if not runs_once(run.key)]
            if not cut or self._holds_a_lock(pids):
                return False
            self.note("node frozen", children, at, taken_over=True)
            await_true(lambda: self._restarted(cut), "a frozen node's task starts elsewhere")
            for pid in children:
                _signal(pid, signal.SIGCONT)
            await_true(lambda: self._ended(cut), "the stale runs end")
        finally:
            for pid in pids:
                _signal(pid, signal.SIGCONT)
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
        _signal(child, signal.SIGSTOP)
        try:
            await_true(lambda: _is_stopped(child), "the child is stopped")
            self.journal.read()
            if not self.journal.open_runs([child]) or self._holds_a_lock([child]):
                return False
            self.note("child frozen")
            time.sleep(1.5 * LEASE)
        finally:
            _signal(child, signal.SIGCONT)
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
        _signal(agent, signal.SIGSTOP)
        try:
            await_true(lambda: _is_stopped(agent), "the agent is stopped")
            if self._holds_a_lock([agent]):
                return False
            fault = self.note("agent frozen", children, taken_over=True)
            await_true(lambda: any("Recovered" in other.news() for other in others), "others take over")
            fault.victims |= frozenset(node.children())
        finally:
            _signal(agent, signal.SIGCONT)
        await_true(lambda: "others took over its tasks: starting anew" in node.news(), "the node starts anew")
        return True

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
        judge(self.entry, self.journal, self.faults, acknowledged, self._results(sorted(ran)))
        letters = self.app.broker.dead_letters(limit=10_000)
        if self.entry.given_up:
            expected_dead = {**expected_dead, "lost": self.entry.given_up}
        self.entry.dead = len(letters)
        for reason in {letter.reason for letter in letters} | expected_dead.keys():
            count = sum(1 for letter in letters if letter.reason == reason)
            if count != expected_dead.get(reason, 0):
                self.entry.dead_unexpected += abs(count - expected_dead.get(reason, 0))
                self.entry.notes.append(
                    f"{count} dead letters for {reason!r}, expected {expected_dead.get(reason, 0)}"
                )
        for node in self.nodes:
            self.entry.notes += [
                f"{node.name}: {line}" for line in node.log.read_text(errors="replace").splitlines()
                if "Traceback" in line or "CRITICAL" in line
            ][:5]  # fmt: skip

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


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZX"
    except OSError:
        return True


def machine() -> str:
    """What the figures were taken on."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), "unknown processor",
    )  # fmt: skip
    return f"{os.cpu_count()} x {model}, {os.uname().sysname} {os.uname().release}"
