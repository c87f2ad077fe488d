"""Celeriac and the real Celery on one Redis: each other's clients, workers and results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import PATIENCE, LoggedProcess
from tests.servers import RedisServer

pytestmark = pytest.mark.timeout(90)

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


# -- both libraries, as clients and as workers ------------------------------------------------------------


def celery_python() -> str:
    """The interpreter of an environment that has the real Celery."""
    python = os.environ.get("CELERIAC_CELERY_PYTHON") or str(ROOT / ".celery-venv" / "bin" / "python")
    if not Path(python).exists():
        pytest.fail(
            f"These tests need the real Celery, and {python} does not exist. Run `make test`, which installs "
            "it into .celery-venv, or set CELERIAC_CELERY_PYTHON to a Python that has celery[redis] 5."
        )
    return python


class Client:
    """A process that runs pieces of client code with one library; ``tests/integration/interop_tasks.py``."""

    def __init__(self, site: InteropSite, library: str, **conf: Any) -> None:
        self.library = library
        self.process = subprocess.Popen(
            [site.python(library), "-c", "import interop_tasks; interop_tasks.serve()"],
            env=site.env(library, conf),
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, queue: str = "nowhere") -> Any:
        """Run the code, in which ``call(task, *args)`` sends to the queue; return its ``answer``."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"code": textwrap.dedent(code), "queue": queue}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the client with {self.library} has ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["answer"]

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


class InteropSite:
    """A Redis with clients and workers of both libraries."""

    def __init__(self, server: RedisServer, folder: Path, broker: str | None = None) -> None:
        self.server = server
        self.broker = broker or server.url()
        self.backend = server.url()
        self.journal_path = folder / "journal"
        self.journal_path.touch()
        self.clients: dict[str, Client] = {}
        self.client_conf: dict[str, Any] = {}
        self.workers: list[LoggedProcess] = []

    def python(self, library: str) -> str:
        return celery_python() if library == "celery" else sys.executable

    def env(self, library: str, conf: dict[str, Any]) -> dict[str, str]:
        env = {
            **os.environ,
            "INTEROP_LIBRARY": library,
            "INTEROP_BROKER": self.broker,
            "INTEROP_BACKEND": self.backend,
            "INTEROP_JOURNAL": str(self.journal_path),
            "INTEROP_CONF": json.dumps(conf),
            "PYTHONUNBUFFERED": "1",
        }
        env.pop("PYTHONPATH", None)
        if library == "celeriac":
            env["PYTHONPATH"] = str(ROOT / "src")
        return env

    def client(self, library: str) -> Client:
        if library not in self.clients:
            self.clients[library] = Client(self, library, **self.client_conf)
        return self.clients[library]

    def worker(self, library: str, queue: str, *arguments: str, **conf: Any) -> LoggedProcess:
        options = ["-Q", queue, "-l", "INFO", "-n", f"{library}-{queue}-{len(self.workers)}@%h", *arguments]
        if library == "celery":
            options += ["--without-gossip", "--without-mingle"]
            conf = {"worker_enable_remote_control": False, "worker_cancel_long_running_tasks": False, **conf}
        command = [self.python(library), "-m", library, "-A", "interop_tasks", "worker", *options]
        worker = LoggedProcess(command, self.env(library, conf), HERE)
        self.workers.append(worker)
        worker.await_line("ready.")
        return worker

    def journal(self) -> list[str]:
        return self.journal_path.read_text().splitlines()

    def await_true(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Wait until ``condition()`` is true, looking every 20 ms; return its value."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            logs = "\n".join(worker.log for worker in self.workers)
            assert time.monotonic() < deadline, f"it did not become true\n{self.journal()}\n{logs}"
            time.sleep(0.02)
        return value

    def meta(self, task_id: str) -> dict[str, Any]:
        """A stored result as it lies in Redis."""
        import redis

        with redis.Redis.from_url(self.server.url()) as connection:
            stored: bytes | None = connection.get(f"celery-task-meta-{task_id}")
            assert stored is not None
            meta: dict[str, Any] = json.loads(stored)
            return meta

    def close(self) -> None:
        for client in self.clients.values():
            client.close()
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.signal(signal.SIGCONT)
                worker.signal(signal.SIGQUIT)
                try:
                    worker.process.wait(10)
                except subprocess.TimeoutExpired:
                    worker.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteropSite]:
    """A Redis of its own for the tests of this module, with one client of each library."""
    with RedisServer() as server:
        site = InteropSite(server, tmp_path_factory.mktemp("interop"))
        yield site
        site.close()


@pytest.fixture
def site(shared: InteropSite) -> Iterator[InteropSite]:
    """The same for tests with workers of their own, which end with the test."""
    before = len(shared.workers)
    yield shared
    for worker in shared.workers[before:]:
        if worker.process.poll() is None:
            worker.signal(signal.SIGQUIT)
            try:
                worker.process.wait(10)
            except subprocess.TimeoutExpired:
                worker.kill()
    del shared.workers[before:]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[InteropSite]:
    """A Redis for one test: other tests' Celery workers leave unacknowledged messages behind."""
    with RedisServer() as server:
        site = InteropSite(server, tmp_path)
        yield site
        site.close()


class Pair:
    """A client of one library and the queue of the other's worker."""

    def __init__(self, site: InteropSite, client: str, queue: str) -> None:
        self.site, self.client, self.queue = site, site.client(client), queue

    def run(self, code: str) -> Any:
        try:
            return self.client.run(code, self.queue)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.site.workers[-1].log}") from None


PAIRS = ["celery-celeriac", "celeriac-celery:prefork", "celeriac-celery:threads", "celeriac-celery:solo"]


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest, shared: InteropSite) -> Iterator[Pair]:
    """A client of one library and a worker of the other."""
    client, _, worker = request.param.partition("-")
    library, _, pool = worker.partition(":")
    queue = worker.replace(":", "-")
    process = shared.worker(
        library, queue, "-P", pool or "prefork", "-c", "2", result_extended=True, task_track_started=False
    )
    yield Pair(shared, client, queue)
    process.signal(signal.SIGQUIT)
    process.process.wait(10)


# -- a call of one, run by the other ----------------------------------------------------------------------


def test_a_call_comes_back_with_its_result(pair: Pair) -> None:
    assert pair.run("answer = call(add, 2, 3).get(timeout=10)") == 5
    assert pair.run("answer = add.apply_async((2,), {'y': 4}, queue=Q).get(timeout=10)") == 6


def test_a_result_is_announced_to_the_waiting_client(pair: Pair) -> None:
    took = pair.run(
        """
        import time
        call(add, 1, 1).get(timeout=10)  # connections are made now
        started = time.perf_counter()
        for n in range(20):
            call(add, n, n).get(timeout=10)
        answer = (time.perf_counter() - started) / 20
        """
    )
    assert took < 0.3, "results come by polling"


@pytest.mark.parametrize("value", ["[1, 2.5, None, True, 'ü']", "{'a': {'b': []}}"])
def test_plain_data_arrive_as_they_were_sent(pair: Pair, value: str) -> None:
    assert pair.run(f"answer = call(echo, {value}).get(timeout=10) == {value}")


def test_types_beyond_json_arrive_as_they_were_sent(pair: Pair) -> None:
    assert pair.run(
        """
        import datetime, decimal, uuid
        value = [
            datetime.datetime(2026, 4, 10, 12, 30, tzinfo=datetime.timezone.utc), datetime.date(2026, 4, 10),
            decimal.Decimal("1.50"), uuid.UUID(int=7),
        ]
        answer = call(echo, value).get(timeout=10) == value
        """
    )


def test_a_failure_comes_back_as_its_exception(pair: Pair) -> None:
    state, name, args, trace = pair.run(
        """
        r = call(boom, "kaputt")
        try:
            r.get(timeout=10)
        except ValueError as exc:
            answer = [r.state, type(exc).__name__, exc.args, r.traceback]
        """
    )
    assert (state, name, args) == ("FAILURE", "ValueError", ["kaputt"])
    assert "raise ValueError(text)" in trace


def test_an_exception_of_the_application_comes_back_as_its_class(pair: Pair) -> None:
    assert pair.run(
        """
        try:
            call(refuse, 1, "b").get(timeout=10)
        except Refused as exc:
            answer = list(exc.args)
        """
    ) == [1, "b"]


def test_retries_go_round_until_it_succeeds(pair: Pair) -> None:
    assert pair.run("answer = call(flaky, 2).get(timeout=15)") == 2


def test_a_waiting_retry_is_seen_with_its_reason(pair: Pair) -> None:
    state, reason = pair.run(
        """
        import time
        r = call(retry_late)
        deadline = time.monotonic() + 10
        while r.state != "RETRY" and time.monotonic() < deadline:
            time.sleep(0.02)
        answer = [r.state, repr(r.result)]
        """
    )
    assert (state, reason) == ("RETRY", "RuntimeError('later')")


@pytest.mark.parametrize("option", ["countdown=1", "eta=datetime.now(timezone.utc) + timedelta(seconds=1)"])
def test_a_delay_is_kept(pair: Pair, option: str) -> None:
    if pair.client.library == "celeriac":
        option += ", headers={}"
        pair.run("app.conf.broker_delay = 'celery'")
    waited = pair.run(
        f"""
        import time
        from datetime import datetime, timedelta, timezone
        sent = time.time()
        answer = call(when, {option}).get(timeout=15) - sent
        """
    )
    assert 0.95 <= waited < 4


def test_an_expired_call_is_revoked(pair: Pair) -> None:
    state, name = pair.run(
        """
        from datetime import datetime, timedelta, timezone
        r = call(add, 1, 1, expires=datetime.now(timezone.utc) - timedelta(seconds=5))
        try:
            r.get(timeout=10)
        except Exception as exc:
            answer = [r.state, type(exc).__name__]
        """
    )
    assert (state, name) == ("REVOKED", "TaskRevokedError")


@pytest.mark.parametrize("method", ["gzip", "zlib", "bzip2"])
def test_compressed_arguments_arrive(pair: Pair, method: str) -> None:
    assert pair.run(f"answer = call(echo, 'x' * 5000, compression={method!r}).get(timeout=10)") == "x" * 5000


def test_a_header_is_seen_by_the_task(pair: Pair) -> None:
    assert pair.run("answer = call(header, 'tenant', headers={'tenant': 'acme'}).get(timeout=10)") == "acme"


def test_an_ignored_result_is_not_stored(pair: Pair) -> None:
    task_id = pair.run("answer = call(mark, 'ignored', ignore_result=True).id")
    pair.site.await_true(lambda: any(line.endswith(" ignored") for line in pair.site.journal()))
    pair.run("call(add, 1, 1).get(timeout=10)")
    assert pair.run(f"answer = app.AsyncResult({task_id!r}).state") == "PENDING"
    pair.site.journal_path.write_text("")


def test_a_callback_gets_the_result(pair: Pair) -> None:
    assert (
        pair.run(
            """
            then = add.s(10).set(queue=Q)
            then.freeze()
            call(add, 1, 2, link=then)
            answer = app.AsyncResult(then.id).get(timeout=10)
            """
        )
        == 13
    )


def test_an_error_callback_is_called(pair: Pair) -> None:
    task_id = pair.run("answer = call(boom, 'x', link_error=on_error.s().set(queue=Q)).id")
    wanted = f"errback {task_id} ValueError"
    pair.site.await_true(lambda: any(line.endswith(wanted) for line in pair.site.journal()))


def test_progress_is_seen_while_the_task_runs(pair: Pair) -> None:
    go = Path(str(pair.site.journal_path) + ".go")
    go.unlink(missing_ok=True)
    task_id = pair.run("answer = call(progress).id")
    pair.site.await_true(lambda: pair.run(f"answer = app.AsyncResult({task_id!r}).state") == "PROGRESS")
    assert pair.run(f"answer = app.AsyncResult({task_id!r}).info") == {"done": 1}
    go.touch()
    assert pair.run(f"answer = app.AsyncResult({task_id!r}).get(timeout=10)") == "done"


def test_children_are_known_to_the_client(pair: Pair) -> None:
    ids, children, values = pair.run(
        """
        r = call(spawn, Q)
        ids = r.get(timeout=10)
        children = r.children
        answer = [ids, [c.id for c in children], [c.get(timeout=10) for c in children]]
        """
    )
    assert children == ids
    assert values == [2, 4]


def test_the_facts_of_an_extended_result_are_read(pair: Pair) -> None:
    facts = pair.run(
        """
        r = add.apply_async((2,), {"y": 3}, queue=Q)
        r.get(timeout=10)
        answer = [r.name, list(r.args), r.kwargs, r.retries, r.queue, bool(r.worker), str(r.date_done)[:2]]
        """
    )
    assert facts == ["interop_tasks.add", [2], {"y": 3}, 0, pair.queue, True, "20"]


# -- what only Celery's client has so far ------------------------------------------------------------------


@pytest.fixture
def to_us(site: InteropSite) -> Pair:
    """Celery's client and our worker."""
    site.worker("celeriac", "to-us", "-c", "2")
    return Pair(site, "celery", "to-us")


def test_a_chain_of_celery_runs_through_our_workers(to_us: Pair) -> None:
    code = """
        from celery import chain
        steps = chain(add.s(1, 2).set(queue=Q), add.s(10).set(queue=Q), add.s(100).set(queue=Q))
        r = steps.apply_async(queue=Q)
        answer = [r.get(timeout=10), r.parent.get(timeout=10), r.parent.parent.get(timeout=10)]
    """
    assert to_us.run(code) == [113, 13, 3]


def test_a_chain_of_celery_stops_at_an_error(to_us: Pair) -> None:
    code = """
        from celery import chain
        r = chain(boom.si("stop").set(queue=Q), mark.si("after-error").set(queue=Q)).apply_async(queue=Q)
        try:
            r.get(timeout=10)
        except ValueError as exc:
            answer = str(exc)
    """
    assert to_us.run(code) == "stop"
    assert not any("after-error" in line for line in to_us.site.journal())


def test_a_group_of_celery_is_joined(to_us: Pair) -> None:
    code = """
        from celery import group
        r = group(add.s(n, n).set(queue=Q) for n in range(50)).apply_async(queue=Q)
        answer = r.get(timeout=20)
    """
    assert to_us.run(code) == [2 * n for n in range(50)]


def test_limits_of_celery_hold_in_our_worker(to_us: Pair) -> None:
    code = """
        r = call(nap, 30, "limited", time_limit=1)
        try:
            r.get(timeout=10)
        except Exception as exc:
            answer = [type(exc).__name__, r.state]
    """
    assert to_us.run(code) == ["TimeLimitExceeded", "FAILURE"]


def test_a_revoked_task_of_ours_is_read_by_celery(site: InteropSite) -> None:
    task_id = site.client("celeriac").run("r = call(add, 1, 1); r.revoke(); answer = r.id", "revoked")
    site.worker("celeriac", "revoked", "-c", "1")
    code = f"""
        r = app.AsyncResult({task_id!r})
        try:
            r.get(timeout=10)
        except Exception as exc:
            answer = [type(exc).__name__, str(exc), r.state]
    """
    assert site.client("celery").run(code) == ["TaskRevokedError", "revoked", "REVOKED"]


# -- the same bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("extended", [False, True])
def test_results_are_stored_as_celery_stores_them(site: InteropSite, extended: bool) -> None:
    metas: dict[str, list[dict[str, Any]]] = {}
    for library in ("celery", "celeriac"):
        queue = f"bytes-{library}-{extended}"
        site.worker(library, queue, "-c", "1", result_extended=extended)
        ids = site.client("celery").run(
            """
            results = [call(add, 2, 3), call(boom, "x"), call(spawn, Q), call(retry_late)]
            [r.get(timeout=10, propagate=False) for r in results[:3]]
            import time
            while results[3].state != "RETRY":
                time.sleep(0.02)
            answer = [r.id for r in results]
            """,
            queue,
        )
        metas[library] = [site.meta(task_id) for task_id in ids]
    # In Celery the next attempt of a task is its own child, which makes a result tree without an end.
    assert metas["celery"][3].pop("children")[0][0][0] == metas["celery"][3]["task_id"]
    assert metas["celeriac"][3].pop("children") == []
    for theirs, ours in zip(metas["celery"], metas["celeriac"], strict=True):
        assert _shape(ours) == _shape(theirs)


def _shape(value: Any) -> Any:
    """What is the same in two runs: keys and types, and the values that do not hang on the run."""
    if isinstance(value, dict):
        changing = ("traceback", "date_done", "task_id", "worker", "queue", "kwargs", "args")
        return {key: type(value[key]) if key in changing else _shape(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_shape(item) for item in value]
    return len(value) if isinstance(value, str) and len(value) == 36 else value


# -- side by side ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("saves", "restores"), [("celery", "celeriac"), ("celeriac", "celery")])
def test_a_saved_group_is_restored_by_the_other(site: InteropSite, saves: str, restores: str) -> None:
    site.client(saves).run("""
        members = [app.AsyncResult("a"), app.GroupResult("inner", [app.AsyncResult("b")])]
        app.GroupResult("saved", members, parent=app.AsyncResult("p")).save()
    """)
    found = site.client(restores).run("""
        group = app.GroupResult.restore("saved")
        answer = [type(group).__name__, group.id, str(group.parent), repr(group.results)]
        group.delete()
    """)
    inner = "[<AsyncResult: a>, <GroupResult: inner [b]>]"
    assert found == ["GroupResult", "saved", "p", inner]
    import redis

    with redis.Redis.from_url(site.server.url()) as connection:
        assert not connection.exists("celery-taskset-meta-saved")


def test_priorities_of_both_clients_are_kept_by_both_workers(site: InteropSite) -> None:
    for client, worker in (("celery", "celeriac"), ("celeriac", "celery"), ("celeriac", "celeriac")):
        queue = f"priority-{client}-{worker}"
        site.journal_path.write_text("")
        site.client(client).run("for p in (9, 6, 3, 0): call(mark, f'p{p}', priority=p)", queue)
        started = site.worker(worker, queue, "-c", "1", "-P", "solo" if worker == "celery" else "prefork")
        site.await_true(lambda: len(site.journal()) == 4)
        assert [line.split()[1] for line in site.journal()] == ["p0", "p3", "p6", "p9"], (client, worker)
        started.signal(signal.SIGQUIT)


def test_both_kinds_of_worker_share_one_queue(site: InteropSite) -> None:
    site.journal_path.write_text("")
    site.worker("celery", "shared", "-c", "2", "-P", "threads", worker_prefetch_multiplier=1)
    site.worker("celeriac", "shared", "-c", "2")
    ids = []
    for library in ("celery", "celeriac"):
        ids += site.client(library).run(
            f"answer = [call(mark, '{library}-%d' % n).id for n in range(400)]", "shared"
        )
    values = site.client("celery").run(
        f"answer = [app.AsyncResult(i).get(timeout=30) for i in {ids[:400]!r}]"
    ) + site.client("celeriac").run(f"answer = [app.AsyncResult(i).get(timeout=30) for i in {ids[400:]!r}]")
    wanted = [f"{library}-{n}" for library in ("celery", "celeriac") for n in range(400)]
    assert values == wanted
    lines = [line.split() for line in site.journal()]
    assert sorted(text for _, text in lines) == sorted(wanted), "lost or doubled"
    workers = Counter(library for library, _ in lines)
    assert set(workers) == {"celery", "celeriac"}, workers


def test_a_delay_held_in_the_store_may_end_at_either_worker(site: InteropSite) -> None:
    site.journal_path.write_text("")
    site.worker("celery", "held", "-c", "2", "-P", "threads", worker_prefetch_multiplier=1)
    site.worker("celeriac", "held", "-c", "1")
    client = Client(site, "celeriac")
    try:
        waits = client.run(
            """
            import time
            sent = time.time()
            results = [call(when, countdown=1) for _ in range(40)]
            answer = [r.get(timeout=20) - sent for r in results]
            """,
            "held",
        )
    finally:
        client.close()
    assert min(waits) >= 0.95
    assert max(waits) < 6


def test_what_celerys_workers_hold_is_left_alone(alone: InteropSite) -> None:
    """Celery's unacknowledged messages are its own affair, also those of a worker that died."""
    site = alone
    theirs = site.worker("celery", "held-by-celery", "-c", "1", "-P", "threads", task_acks_late=True)
    site.client("celery").run("for n in range(3): call(nap, 60, f'nap{n}')", "held-by-celery")
    site.await_true(lambda: site.journal() == ["celery start nap0"])
    site.await_true(lambda: site.server.command("HLEN", "unacked") == b":3\r\n")
    theirs.kill()
    site.worker("celeriac", "held-by-celery", "-c", "1")
    assert site.client("celeriac").run("answer = call(add, 1, 1).get(timeout=10)", "held-by-celery") == 2
    assert site.server.command("HLEN", "unacked") == b":3\r\n"
    assert site.journal() == ["celery start nap0"]


# -- signed messages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sender", "runner"), [("celery", "celeriac"), ("celeriac", "celery")])
def test_messages_signed_with_certificates(
    site: InteropSite, tmp_path: Path, sender: str, runner: str
) -> None:
    """Each side signs with its own key, and reads what the other signed: arguments and results."""
    from tests import certificates

    queue = f"signed-{runner}"
    signed = {"task_serializer": "auth", "accept_content": ["auth"], "result_serializer": "auth"}
    conf = {name: {**certificates.make(tmp_path, name), **signed} for name in ("celery", "celeriac")}
    worker = site.worker(runner, queue, "-c", "1", **conf[runner])
    client = Client(site, sender, **conf[sender])
    try:
        code = """
            good = call(add, 2, 3)
            bad = call(boom, 'no')
            bad.get(timeout=20, propagate=False)
            answer = [good.get(timeout=20), type(bad.result).__name__, str(bad.result)]
        """
        assert client.run(code, queue) == [5, "ValueError", "no"]
        unsigned = site.client("celeriac").run("answer = call(mark, 'forged').id", queue)
        assert client.run("answer = call(echo, 'after').get(timeout=20)", queue) == "after"
    finally:
        client.close()
    assert not any("forged" in line for line in site.journal())
    if runner == "celeriac":
        assert "ContentDisallowed" in worker.await_line("now a dead letter")
        assert unsigned
