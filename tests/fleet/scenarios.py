"""What every mixed fleet is tested for: collected by ``test_redis_fleet`` and ``test_rabbitmq_fleet``.

A test runs code in a client of one side (``theirs``: Celery, ``ours``) and mostly concerns the worker of the
other. Workers and clients are shared, so each test leaves them as it found them.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.fleet.house import OURS, THEIRS, Fleet, library, other
from tests.processes import wait_until

SIDES = (THEIRS, OURS)

WIDE = {("redis", "5.4"), ("redis", "5.6"), ("rabbitmq", "5.6")}
"""Where everything is tested; elsewhere what is not marked ``wide``: it is the same in all releases."""

wide = pytest.mark.wide
both_ways = pytest.mark.parametrize("client", SIDES)


# -- calls ------------------------------------------------------------------------------------------------


@both_ways
def test_calls_come_back(fleet: Fleet, client: str) -> None:
    """Values, errors, retries and delays."""
    answer = fleet.run(
        client,
        """
        from datetime import datetime, timedelta, timezone
        call = lambda task, *args, **options: task.apply_async(args, queue=to, **options)
        begun = time.time()
        eta = datetime.now(timezone.utc) + timedelta(seconds=1)
        late = [call(when, countdown=1), call(when, eta=eta)]
        value, retried = call(add, 2, 3), call(flaky, 2)
        failed, refused = call(boom, "x"), call(refuse, 1, "b")
        answer = {
            "value": value.get(timeout=20),
            "retried": retried.get(timeout=20),
            "failed": repr(failed.get(timeout=20, propagate=False)),
            "state": failed.state,
            "refused": repr(refused.get(timeout=20, propagate=False)),
            "waited": [1 <= round(r.get(timeout=20) - begun, 1) < 8 for r in late],
        }
        """,
        to=other(client),
    )
    assert answer == {
        "value": 5,
        "retried": 2,
        "failed": "ValueError('x')",
        "state": "FAILURE",
        "refused": "Refused(1, 'b')",
        "waited": [True, True],
    }


@both_ways
def test_chains_groups_and_chords_cross(fleet: Fleet, client: str) -> None:
    answer = fleet.run(
        client,
        """
        s = lambda task, queue, *args: task.s(*args).set(queue=queue)
        T, O = "theirs", "ours"
        steps = library.chain(s(add, T, 1, 1), s(add, O, 10), s(add, T, 100), s(add, O, 1000))
        group = library.group(s(add, queue, n, n) for n, queue in enumerate([T, O] * 4))
        chords = [
            library.chord([s(add, T, 1, 1), s(nap, last, 0.2, "last"), s(echo, O, 3)])(s(echo, body))
            for last in (T, O) for body in (T, O)
        ]
        failing = library.chord([s(boom, O, "x"), s(boom, T, "y")])(s(echo, T))
        chain, members = steps.apply_async(), group.apply_async()
        answer = [
            chain.get(timeout=30), chain.parent.parent.get(timeout=30), members.get(timeout=30),
            [r.get(timeout=30) for r in chords], type(failing.get(timeout=30, propagate=False)).__name__,
        ]
        """,
    )
    assert answer == [
        1112, 12, [2 * n for n in range(8)], [[2, "last", 3]] * 4, "ChordError",
    ]  # fmt: skip


def test_one_queue_is_drained_by_both(fleet: Fleet) -> None:
    """Both workers take from it; chains cross them as it comes."""
    fleet.site.journal_path.write_text("")
    fleet.run(
        OURS,
        """
        for name in node.values():
            told = app.control.add_consumer("common", destination=[name], reply=True, timeout=10)
            assert "ok" in told[0][name], told
        """,
    )
    code = """
        s = lambda task, *args: task.s(*args).set(queue="common")
        chains = [
            library.chain(s(nap, 0.05, n), s(add, 1), s(add, 1), s(add, 1), s(mark)).apply_async()
            for n in range(40)
        ]
        answer = sorted(r.get(timeout=60) for r in chains)
    """
    for client in SIDES:
        assert fleet.run(client, code) == list(range(3, 43))
    fleet.run(
        THEIRS,
        """
        for name in node.values():
            told = app.control.cancel_consumer("common", destination=[name], reply=True, timeout=10)
            assert "ok" in told[0][name], told
        """,
    )
    who = Counter(line.split()[0] for line in fleet.site.journal())
    assert set(who) == {"celery", "celeriac"}, who
    ended = [line for line in fleet.site.journal() if len(line.split()) == 2]
    assert len(ended) == 80, "each chain ends with one mark"


# -- revoking, limits -------------------------------------------------------------------------------------


@both_ways
def test_tasks_are_revoked_and_terminated(fleet: Fleet, client: str) -> None:
    answer = fleet.run(
        client,
        """
        waiting = nap.apply_async((60, "never"), queue=to, countdown=2)
        running = nap.apply_async((60, f"long-{to}"), queue=to)
        look = app.control.inspect([node[to]], timeout=10)
        while not any(task["id"] == running.id for task in look.active()[node[to]]):
            time.sleep(0.05)
        waiting.revoke()
        running.revoke(terminate=True, signal="SIGKILL")
        answer = [type(r.get(timeout=20, propagate=False)).__name__ for r in (running, waiting)]
        answer += [r.state for r in (running, waiting)]
        answer += [r.id in look.revoked()[node[to]] for r in (waiting, running)]
        """,
        to=other(client),
    )
    assert answer == ["TaskRevokedError"] * 2 + ["REVOKED"] * 2 + [True, True]


@both_ways
def test_limits_are_changed_while_a_worker_runs(fleet: Fleet, client: str) -> None:
    spread, ended, reset = fleet.run(
        client,
        """
        options = dict(destination=[node[to]], reply=True, timeout=10)
        told = [app.control.rate_limit("interop_tasks.when", "4/s", **options)]
        for _ in range(20):  # idle processes hear of the limit when they look next
            times = [r.get(timeout=30) for r in [when.apply_async(queue=to) for _ in range(5)]]
            if max(times) - min(times) > 0.7:
                break
        told.append(app.control.rate_limit("interop_tasks.when", 0, **options))
        told.append(app.control.time_limit("interop_tasks.nap", soft=None, hard=1, **options))
        cut = nap.apply_async((30 if to == "ours" else 0, "cut"), queue=to)
        ended = type(cut.get(timeout=30, propagate=False)).__name__
        told.append(app.control.time_limit("interop_tasks.nap", soft=None, hard=None, **options))
        answer = [max(times) - min(times), ended, ["ok" in reply[0][node[to]] for reply in told]]
        """,
        to=other(client),
    )
    assert spread > 0.7, "five tasks at four a second"
    # Celery's prefork workers note the limit and go on with that of the task's definition.
    assert ended == ("TimeLimitExceeded" if client == THEIRS else "str")
    assert reset == [True] * 4


# -- looking and ordering ---------------------------------------------------------------------------------


@wide
@both_ways
def test_a_worker_tells_what_it_does(fleet: Fleet, client: str) -> None:
    go = Path(f"{fleet.site.journal_path}.go")
    go.unlink(missing_ok=True)
    # RabbitMQ keeps what is delayed to itself.
    shown = not fleet.site.broker.startswith("amqp")
    told = fleet.run(
        client,
        """
        name = node[to]
        look = app.control.inspect([name], timeout=10)
        late = nap.apply_async((0, "late"), queue=to, countdown=600)
        while not (eta := [t for t in look.scheduled()[name] if t["request"]["id"] == late.id]) and shown:
            time.sleep(0.05)
        running = [progress.apply_async(queue=to) for _ in range(2)]
        while len(active := look.active()[name]) < 2:
            time.sleep(0.05)
        asked = look.query_task(running[0].id)[name]
        stats, queues, conf = look.stats()[name], look.active_queues()[name], look.conf()[name]
        answer = {
            "ping": look.ping(),
            "active": sorted((t["name"], t["type"], t["hostname"], t["time_start"] > 0) for t in active),
            "reserved": look.reserved()[name],
            "asked": {i: [where, info["id"]] for i, (where, info) in asked.items()},
            "eta": [t["request"]["name"] for t in eta],
            "total": type(stats["total"]).__name__,
            "pool": [stats["pool"]["max-concurrency"], len(stats["pool"]["processes"])],
            "stats": sorted(
                {"broker", "clock", "pid", "pool", "prefetch_count", "rusage", "total", "uptime"} - set(stats)
            ),
            "queues": [(q["name"], q["exchange"]["type"], q["routing_key"]) for q in queues],
            "registered": [t for t in look.registered()[name] if t.startswith("interop_tasks.n")],
            "conf": conf["broker_url"].count("guest:guest"),
            "report": look.report()[name]["ok"].count("celer") > 0,
        }
        late.revoke()
        open(go, "w").close()
        [r.get(timeout=30) for r in running]
        """,
        to=other(client),
        go=str(go),
        shown=shown,
    )
    name = fleet.names[other(client)]
    active = told.pop("active")
    assert [row[:3] for row in active] == [["interop_tasks.progress", "interop_tasks.progress", name]] * 2
    asked = told.pop("asked")
    assert [where for where, _ in asked.values()] == ["active"]
    assert all(task_id == key for key, (_, task_id) in asked.items())
    queue = other(client)
    assert told == {
        "ping": {name: {"ok": "pong"}},
        "reserved": [],
        "eta": ["interop_tasks.nap"] if shown else [],
        "total": "dict",
        "pool": [2, 2],
        "stats": [],
        "queues": [[queue, "direct", queue]],
        "registered": ["interop_tasks.nap"],
        "conf": 0,
        "report": True,
    }


@wide
@both_ways
def test_pool_and_queues_are_changed(fleet: Fleet, client: str) -> None:
    answer = fleet.run(
        client,
        """
        name, options = node[to], dict(destination=[node[to]], reply=True, timeout=10)
        look = app.control.inspect([name], timeout=10)

        def until(told, wanted):
            deadline = time.monotonic() + 20
            while (found := told()) != wanted and time.monotonic() < deadline:
                time.sleep(0.05)
            return found

        size = lambda: len(look.stats()[name]["pool"]["processes"])
        names = lambda: sorted(queue["name"] for queue in look.active_queues()[name])
        oks = [app.control.pool_grow(1, **options)]
        sizes = [until(size, 3)]
        oks.append(app.control.pool_shrink(1, **options))
        sizes.append(until(size, 2))
        oks.append(app.control.add_consumer("extra-" + to, **options))
        ran = add.apply_async((1, 2), queue="extra-" + to).get(timeout=20)
        queues = [until(names, sorted([to, "extra-" + to]))]
        oks.append(app.control.cancel_consumer("extra-" + to, **options))
        queues.append(until(names, [to]))
        answer = [[list(reply[0][name]) for reply in oks], sizes, ran, queues]
        """,
        to=other(client),
    )
    queue = other(client)
    assert answer == [[["ok"]] * 4, [3, 2], 3, [sorted([f"extra-{queue}", queue]), [queue]]]


# -- events, beats ----------------------------------------------------------------------------------------


@wide
@both_ways
def test_events_of_both_are_seen(fleet: Fleet, client: str) -> None:
    """As a monitor sees them that uses the library's ``State``: Flower and celery-exporter do."""
    answer = fleet.run(
        client,
        """
        import threading
        state, ready = app.events.State(), threading.Event()
        ends = ("task-succeeded", "task-failed")
        ids = {queue: [f"{queue}-{client}-{n}" for n in range(3)] for queue in node}
        left = {i for some in ids.values() for i in some}
        begun = set()

        def take(event):
            state.event(event)
            if event["type"] in ends:
                left.discard(event["uuid"])
            elif event["type"] == "worker-heartbeat":
                begun.add(event["hostname"])
                if begun >= set(node.values()):
                    ready.set()
            if not left:
                receiver.should_stop = True

        app.control.enable_events()
        connection = app.connection_for_read()
        receiver = app.events.Receiver(connection, handlers={"*": take})
        def capture():
            try:
                receiver.capture(limit=None, timeout=30, wakeup=True)
            except Exception as exc:
                failure.append(repr(exc))
        failure = []
        thread = threading.Thread(target=capture, daemon=True)
        thread.start()
        assert ready.wait(20), (begun, failure)
        for queue, (a, b, c) in ids.items():
            add.apply_async((1, 2), queue=queue, task_id=a)
            boom.apply_async(("x",), queue=queue, task_id=b)
            flaky.apply_async((1,), queue=queue, task_id=c)
        thread.join(30)
        app.control.disable_events()
        tasks = {
            task_id: [task.name, task.state, task.worker.hostname, task.args, task.result, task.exception,
                      task.retries, task.runtime is not None, getattr(task, "queue", None)]
            for task_id, task in state.tasks.items() if task_id in sum(ids.values(), [])
        }
        workers = {
            w.hostname: [w.alive, w.sw_ident, w.freq, len(w.loadavg or ())] for w in state.workers.values()
        }
        answer = [sorted(left), failure, tasks, workers]
        """,
        client=client,
    )
    left, failure, tasks, workers = answer
    assert not left, failure
    for side in SIDES:
        name = fleet.names[side]
        queue = OURS if side == OURS else tasks[f"{THEIRS}-{client}-0"][8]  # Celery's do not say theirs
        wanted = {
            "0": ["interop_tasks.add", "SUCCESS", name, "(1, 2)", "3", None, 0, True, queue],
            "1": ["interop_tasks.boom", "FAILURE", name, "('x',)", None, "ValueError('x')", 0, False, queue],
            "2": ["interop_tasks.flaky", "SUCCESS", name, "(1,)", "1", None, 1, True, queue],
        }
        for number, fields in wanted.items():
            told = tasks[f"{side}-{client}-{number}"]
            if number == "2":  # the error of the first attempt stays, as the state does not forget
                told[5] = None
                if side == THEIRS and told[1] == "RETRY":  # sent by two processes of Celery's, in any order
                    told[1] = "SUCCESS"
            assert told == fields, side
        assert workers[name][0] is True
    assert workers[fleet.names[OURS]] == [True, "py-celeriac", 2.0, 3]


@wide
@both_ways
def test_a_beat_feeds_the_other_s_worker(fleet: Fleet, client: str) -> None:
    text = f"beat-{client}-{fleet.site.release}"
    beat = fleet.site.beat(library(client), "mark", other(client), text)
    try:
        line = f"{library(other(client))} {text}"
        wait_until(lambda: fleet.site.journal().count(line) >= 3 or beat.process.poll() is not None)
        assert fleet.site.journal().count(line) >= 3, beat.log
    finally:
        beat.stop()


# -- the end ----------------------------------------------------------------------------------------------


@wide
def test_each_is_shut_down_by_the_other(fleet: Fleet) -> None:
    """The last test of the fleet. Ours goes on: another one of ours is there for this."""
    brief = fleet.site.worker("celeriac", "brief", "-c", "1", "-n", "brief@%h")
    name = fleet.names[OURS].replace(f"{OURS}@", "brief@")
    theirs = next(worker for worker in fleet.site.workers if f"{THEIRS}@" in worker.log)
    fleet.run(THEIRS, f"app.control.shutdown(destination=[{name!r}])")
    fleet.run(OURS, "app.control.shutdown(destination=[node['theirs']])")
    assert brief.process.wait(20) == 0
    assert theirs.process.wait(20) == 0
    fleet.site.workers.remove(brief)
