"""``start_worker``: a real worker in the test's process, and nothing left of it afterwards."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac import Celeriac, current_app, signals
from celeriac.contrib.conformance.helpers import eventually
from celeriac.contrib.testing import worker as testing
from celeriac.contrib.testing.tasks import ping
from celeriac.contrib.testing.worker import start_worker
from celeriac.exceptions import ImproperlyConfigured
from celeriac.utils.log import get_task_logger


def make_app(broker: str) -> Celeriac:
    app = Celeriac("contrib", broker=broker, set_as_current=False)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="where")
    def where() -> tuple[int, str]:
        return os.getpid(), threading.current_thread().name

    @app.task(name="aadd")
    async def aadd(x: int, y: int) -> int:
        return x + y

    @app.task(name="again", bind=True, default_retry_delay=0)
    def again(self: object) -> int:
        retries: int = self.request.retries  # type: ignore[attr-defined]
        if retries < 2:
            raise self.retry(countdown=0)  # type: ignore[attr-defined]
        return retries

    return app


@pytest.fixture
def app() -> Iterator[Celeriac]:
    with make_app(f"memory://{uuid.uuid4().hex}") as app:
        yield app


@pytest.mark.parametrize("pool", ["solo", "threads", "asyncio"])
def test_a_worker_in_a_thread_runs_tasks(app: Celeriac, pool: str) -> None:
    with start_worker(app, pool=pool, concurrency=2) as worker:
        assert app.tasks["add"].delay(2, 3).get(timeout=10) == 5
        assert app.tasks["aadd"].delay(2, 3).get(timeout=10) == 5
        assert app.tasks["again"].delay().get(timeout=10) == 2
        assert app.tasks["where"].delay().get(timeout=10)[0] == os.getpid()
        assert [node.name for node in app.coordinator.nodes()] == [worker.hostname]
    assert app.coordinator.nodes() == [], "it has signed off"
    result = app.tasks["add"].delay(2, 3)
    assert not result.ready()


@pytest.mark.parametrize("pool", ["solo", "threads", "asyncio", "prefork"])
def test_each_run_of_a_coroutine_has_its_own_request(app: Celeriac, tmp_path: Path, pool: str) -> None:
    if pool == "prefork":
        app.conf.broker_url = f"sqlite:///{tmp_path}/t.db"

    @app.task(name="who", bind=True)
    async def who(self: object) -> str:
        found: str = self.request.id  # type: ignore[attr-defined]
        return found

    with start_worker(app, pool=pool):
        results = [app.tasks["who"].delay() for _ in range(3)]
        assert [result.get(timeout=10) for result in results] == [result.id for result in results]


def test_the_prefork_pool_runs_in_processes_of_its_own(tmp_path: Path) -> None:
    with make_app(f"sqlite:///{tmp_path}/t.db") as app, start_worker(app, pool="prefork") as worker:
        pid, _ = app.tasks["where"].delay().get(timeout=10)
        assert pid not in (os.getpid(), worker.pid)
        assert app.tasks["add"].delay(2, 3).get(timeout=10) == 5


def test_a_process_pool_cannot_share_the_memory(app: Celeriac) -> None:
    with pytest.raises(ImproperlyConfigured, match="memory://"), start_worker(app, pool="prefork"):
        pass
    with pytest.raises(ImproperlyConfigured, match="patched"), start_worker(app, pool="gevent"):
        pass


def test_nothing_is_left_of_a_stopped_worker(app: Celeriac) -> None:
    def live() -> None:
        with start_worker(app):
            app.tasks["aadd"].delay(1, 2).get(timeout=10)

    live()  # what is opened once stays: the thread that calls subscribers
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        live()
    eventually(lambda: threading.active_count() <= threads)
    assert len(os.listdir("/proc/self/fd")) <= files


def test_the_application_is_current_inside_and_only_there(app: Celeriac) -> None:
    before = current_app._get_current_object()
    seen = []

    @app.task(name="look")
    def look() -> None:
        seen.append(current_app._get_current_object())

    with start_worker(app):
        look.delay().get(timeout=10)
        assert current_app._get_current_object() is app
        assert ping.delay().get(timeout=10) == "pong"
    assert seen == [app]
    assert current_app._get_current_object() is before


def test_tasks_made_later_are_known(app: Celeriac) -> None:
    with start_worker(app) as worker:

        @app.task(name="mul")
        def mul(x: int, y: int) -> int:
            return x * y

        worker.reload()
        assert mul.delay(4, 4).get(timeout=10) == 16


def test_the_ping_goes_to_a_queue_of_the_worker(app: Celeriac) -> None:
    with start_worker(app, queues="other,third", hostname="w7@here") as worker:
        assert worker.options.queues == ["other", "third"]
        assert worker.hostname == "w7@here"
        assert app.tasks["add"].apply_async((1, 1), queue="third").get(timeout=10) == 2


def test_without_results_there_is_no_ping() -> None:
    with Celeriac("quiet", broker=f"memory://{uuid.uuid4().hex}", backend="disabled://") as app:
        done = threading.Event()

        @app.task(name="note")
        def note() -> None:
            done.set()

        with start_worker(app):
            note.delay()
            assert done.wait(10)


def test_the_worker_signals_are_sent(app: Celeriac) -> None:
    seen = []

    def note(signal: object = None, **_: object) -> None:
        seen.append(signal)

    expected = [
        testing.test_worker_starting,
        signals.worker_init,
        signals.worker_ready,
        testing.test_worker_started,
        signals.worker_shutdown,
        testing.test_worker_stopped,
    ]
    for signal in expected:
        signal.connect(note, weak=False)
    try:
        with start_worker(app, perform_ping_check=False):
            pass
    finally:
        for signal in expected:
            signal.disconnect(note)
    assert seen == expected


def test_options_of_celery_that_need_nothing_are_taken_and_others_named(app: Celeriac) -> None:
    with start_worker(app, without_heartbeat=True, without_mingle=True, without_gossip=True):
        pass
    with pytest.raises(TypeError, match="concurency"), start_worker(app, concurency=2):
        pass


def test_a_busy_worker_that_does_not_stop_is_an_error(app: Celeriac) -> None:
    started, release = threading.Event(), threading.Event()

    @app.task(name="hang")
    def hang() -> None:
        started.set()
        release.wait(30)

    with pytest.raises(RuntimeError, match="shutdown_timeout"), start_worker(app, shutdown_timeout=0.05):  # noqa: PT012
        hang.delay()
        assert started.wait(10)
    release.set()


def test_an_error_of_the_test_goes_through(app: Celeriac) -> None:
    with pytest.raises(ZeroDivisionError), start_worker(app):
        raise ZeroDivisionError
    assert app.coordinator.nodes() == []


def test_what_tasks_log_can_be_looked_at(app: Celeriac, caplog: pytest.LogCaptureFixture) -> None:
    app.add_task(lambda: get_task_logger("contrib.sale").info("sold"), name="sell")
    caplog.set_level("INFO")
    with start_worker(app):
        app.tasks["sell"].delay().get(timeout=10)
    assert caplog.messages == ["sold"], "and nothing of the worker's own"


def test_a_log_file_is_written_for_the_block(app: Celeriac, tmp_path: Path) -> None:
    with start_worker(app, loglevel="info", logfile=str(tmp_path / "log")):
        app.tasks["add"].delay(2, 3).get(timeout=10)
    assert "succeeded in" in (tmp_path / "log").read_text()
