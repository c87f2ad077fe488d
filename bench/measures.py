"""The measurements. Each takes a system and a server and returns figures by name."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench import machine
from bench.server import Server
from bench.systems import ROOT, Stores, System, fresh_stores

Figures = dict[str, float]
PATIENCE = 30.0
"""Seconds without progress after which a measurement is given up."""


def throughput(system: System, server: Server | None, seconds: float, port: int | None = None) -> Figures:
    """No-op tasks a second of two processes working off a backlog, CPU time a task, memory afterwards.

    The backlog would last ``seconds`` at the system's guessed speed. The clock runs from the first twentieth
    done to the last task, so that start-up does not count.
    """
    count = int(system.guess * seconds)
    with fresh_stores(system, server, port) as stores:
        sent = system.call(stores, "enqueue_bulk", count)
        with system.running(stores) as worker:
            figures = _work_off(system, stores, count, worker.pid)
            figures["memory"] = machine.pss(machine.tree(worker.pid)) / 2**20
    return {"bulk": count / sent.seconds, **figures}


def _work_off(system: System, stores: Stores, count: int, pid: int) -> Figures:
    before = _wait_done(system, stores, count, count // 20)
    worker_cpu, server_cpu, started = _cpu(pid), _server_cpu(stores), time.perf_counter()
    done = _wait_done(system, stores, count, count)
    elapsed, tasks = time.perf_counter() - started, done - before
    return {
        "rate": tasks / elapsed,
        "worker_us": (_cpu(pid) - worker_cpu) / tasks * 1e6,
        "server_us": (_server_cpu(stores) - server_cpu) / tasks * 1e6,
    }


def _cpu(pid: int) -> float:
    return machine.cpu(machine.tree(pid))


def _server_cpu(stores: Stores) -> float:
    return machine.cpu([pid for server in stores.pids for pid in machine.tree(server)])


def _wait_done(system: System, stores: Stores, sent: int, wanted: int, interval: float = 0.01) -> int:
    """Wait until so many are done; return how many are. A standstill is an error."""
    best, moved = -1, time.monotonic()
    while True:
        asked = time.perf_counter()
        done = system.done(stores, sent)
        if done >= wanted:
            return done
        if done > best:
            best, moved = done, time.monotonic()
        elif time.monotonic() - moved > PATIENCE:
            raise TimeoutError(f"stands at {done} of {wanted} tasks for {PATIENCE:.0f} s")
        # Counting may take the store a while: ask rarely enough not to disturb.
        time.sleep(max(interval, 10 * (time.perf_counter() - asked)))


def enqueue(system: System, server: Server | None, seconds: float) -> Figures:
    """Tasks a second sent one by one, and the client's and the server's CPU time a task; no worker runs."""
    count = int(4000 * seconds)
    with fresh_stores(system, server) as stores:
        server_cpu = _server_cpu(stores)
        sent = system.call(stores, "enqueue", count, warm=20)
        return {
            "rate": count / sent.seconds,
            "client_us": sent.cpu / count * 1e6,
            "server_us": (_server_cpu(stores) - server_cpu) / count * 1e6,
        }


def round_trip(system: System, server: Server | None, count: int) -> Figures:
    """Milliseconds from the call to its result, an idle worker given: median and 99th percentile."""
    with fresh_stores(system, server) as stores, system.running(stores):
        times = sorted(system.call(stores, "round_trips", count, warm=20).returned)
    return {"p50": statistics.median(times) * 1000, "p99": times[int(len(times) * 0.99)] * 1000}


def first_task(system: System, server: Server | None) -> Figures:
    """Seconds from starting the worker's command to the first result; the task waits already."""
    with fresh_stores(system, server) as stores:
        system.call(stores, "enqueue", 1)
        started = time.perf_counter()
        with system.running(stores):
            _wait_done(system, stores, 1, 1, interval=0.001)
            return {"seconds": time.perf_counter() - started}


def latency(system: System, server: Server, seconds: float, delay: float = 0.001) -> Figures:
    """Throughput with a broker that answers ``delay`` seconds later, and the round trip that gives."""
    with _proxy(server, delay) as port:
        client = server.client()
        client.connection_pool.connection_kwargs["port"] = port
        times = []
        for _ in range(50):
            started = time.perf_counter()
            client.ping()
            times.append(time.perf_counter() - started)
        client.close()
        figures = throughput(system, server, seconds, port)
    return {"rate": figures["rate"], "ping_ms": statistics.median(times) * 1000}


def chord(system: System, server: Server | None, count: int) -> Figures:
    """A chord of so many no-op tasks: tasks a second from the call to its body, and what sending took."""
    with fresh_stores(system, server) as stores, system.running(stores) as worker:
        reply = system.call(stores, "one_chord", count, warm=20)
        memory = machine.pss(machine.tree(worker.pid)) / 2**20
    return {
        "size": count,
        "rate": count / reply.seconds,
        "seconds": reply.seconds,
        "sending": reply.returned,
        "memory": memory,
    }


@contextmanager
def _proxy(server: Server, delay: float) -> Iterator[int]:
    command = [sys.executable, "-m", "bench.proxy", str(server.port), str(delay)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def backlog(system: System, server: Server | None, seconds: float, ready: int, delayed: int) -> Figures:
    """Throughput, CPU time a task and memory over the head of a backlog of so many ready and delayed tasks.

    Counted in the results: to count what waits would take longer the more it is.
    """
    count = int(system.guess * seconds)
    sent = max(count, ready)
    with fresh_stores(system, server) as stores:
        system.call(stores, "enqueue_bulk", sent)
        if delayed:
            system.call(stores, "enqueue_delayed", delayed)
        with system.running(stores) as worker:
            figures = _work_off(system, stores, count, worker.pid)
            memory = machine.pss(machine.tree(worker.pid)) / 2**20
    cpu = figures["worker_us"] + figures["server_us"]
    return {"rate": figures["rate"], "cpu_us": cpu, "memory": memory}
