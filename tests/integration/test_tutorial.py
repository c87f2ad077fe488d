"""A published Celery tutorial, step by step, with ``celery`` replaced by ``celeriac``.

The code in ``tests/tutorial/`` is that of the article as it stands ("How to Build a Task Queue with Celery
Python in 13 Steps", tech-insider.org, April 2026). :class:`Project` writes it to a folder and changes what a
migration changes: the imports, and the addresses of the servers.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.processes import LoggedProcess, wait_until
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.timeout(100)

ARTICLE = Path(__file__).parent.parent / "tutorial"
ROOT = Path(__file__).parent.parent.parent


# -- the tutorial's files, commands and servers ---------------------------------------------------------


class Project:
    """The folder ``celery-demo`` of the article on one store, and what was started in it."""

    def __init__(self, folder: Path, broker: str, backend: str, http_url: str) -> None:
        self.folder = folder
        self.broker, self.backend, self.http_url = broker, backend, http_url
        self.workers: list[LoggedProcess] = []
        path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
        self.env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
        (folder / "myapp").mkdir(parents=True)
        (folder / "myapp" / "__init__.py").touch()

    def migrated(self, name: str, queue_from: str = "celeriac") -> str:
        """A file of the article after the migration."""
        text = subprocess.run(
            ["sed", "-E", migration()],
            input=(ARTICLE / f"{name}.txt").read_text(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        text = text.replace("from celeriac import Queue", f"from {queue_from} import Queue")
        text = text.replace("redis://localhost:6379/0", self.broker)
        text = text.replace("redis://localhost:6379/1", self.backend)
        return text.replace("https://httpbin.org", self.http_url).replace(
            "https://api.example.com", self.http_url
        )

    def write(self, path: str, *names: str, extra: str = "", queue_from: str = "celeriac") -> None:
        """Write a module of these files of the article, with a test's own lines after them."""
        target = self.folder / path
        target.parent.mkdir(exist_ok=True)
        target.write_text("\n\n".join([*(self.migrated(name, queue_from) for name in names), extra]))

    def worker(self, *arguments: str) -> LoggedProcess:
        """``celeriac -A myapp.celery_app worker ...`` once it is ready."""
        worker = LoggedProcess(
            [*COMMAND, "-A", "myapp.celery_app", "worker", *arguments], self.env, self.folder
        )
        self.workers.append(worker)
        worker.await_line("ready.")
        return worker

    def start(self, *arguments: str) -> LoggedProcess:
        """``celeriac -A myapp.celery_app ...`` as a process of its own."""
        started = LoggedProcess([*COMMAND, "-A", "myapp.celery_app", *arguments], self.env, self.folder)
        self.workers.append(started)
        return started

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in the folder and return what it writes."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, text=True, capture_output=True, timeout=60
        )
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}\n{self.log}"
        return done.stdout

    def celeriac(self, *arguments: str) -> str:
        return self.run(*COMMAND, "-A", "myapp.celery_app", *arguments)

    def python(self, code: str) -> Any:
        """Run code that prints one line of JSON, after the article's imports; return it."""
        header = "import json\nfrom myapp.celery_app import app\nfrom myapp.tasks import *\n"
        return json.loads(self.run(sys.executable, "-c", header + code))

    @property
    def log(self) -> str:
        return "\n\n".join(worker.log for worker in self.workers)

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.signal(signal.SIGQUIT)
                try:
                    worker.process.wait(10)
                except subprocess.TimeoutExpired:
                    worker.kill()


@functools.cache
def migration() -> str:
    """The script of the command by which docs/migrating.md changes the imports."""
    found = re.search(r"sed -i -E '(.+)' \{\}", (ROOT / "docs" / "migrating.md").read_text())
    assert found
    return found[1]


def _command() -> list[str]:
    script = Path(sys.executable).with_name("celeriac")
    return [str(script)] if script.exists() else [sys.executable, "-m", "celeriac"]


COMMAND = _command()


class Web(http.server.BaseHTTPRequestHandler):
    """In httpbin's place. ``/together`` answers nobody before 100 requests are there at the same time;
    ``/flaky`` fails twice; ``/broken`` fails always; ``/hang`` answers when it is let go."""

    together: ClassVar[threading.Barrier]
    let_go: ClassVar[threading.Event]
    failures: ClassVar[list[int]]

    def do_GET(self) -> None:
        if self.path == "/together":
            try:
                self.together.wait(15)
            except threading.BrokenBarrierError:
                return self._answer(503, {})
        if self.path == "/hang":
            self.let_go.wait(60)
        return self._answer(200, {"url": self.path})

    def do_POST(self) -> None:
        data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/broken" or (self.path == "/flaky" and len(self.failures) < 2):
            self.failures.append(500)
            return self._answer(500, {})
        return self._answer(200, {"echo": data})

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Stay silent."""


class WebServer(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


@pytest.fixture
def web() -> Iterator[str]:
    """The URL of a local HTTP server."""
    Web.together, Web.failures, Web.let_go = threading.Barrier(100), [], threading.Event()
    with WebServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        Web.let_go.set()
        server.shutdown()


@pytest.fixture(params=["sqlite", "redis"])
def project(request: pytest.FixtureRequest, tmp_path: Path, web: str) -> Iterator[Project]:
    """An empty project; broker and results lie in two databases, as in the article."""
    if request.param == "sqlite":
        broker, backend = f"sqlite:///{tmp_path}/queue.db", f"sqlite:///{tmp_path}/results.db"
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        broker, backend = server.url(0), server.url(1)
    project = Project(tmp_path / "celery-demo", broker, backend, web)
    yield project
    project.close()


def basic(project: Project, extra: str = "") -> Project:
    """The project after step 3."""
    project.write("myapp/celery_app.py", "celery_app.py")
    project.write("myapp/tasks.py", "tasks.py", extra=extra)
    return project


def routed(project: Project, extra: str = "", queue_from: str = "celeriac") -> Project:
    """The project after step 5."""
    project.write("myapp/celery_app.py", "celery_app.py", "routing.py", queue_from=queue_from)
    project.write("myapp/tasks.py", "tasks.py", extra=extra)
    return project


def process_number(line: str) -> str:
    """Which process of a worker wrote this log line."""
    found = re.search(r"/([^\]]+)\]", line)
    assert found, line
    return found[1]


# -- steps 1 to 4: a worker, and calls ---------------------------------------------------------------------


def test_steps_1_to_4_call_tasks_and_read_their_results(project: Project) -> None:
    basic(project)
    worker = project.worker("--loglevel=info")
    banner = worker.log
    assert re.search(r"app: +myapp\b", banner)
    assert re.search(rf"broker: +{re.escape(project.broker)}$", banner, re.MULTILINE)
    assert re.search(rf"results: +{re.escape(project.backend)}$", banner, re.MULTILINE)
    assert re.search(rf"concurrency: +{os.cpu_count()} \(prefork\)", banner)
    assert re.search(r"\[queues\]\n +celery\b", banner)
    for task in ("add_numbers", "fetch_url", "process_data", "send_email"):
        assert f"  myapp.tasks.{task}" in worker.lines
    # The article sends its last task to a queue that no worker of it consumes.
    project.worker("-Q", "default", "-n", "default@%h", "--loglevel=info")

    project.write("calls.py", "calls.py")
    started = time.monotonic()
    output = project.run(sys.executable, "calls.py").splitlines()
    assert time.monotonic() - started >= 5, "the countdown was not kept"
    assert re.fullmatch(r"Task ID: [0-9a-f-]{36}", output[0])
    assert output[1] in ("Task state: PENDING", "Task state: SUCCESS")
    assert output[2] == "Result: 10"
    email_id = output[3].removeprefix("Email task ID: ")
    fetched = {"url": f"{project.http_url}/get", "status_code": 200, "content_length": 15}
    assert output[4] == f"Fetch result: {fetched}"

    worker.await_line(f"Task myapp.tasks.send_email[{email_id}] succeeded in 2.")
    assert "Email sent to [email protected]: Welcome!" in worker.log
    assert json.loads(project.celeriac("result", email_id, "--json"))["result"]["status"] == "sent"
    assert worker.stop() == 0


def test_a_task_is_pending_until_a_worker_comes(project: Project) -> None:
    basic(project)
    sent = project.python(
        "r = process_data.delay(7); print(json.dumps([r.id, r.state, r.ready()]))",
    )
    assert sent[1:] == ["PENDING", False]
    worker = project.worker("--loglevel=info")
    result = project.python(f"print(json.dumps(app.AsyncResult({sent[0]!r}).get(timeout=20)))")
    assert result == {"dataset_id": 7, "rows_processed": 10000}
    assert "Processing dataset 7..." in worker.log


# -- step 5: queues -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_from", ["celeriac", "kombu"])
def test_step_5_gives_each_queue_its_workers(project: Project, queue_from: str) -> None:
    routed(project, queue_from=queue_from)
    workers = {
        "default": project.worker("-Q", "default", "--loglevel=info", "-c", "4"),
        "email": project.worker("-Q", "email", "--loglevel=info", "-c", "2"),
        "heavy": project.worker("-Q", "heavy", "--loglevel=info", "-c", "1", "--max-memory-per-child=500000"),
    }
    sent = project.python(
        "r = [add_numbers.delay(1, 2), send_email.delay('a', 'b', 'c'), process_data.delay(1)]\n"
        f"r += [fetch_url.delay('{project.http_url}/get')]\n"
        "[x.get(timeout=20) for x in r]\n"
        "print(json.dumps([x.id for x in r]))"
    )
    expected = {
        "add_numbers": "default",
        "send_email": "email",
        "process_data": "heavy",
        "fetch_url": "default",
    }
    for task_id, (task, queue) in zip(sent, expected.items(), strict=True):
        workers[queue].await_line(f"Task myapp.tasks.{task}[{task_id}] succeeded")
    # All three have the name celery@host, as in the article.
    assert "3 nodes online" in project.celeriac("status")
    for queue, concurrency in (("default", 4), ("email", 2), ("heavy", 1)):
        assert re.search(rf"concurrency: +{concurrency} \(prefork\)", workers[queue].log)
        assert re.search(rf"\[queues\]\n +{queue}\b", workers[queue].log)


def test_step_5_without_q_a_worker_takes_all_queues(project: Project) -> None:
    routed(project)
    worker = project.worker("--loglevel=info")
    assert [line.split()[0] for line in banner_section(worker, "[queues]")] == ["default", "email", "heavy"]
    assert project.python(
        "r = [add_numbers.delay(1, 2), send_email.delay('a', 'b', 'c')]\n"
        "print(json.dumps([x.get(timeout=20) for x in r]))"
    ) == [3, {"status": "sent", "to": "a"}]


def banner_section(worker: LoggedProcess, title: str) -> list[str]:
    lines = worker.lines[worker.lines.index(title) + 1 :]
    return [line.strip() for line in lines[: lines.index("")]]


# -- step 6: periodic tasks ---------------------------------------------------------------------------------


def test_step_6_periodic_tasks_run_however_many_beats_there_are(project: Project) -> None:
    """The article warns of a second beat; here it stands by. 30 seconds are made one."""
    project.write("myapp/celery_app.py", "celery_app.py", "beat.py")
    project.write("myapp/tasks.py", "tasks.py", "beat_tasks.py")
    module = project.folder / "myapp" / "celery_app.py"
    module.write_text(module.read_text().replace('"schedule": 30.0', '"schedule": 1.0'))
    worker = project.worker("--loglevel=info")
    beats = [project.start("beat", "--loglevel=info") for _ in range(2)]
    wait_until(lambda: len(re.findall(r"health_check\[.+succeeded", worker.log)) >= 2)
    assert sorted("beat: leading" in beat.log for beat in beats) == [False, True]
    names = "[view.name for view in app.schedule.list() if view.source == 'code']"
    assert set(project.python(f"print(json.dumps({names}))")) >= {
        "health-check-every-30-seconds", "cleanup-every-hour", "daily-report-midnight",
    }  # fmt: skip
    report = "app.schedule.run('daily-report-midnight').get(timeout=20)"
    assert project.python(f"print(json.dumps({report}))") == {"report_type": "summary", "generated": True}
    for beat in beats:
        assert beat.stop() == 0
    sent = sum(beat.log.count("Sending due task health-check-every-30-seconds") for beat in beats)
    done = re.compile(r"health_check\[([^]]+)\] succeeded")
    wait_until(lambda: len(done.findall(worker.log)) >= sent)
    assert len(set(done.findall(worker.log))) == len(done.findall(worker.log)) == sent
    assert not list(project.folder.glob("celerybeat-schedule*"))


# -- step 8: errors -----------------------------------------------------------------------------------------

STEP_8 = '''
import os


def process_complex_data(data):
    """What the article leaves to the reader: fails as the data say."""
    if data == "bad":
        raise ValueError("cannot be processed")
    if data == "flaky" and not os.path.exists("was-here"):
        open("was-here", "w").close()
        raise ConnectionError("try again")
    return {"processed": data}


@app.task(bind=True, max_retries=1, default_retry_delay=0.1, on_failure=on_task_failure)
def alerting(self):
    raise self.retry(exc=ConnectionError("gone for good"))


@app.task
def alert(task_id):
    """An error callback."""
    print(f"alert for {task_id}")
'''


@pytest.fixture
def errors(project: Project) -> Project:
    project.write("myapp/celery_app.py", "celery_app.py")
    project.write("myapp/tasks.py", "tasks.py", "errors.py", extra=STEP_8)
    return project


def test_step_8_an_api_call_is_retried_with_backoff(errors: Project) -> None:
    worker = errors.worker("--loglevel=info")
    answer = errors.python(
        f"r = reliable_api_call.delay('{errors.http_url}/flaky', {{'n': 1}})\n"
        "value = r.get(timeout=20)\nprint(json.dumps([r.id, r.state, value]))"
    )
    assert answer[1:] == ["SUCCESS", {"echo": {"n": 1}}]
    retries = [line for line in worker.lines if f"[{answer[0]}] retry: Retry in" in line]
    assert len(retries) == 2
    assert "500 Server Error" in retries[0]
    waits = [int(re.search(r"Retry in (\d+)s", line)[1]) for line in retries]  # type: ignore[index]
    assert waits[0] <= 1
    assert waits[1] <= 2, "with jitter a wait is at most its backoff"


def test_step_8_the_last_retry_is_a_failure_with_the_error(errors: Project) -> None:
    errors.worker("--loglevel=info")
    answer = errors.python(
        f"r = reliable_api_call.apply_async(('{errors.http_url}/broken', {{}}), retries=5)\n"
        "r.get(timeout=20, propagate=False)\n"
        "print(json.dumps([r.state, type(r.result).__module__, type(r.result).__name__, str(r.result)]))"
    )
    assert answer[:3] == ["FAILURE", "requests.exceptions", "HTTPError"]
    assert "500 Server Error" in answer[3]


def test_step_8_permanent_and_transient_errors_are_told_apart(errors: Project) -> None:
    worker = errors.worker("--loglevel=info")
    answer = errors.python(
        "r = [task_with_callback.delay(x) for x in ('good', 'bad', 'flaky')]\n"
        "print(json.dumps([x.get(timeout=20) for x in r]))"
    )
    assert answer == [
        {"processed": "good"},
        {"error": "cannot be processed", "permanent": True},
        {"processed": "flaky"},
    ]
    assert "Permanent failure for data: bad" in worker.log
    assert len([line for line in worker.lines if "retry: Retry in 1s" in line]) == 1


def test_step_8_a_failure_is_told_to_its_handlers(errors: Project) -> None:
    worker = errors.worker("--loglevel=info")
    failed = errors.python(
        "r = alerting.apply_async(link_error=alert.s())\n"
        "r.get(timeout=20, propagate=False)\n"
        "print(json.dumps([r.id, r.state]))"
    )
    assert failed[1] == "FAILURE"
    worker.await_line(f"Task {failed[0]} permanently failed: gone for good")
    worker.await_line(f"alert for {failed[0]}")


def test_step_8_what_failed_for_good_can_be_kept_and_sent_again(errors: Project) -> None:
    errors.write("myapp/celery_app.py", "celery_app.py", extra="app.conf.dead_letter_on_failure = True")
    worker = errors.worker("--loglevel=info")
    failed = errors.python(
        "r = alerting.delay()\nr.get(timeout=20, propagate=False)\nprint(json.dumps([r.id, r.state]))"
    )
    (letter,) = json.loads(errors.celeriac("dead", "list", "--json"))
    assert (letter["reason"], letter["task_id"]) == ("failed", failed[0])
    assert "gone for good" in letter["detail"]
    assert "permanently failed" in worker.log
    worker.stop()
    errors.celeriac("dead", "replay", "--all", "--yes")
    again = errors.worker("--loglevel=info")
    again.await_line(f"Task {failed[0]} permanently failed: gone for good")


# -- step 11: pools -----------------------------------------------------------------------------------------

STEP_11 = '''
import os


@app.task
def process_id(n):
    return os.getpid()


@app.task
def grow(mib):
    """Take memory and keep it."""
    kept.append(b"x" * (mib << 20))
    return os.getpid()


kept = []
'''


def test_step_11_processes_are_replaced_after_1000_tasks_or_200_mb(project: Project) -> None:
    basic(project, STEP_11)
    worker = project.worker(
        "--pool=prefork",
        "--concurrency=4",
        "--max-memory-per-child=200000",
        "--max-tasks-per-child=1000",
        "--loglevel=info",
    )
    pids = project.python(
        "from collections import Counter\n"
        "results = process_id.enqueue_many([(n,) for n in range(4100)])\n"
        "print(json.dumps(Counter(r.get(timeout=60) for r in results)))"
    )
    assert sum(pids.values()) == 4100
    assert len(pids) > 4
    assert max(pids.values()) <= 1000
    grown = project.python("print(json.dumps([grow.delay(250).get(timeout=20) for _ in range(3)]))")
    assert len(set(grown)) == 3, "a process went on with more memory than allowed"
    assert "ERROR" not in worker.log


def test_step_11_a_hundred_greenlets_wait_at_the_same_time(project: Project) -> None:
    basic(project)
    worker = project.worker("--pool=gevent", "--concurrency=100", "--loglevel=info")
    codes = project.python(
        f"results = [fetch_url.delay('{project.http_url}/together') for _ in range(100)]\n"
        "print(json.dumps([r.get(timeout=30)['status_code'] for r in results]))"
    )
    assert codes == [200] * 100, "the server did not see 100 requests at once"
    assert worker.stop() == 0
    assert "exited with code" not in worker.log


def test_step_11_a_mixed_workload_has_two_workers(project: Project) -> None:
    routed(project)
    heavy = project.worker("-Q", "heavy", "--pool=prefork", "--concurrency=2", "--loglevel=info")
    light = project.worker("-Q", "email,default", "--pool=gevent", "--concurrency=50", "--loglevel=info")
    started = time.monotonic()
    project.python(
        "r = [send_email.delay(str(n), 'b', 'c') for n in range(40)]\n"
        "r += [process_data.delay(n) for n in (1, 2)]\n"
        "[x.get(timeout=40) for x in r]\nprint(0)"
    )
    assert time.monotonic() - started < 20, "80 seconds of e-mails did not run side by side"
    assert len({line for line in light.lines if "send_email" in line and "succeeded" in line}) == 40
    assert len({line for line in heavy.lines if "process_data" in line and "succeeded" in line}) == 2


# -- step 12: tests ---------------------------------------------------------------------------------------


def test_step_12_the_tests_of_the_article_pass_without_a_server(tmp_path: Path) -> None:
    nowhere = "redis://127.0.0.1:1"
    project = Project(tmp_path / "celery-demo", f"{nowhere}/0", f"{nowhere}/1", nowhere)
    basic(project)
    project.write("tests/test_tasks.py", "test_tasks.py")
    output = project.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/", "-v")
    assert "5 passed" in output


# -- the advanced tips ------------------------------------------------------------------------------------

TIPS = """\
import json
from myapp.celery_app import app
from myapp.tasks import *
url_list = ["{web}/1", "{web}/22", "{web}/333"]
"""
NOTIFY = 'send_email.s("[email protected]"'
"""How the third step of the article's pipeline is written: the result before it is one argument too many."""


def tips(project: Project, *, corrected: bool) -> str:
    """The article's workflows as a program that prints their results."""
    code = project.migrated("canvas.py")
    if corrected:
        code = code.replace(NOTIFY, NOTIFY.replace(".s(", ".si("))
    for name in ("pipeline", "parallel_jobs", "batch"):
        code = code.replace(f"{name}.delay()", f"{name} = {name}.delay()")
    answers = (
        "\nprint(json.dumps([r.get(timeout=60) for r in (pipeline, parallel_jobs, batch, *batch.parent)]))"
    )
    return TIPS.format(web=project.http_url) + code + answers


def test_the_workflows_of_the_tips_run(project: Project) -> None:
    compression = '\napp.conf.task_compression = "gzip"\n'
    project.write("myapp/celery_app.py", "celery_app.py", extra=compression)
    project.write("myapp/tasks.py", "tasks.py", "periodic.py")
    worker = project.worker("--loglevel=info", "-P", "threads", "-c", "8")
    project.folder.joinpath("tips.py").write_text(tips(project, corrected=True))
    pipeline, jobs, report, *fetched = json.loads(project.run(sys.executable, "tips.py"))
    assert pipeline == {"status": "sent", "to": "[email protected]"}
    assert jobs == [{"dataset_id": number, "rows_processed": 10000} for number in range(1, 6)]
    assert report == {"report_type": "batch_complete", "generated": True}
    assert [answer["url"].rpartition("/")[2] for answer in fetched] == ["1", "22", "333"]
    assert "Email sent to [email protected]: Pipeline complete" in worker.log


def test_the_pipeline_as_printed_fails_where_it_is_sent(project: Project) -> None:
    project.write("myapp/celery_app.py", "celery_app.py")
    project.write("myapp/tasks.py", "tasks.py", "periodic.py")
    script = project.folder / "tips.py"
    script.write_text(tips(project, corrected=False))
    failed = subprocess.run(
        [sys.executable, "tips.py"], cwd=project.folder, env=project.env, text=True, capture_output=True
    )
    line = script.read_text().splitlines().index("pipeline = pipeline.delay()") + 1
    assert f'tips.py", line {line}, in <module>' in failed.stderr
    assert "TypeError: step 3 of the chain would call myapp.tasks.send_email(" in failed.stderr
    assert ".si(...)" in failed.stderr
    assert "Purged 0 messages" in project.celeriac("purge", "-f")


# -- the article's cheat sheet ------------------------------------------------------------------------------


def test_the_commands_of_the_cheat_sheet(project: Project) -> None:
    basic(project)
    first = project.celeriac("call", "myapp.tasks.add_numbers", "--args=[2,3]").strip()
    assert re.fullmatch(r"[0-9a-f-]{36}", first)
    assert "Purged 1 message" in project.celeriac("purge", "-f")
    project.worker("--loglevel=info")
    assert "pong" in project.celeriac("inspect", "ping")
    assert "1 node online" in project.celeriac("status")
    second = project.celeriac("call", "myapp.tasks.add_numbers", "--args=[2,3]").strip()
    assert project.celeriac("result", second, "--timeout=10").strip() == "5"
    report = project.celeriac("report")
    assert "result_expires: 86400" in report
    assert "celeriac:" in report
    # The file of step 2 is a program as well.
    assert "1 node online" in project.run(sys.executable, "-m", "myapp.celery_app", "status")


def test_step_13_the_commands_of_the_service_file(project: Project) -> None:
    """``%n`` in the file is systemd's: what reaches the command line is %n only if the file says %%n."""
    basic(project)
    files = ("--pidfile=run/%n.pid", "--logfile=log/%n%I.log")
    flags = ("--loglevel=INFO", "--concurrency=4", "--max-memory-per-child=200000")
    try:
        assert "worker1@" in project.celeriac("multi", "start", "worker1", *files, *flags)
        sent = project.celeriac("call", "myapp.tasks.add_numbers", "--args=[2,3]").strip()
        assert project.celeriac("result", sent, "--timeout=20").strip() == "5"
        project.celeriac("multi", "restart", "worker1", *files, *flags)
        sent = project.celeriac("call", "myapp.tasks.add_numbers", "--args=[2,3]").strip()
        assert project.celeriac("result", sent, "--timeout=20").strip() == "5"
    finally:
        project.run(*COMMAND, "multi", "stopwait", "worker1", files[0])
    assert not list((project.folder / "run").iterdir())


HELD = '''
import os


@app.task
def held():
    """Wait until the test has looked."""
    while not os.path.exists("go"):
        time.sleep(0.02)
'''


def test_the_cheat_sheet_looks_at_workers_and_stops_them(project: Project) -> None:
    basic(project, HELD)
    project.write("myapp/celery_app.py", "celery_app.py", "beat.py")
    worker = project.worker("--loglevel=info", "-c", "1")
    beat = project.start("beat", "--loglevel=info")
    beat.await_line("beat: leading")
    first, second = (project.celeriac("call", "myapp.tasks.held").strip() for _ in range(2))
    worker.await_line(f"held[{first}] received")
    active = project.celeriac("inspect", "active")
    assert first in active
    assert second not in active
    assert "- empty -" in project.celeriac("inspect", "reserved")  # a worker takes no more than it runs
    registered = project.celeriac("inspect", "registered")
    for task in ("add_numbers", "fetch_url", "process_data", "send_email"):
        assert f"* myapp.tasks.{task}" in registered
    stats = project.celeriac("inspect", "stats")
    assert '"max-concurrency": 1' in stats
    assert '"uptime"' in stats
    assert '"name": "celery"' in project.celeriac("inspect", "active_queues")
    (project.folder / "go").touch()
    worker.await_line(f"held[{second}] succeeded")
    beat.stop()
    project.celeriac("control", "shutdown")
    assert worker.process.wait(30) == 0


def test_step_7_flower_shows_the_workers(redis_server: RedisServer, tmp_path: Path) -> None:
    """Flower is a plug-in of Celery's: it runs in an environment with Celery, without the application."""
    from tests.fleet.house import fleet_python

    redis_server.flush()
    project = Project(
        tmp_path / "celery-demo", redis_server.url(0), redis_server.url(1), "http://127.0.0.1:1"
    )
    basic(project)
    said = subprocess.run(
        [*COMMAND, "-A", "myapp.celery_app", "flower", "--port=5555"],
        cwd=project.folder, env=project.env, text=True, capture_output=True,
    )  # fmt: skip
    assert said.returncode == 2
    assert "celery --broker=URL flower" in said.stderr
    port = free_port()
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"FLOWER_UNAUTHENTICATED_API": "true", "PYTHONUNBUFFERED": "1"}
    command = [fleet_python("5.6"), "-m", "celery", f"--broker={project.broker}", "flower"]
    flower = LoggedProcess([*command, f"--port={port}", "--address=127.0.0.1"], env, tmp_path)
    project.workers.append(flower)
    try:
        flower.await_line("Visit me at", 40)
        project.worker("--loglevel=info", "-n", "shown@%h")

        def told() -> Any:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/api/workers?status=1", timeout=20
            ) as answer:
                return json.load(answer)

        wait_until(lambda: told() == {f"shown@{os.uname().nodename}": True}, 40)
    finally:
        flower.kill()
        project.close()


def test_the_migration_changes_imports_of_celery_and_no_others(tmp_path: Path) -> None:
    before = [
        "from celery import Celery",
        "    from celery.exceptions import Retry",
        "import celery",
        "import celery as c",
        "from .celery import app as celery_app",
        "from myproject.celery import app",
        "from celery_once import QueueOnce",
        "from . import celery",
        "from kombu import Exchange, Queue",
    ]
    after = [
        "from celeriac import Celery",
        "    from celeriac.exceptions import Retry",
        "import celeriac as celery",
        "import celeriac as c",
        *before[4:8],
        "from celeriac import Exchange, Queue",
    ]
    text = "\n".join(before)
    done = subprocess.run(["sed", "-E", migration()], input=text, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == after
