"""The command line: what it prints, with which status, and that mistakes are told in a sentence."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import pytest

import celeriac
from celeriac import Celeriac
from celeriac.cli import output, root, start
from celeriac.cli.options import global_options
from celeriac.engines.base import Incarnation, NodeInfo, Outcome, Verdict
from celeriac.exceptions import OperationalError

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(celeriac.__file__).parents[1])}


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("shop", broker=f"memory://{request.node.name}", set_as_current=False) as made:

        @made.task(name="shop.add")
        def add(x: int, y: int) -> int:
            return x + y

        yield made


@pytest.fixture
def run(app: Celeriac, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line for ``app``, with no terminal and nobody to answer questions."""
    for name in ("APP", "BROKER_URL", "QUIET", "CELERY_APP", "CELERY_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(".")  # comes back after --workdir

    def _run(*arguments: str) -> Ran:
        capsys.readouterr()
        status = root.run(arguments, app)
        return Ran(status, *capsys.readouterr())

    return _run


def beat(app: Celeriac, name: str, queues: Sequence[str] = ("celery",)) -> None:
    app.broker.beat(NodeInfo(id=f"{name}-1", name=name, host="h", pid=1, started=1.0, queues=list(queues)))


def bury(app: Celeriac, count: int = 1) -> list[str]:
    """Make dead letters and return the task ids."""
    ids = [app.send_task("shop.add", (n, n)).id for n in range(count)]
    consumer = app.broker.attach(Incarnation("n", 1, 1, count))
    taken = consumer.exchange([], ["celery"], count).deliveries
    consumer.exchange(
        [
            Outcome(
                one.token,
                one.queue,
                Verdict.DEAD,
                reason="rejected",
                detail="no\x1b[31m",
                task="shop.add",
                task_id=i,
            )
            for one, i in zip(taken, ids, strict=True)
        ],
        [],
        0,
    )
    consumer.close()
    return ids


# -- finding commands and the application ----------------------------------------------------------------


def test_help_is_quick_and_imports_no_worker_and_no_server() -> None:
    end = "; import sys, time; print(time.process_time(), sorted(sys.modules), file=sys.stderr)"

    def measure(code: str) -> tuple[float, str, str]:
        command = [sys.executable, "-c", code + end]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
        took, _, modules = done.stderr.partition(" ")
        return float(took), modules, done.stdout

    # Processor time, and against what the option parser alone costs: the machine may be slow or busy.
    # It was 66 ms by the clock where this was written, click alone 62.
    help_, click_ = [], []
    for _ in range(5):
        click_.append(measure("import click")[0])
        took, modules, out = measure("from celeriac.cli.root import run; run(['--help'])")
        help_.append(took)
    assert min(help_) < 2 * min(click_)  # 1.5 on a quiet machine
    for name in ("redis", "rich", "asyncio", "celeriac.worker", "celeriac.app.base", "celeriac.engines.base"):
        assert f"'{name}'" not in modules, name
    for name in root.COMMANDS:
        assert f"  {name} " in out


@pytest.mark.parametrize("name", root.COMMANDS)
def test_every_command_can_be_loaded_and_explains_itself(run: Run, name: str) -> None:
    ran = run(name, "--help")
    assert ran.status == 0
    assert f"celeriac {name}" in ran.out


def test_no_command_takes_an_option_away_from_the_global_ones() -> None:
    taken = {name for extra in global_options() for name in extra.opts}

    def walk(command: click.Command) -> None:
        options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
        assert taken.isdisjoint(name for one in options for name in one.opts), command.name
        for sub in getattr(command, "commands", {}).values():
            walk(sub)

    context = click.Context(root.celeriac)
    for name in root.COMMANDS:
        command = root.celeriac.get_command(context, name)
        assert command is not None
        walk(command)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["wroker"], "Did you mean worker"),
        (["events", "--detach"], "--camera"),
        (["inspect", "pong"], "Did you mean ping"),
        (["inspect"], "inspect --list"),
        (["inspect", "pool_grow"], "'celeriac control'"),
        (["control", "pool_grow", "many"], "[N=1]"),
        (["control", "pool_grow", "1", "2"], "[N=1]"),
        (["control", "rate_limit", "shop.add"], "<task_name>"),
        (["control", "revoke_by_stamped_headers", "batch"], "name=value"),
        (["dead", "lsit"], "Did you mean list"),
        (["worker", "--concurency", "2"], "--concurrency"),
        (["worker", "-l", "inof"], "Did you mean INFO"),
        (["worker", "-c", "0"], "-c"),
        (["worker", "--autoscale", "x,1"], "10,3"),
        (["worker", "--scheduler", "x"], "give -B as well"),
        (["worker", "-P", "custom"], "prefork"),
        (["worker", "--soft-time-limit", "5", "--time-limit", "2"], "shorter"),
        (["worker", "taks.acks_late=1"], "acks_late"),
        (["worker", "--umask", "9"], "octal"),
        (["worker", "--uid", "nobody-of-this-name"], "no user"),
        (["worker", "--executable", "/nowhere/python"], "/nowhere/python"),
        (["call", "shop.add", "-a", "[1"], "not JSON"),
        (["call", "shop.add", "-a", "1"], "JSON array"),
        (["call", "shop.add", "-k", "[]"], "JSON object"),
        (["call", "shop.add", "--eta", "soon"], "ISO 8601"),
        (["call", "shop.ad", "-a", "[1, 2]"], "Did you mean shop.add"),
        (["call", "shop.add", "-a", "[1]"], "'y'"),
        (["call", "shop.add", "-a", "[1, 2]", "--eta", "2030-01-01", "--countdown", "3"], "give one"),
        (["rate-limit", "shop.add", "10/y"], "10/m"),
        (["rate-limit", "shop.sub", "10/m"], "Did you mean shop.add"),
        (["revoke", "x", "--signal", "TREM"], "SIGTERM"),
        (["dead", "replay"], "--all"),
        (["dead", "purge", "x", "--all"], "--queue"),
        (["-A", "no_such_module", "queues"], "no_such_module"),
        (["queues", "-A", "celeriac.states"], "celeriac.states"),
    ],
)
def test_a_mistake_is_told_in_a_sentence_with_status_2(run: Run, arguments: list[str], said: str) -> None:
    ran = run(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_global_options_stand_before_or_after_the_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clitest_both.py").write_text(
        "from celeriac import Celeriac\nthing = Celeriac('both', broker='memory://')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert "both" not in run("queues", "-j").err
    for arguments in (
        ("-A", "clitest_both:thing", "report"),
        ("report", "-A", "clitest_both:thing"),
        ("report", "--app=clitest_both"),
    ):
        assert run(*arguments).status == 0
    monkeypatch.setenv("CELERY_APP", "clitest_none")
    assert "clitest_none" in run("report").err
    monkeypatch.setenv("CELERIAC_APP", "clitest_ours")
    assert "clitest_ours" in run("report").err, "our name goes before Celery's"
    assert run("-A", "clitest_both", "report").status == 0, "an argument goes before the environment"


def test_options_of_commands_come_from_the_environment_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_WORKER_LOGLEVEL", "lowd")
    assert "lowd" in run("worker").err
    monkeypatch.setenv("CELERIAC_WORKER_LOGLEVEL", "ours")
    assert "ours" in run("worker").err


def test_no_color_is_set_by_any_text(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "please")
    assert run("queues").status == 0


def test_an_error_in_the_applications_module_names_its_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clitest_bad.py").write_text("import json\n\nx = undefined\n")
    ran = run("--workdir", str(tmp_path), "-A", "clitest_bad", "queues")
    assert ran.status == 1
    assert "Did you mean clitest_bad" in run("-A", "clitest_bda", "queues").err
    assert "NameError" in ran.err
    assert "clitest_bad.py, line 3" in ran.err
    monkeypatch.setenv("CELERIAC_DEBUG", "1")
    with pytest.raises(NameError):
        run("-A", "clitest_bad", "queues")


def test_a_store_that_is_down_has_status_69_and_no_traceback(
    run: Run, app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down() -> list[str]:
        raise OperationalError("cannot reach redis://:**@host: start it")

    monkeypatch.setattr(app.broker, "queues", down)
    ran = run("queues")
    assert ran == (69, "", "Error: cannot reach redis://:**@host: start it\n")


def test_ctrl_c_is_130(run: Run, app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(app.broker, "queues", interrupted)
    ran = run("queues")
    assert ran.status == 130
    assert "Traceback" not in ran.err


def test_app_start_raises_only_for_a_failure(app: Celeriac) -> None:
    start(app, ["queues"])
    with pytest.raises(SystemExit) as caught:
        start(app, ["wroker"])
    assert caught.value.code == 2


def test_status_names_the_queues_that_nobody_takes_from(run: Run, app: Celeriac) -> None:
    app.send_task("shop.add", (1, 2), queue="mail")
    app.send_task("shop.add", (1, 2), queue="mail", countdown=100)
    app.send_task("shop.add", (1, 2))
    ran = run("status", "-t", "0")
    assert ran.status == 69
    assert "mail" in ran.out
    app.broker.beat(NodeInfo("n", "w@h", "h", 1, 1.0, 1000.0, ["celery"]))
    ran = run("status")
    assert ran.status == 0
    assert "no worker takes from them" in ran.out
    assert "-Q mail," in ran.out
    row = next(line for line in ran.out.splitlines() if line.startswith("mail"))
    assert row.split() == ["mail", "2"]
    app.broker.beat(NodeInfo("n", "w@h", "h", 1, 1.0, 1000.0, ["celery", "mail"]))
    assert "no worker takes" not in run("status").out


# -- tasks -------------------------------------------------------------------------------------------------


def test_call_sends_with_the_options_given(run: Run, app: Celeriac) -> None:
    ran = run("call", "shop.add", "-a", "[1]", "-k", '{"y": 2}', "--queue", "fast", "--expires", "60")
    assert ran.status == 0
    assert len(ran.out.strip()) == 36
    assert app.broker.depth(["fast"])["fast"].ready == 1
    run("call", "shop.add", "-a", "[1, 2]", "--countdown", "100")
    assert app.broker.depth(["celery"])["celery"].delayed == 1


def test_an_unknown_name_is_sent_for_others(run: Run, app: Celeriac) -> None:
    assert run("call", "elsewhere.thing").status == 0
    assert run("call", "shop.ad", "--force").status == 0
    assert app.broker.depth(["celery"])["celery"].ready == 2


def test_result_prints_what_a_task_returned_or_raised(run: Run, app: Celeriac) -> None:
    from celeriac.app.request import Context

    assert app.backend is not None
    app.backend.store(
        [
            app.results.record("SUCCESS", {"x": 1}, Context(id="good")),
            app.results.record("FAILURE", ValueError("no"), Context(id="bad"), traceback="Traceback: here"),
        ]
    )
    assert run("result", "good") == (0, "{'x': 1}\n", "")
    assert json.loads(run("result", "good", "--json").out)["result"] == {"x": 1}
    assert run("result", "bad") == (1, "FAILURE: ValueError: no\n", "")
    assert run("result", "bad", "--traceback").out == "Traceback: here\n"
    ran = run("result", "never", "--timeout", "0")
    assert ran.status == 1
    assert "PENDING" in ran.err


def test_revoke_reaches_delayed_tasks(run: Run, app: Celeriac) -> None:
    task_id = run("call", "shop.add", "-a", "[1, 2]", "--countdown", "100").out.strip()
    assert run("revoke", task_id).status == 0
    assert app.AsyncResult(task_id).state == "REVOKED"
    assert app.broker.depth(["celery"])["celery"].delayed == 0


@pytest.mark.parametrize(("rate", "stored"), [("10/m", "10/m"), ("0", "")])
def test_rate_limits_are_stored(run: Run, app: Celeriac, rate: str, stored: str) -> None:
    assert app.coordinator is not None
    assert run("rate-limit", "shop.add", rate).status == 0
    assert app.coordinator.control().rate_limits == {"shop.add": stored}
    run("rate-limit", "shop.add", "default")
    assert app.coordinator.control().rate_limits == {}


# -- workers -----------------------------------------------------------------------------------------------


def test_nobody_alive_has_status_69(run: Run) -> None:
    for arguments in (("status", "-t", "0"), ("inspect", "ping", "-d", "w@h"), ("control", "heartbeat")):
        ran = run(*arguments)
        assert ran.status == 69
        assert ran.out == ""


def test_the_living_are_listed(run: Run, app: Celeriac) -> None:
    beat(app, "w2@h")
    beat(app, "w1@h", ["fast", "celery"])
    lines = run("status").out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["w1@h", "OK"], ["w2@h", "OK"]]
    assert "fast, celery" in lines[1]
    assert lines[-1] == "2 nodes online."
    assert json.loads(run("status", "-j").out) == {"w1@h": {"ok": "pong"}, "w2@h": {"ok": "pong"}}
    ran = run("status", "-t", "0", "-d", "w1@h,w3@h")
    assert "w2@h" not in ran.out
    assert "w3@h" in ran.err
    assert run("-q", "status", "-t", "0", "-d", "w1@h,w3@h").err == ""


def test_status_waits_for_a_worker_to_appear(
    run: Run, app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: beat(app, "late@h"))
    assert run("status", "-t", "5").status == 0


# -- queues ------------------------------------------------------------------------------------------------


def test_queues_shows_states_workers_and_pauses(run: Run, app: Celeriac) -> None:
    run("call", "shop.add", "-a", "[1, 2]", "--queue", "fast")
    bury(app)
    beat(app, "w@h")
    assert run("queues", "pause", "fast").status == 0
    rows = {row["queue"]: row for row in json.loads(run("queues", "-j").out)}
    assert (rows["fast"]["ready"], rows["fast"]["paused"], rows["fast"]["workers"]) == (1, True, 0)
    assert rows["fast"]["oldest_seconds"] >= 0
    assert (rows["celery"]["dead"], rows["celery"]["paused"], rows["celery"]["workers"]) == (1, False, 1)
    assert "paused" in run("queues").out
    run("queues", "resume", "fast")
    assert "paused" not in run("queues").out


def test_purge_asks_and_says_how_many(run: Run, app: Celeriac) -> None:
    for queue in ("celery", "celery", "fast"):
        run("call", "shop.add", "-a", "[1, 2]", "--queue", queue)
    ran = run("purge")
    assert ran.status == 1
    assert "Delete 2 messages of celery?" in ran.err
    assert app.broker.depth(["celery"])["celery"].ready == 2
    assert run("purge", "-f", "-Q", "celery,fast", "-X", "fast").out == "Purged 2 messages from 1 queue.\n"
    assert app.broker.depth(["fast"])["fast"].ready == 1
    assert run("purge", "-f", "-Q", "fast", "-X", "fast").status == 2


# -- dead letters --------------------------------------------------------------------------------------------


def test_dead_letters_are_listed_in_pages_and_shown(run: Run, app: Celeriac) -> None:
    ids = bury(app, 3)
    ran = run("dead", "list", "--limit", "2")
    assert len(ran.out.splitlines()) == 3
    assert "--offset 2" in ran.err
    assert "\x1b" not in ran.out, "stored text must not steer a terminal"
    rest = run("dead", "list", "--limit", "2", "--offset", "2", "--json")
    assert len(json.loads(rest.out)) == 1
    shown = json.loads(run("dead", "show", ids[1], "--json").out)
    assert (shown["task_id"], shown["reason"], shown["args"]) == (ids[1], "rejected", "(1, 1)")
    assert json.loads(run("dead", "show", shown["key"], "-j").out) == shown
    assert run("dead", "show", "none").status == 1


def test_dead_letters_are_replayed_and_purged(run: Run, app: Celeriac) -> None:
    ids = bury(app, 3)
    assert run("dead", "replay", ids[0]).out == "Replayed 1 message.\n"
    assert app.broker.depth(["celery"])["celery"].ready == 1
    assert run("dead", "purge", "--all").status == 1, "nobody said yes"
    assert run("dead", "purge", ids[1], "-y").out == "Purged 1 dead letter.\n"
    assert run("dead", "replay", "--queue", "celery", "-y").out == "Replayed 1 message.\n"
    assert run("dead", "purge", "--all", "--yes").out == "Purged 0 dead letters.\n"
    assert app.broker.depth(["celery"])["celery"][:5] == (2, 0, 0, 0, 0)


# -- the rest ------------------------------------------------------------------------------------------------


def test_report_masks_secrets(run: Run, app: Celeriac) -> None:
    app.conf.result_backend = "redis://:verysecret@localhost/1"
    ran = run("report")
    assert ran.status == 0
    assert "celeriac" in ran.out
    assert "verysecret" not in ran.out


def test_the_shell_knows_application_and_tasks(app: Celeriac) -> None:
    from celeriac.cli.session import Session
    from celeriac.cli.shell import namespace

    app.add_task(print, name="shop.sell_once")  # no other test's application shares one of this name
    names = namespace(Session(app))
    assert names["app"] is names["celery"] is app
    assert names["sell_once"].name == "shop.sell_once"
    assert "sell_once" not in namespace(Session(app), without_tasks=True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run: Run, shell: str) -> None:
    ran = run("completion", shell)
    assert ran.status == 0
    assert "_CELERIAC_COMPLETE" in ran.out


def test_completion_knows_commands_and_options() -> None:
    def complete(words: str) -> str:
        environment = {"_CELERIAC_COMPLETE": "bash_complete", "COMP_WORDS": words}
        environment["COMP_CWORD"] = str(len(words.split()) - 1)
        command = [sys.executable, "-m", "celeriac"]
        done = subprocess.run(command, env={**ENVIRONMENT, **environment}, capture_output=True, text=True)
        return done.stdout

    assert complete("celeriac wo").split() == ["plain,worker"]
    assert "--concurrency" in complete("celeriac worker --conc")


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m celeriac -b sqlite:///{tmp_path}/q.db report | true"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (59.6, "1 min"),
        (185, "3 min 5 s"),
        (7200, "2 h"),
        (187_200, "2 d 4 h"),
    ],
)
def test_lengths_of_time_in_words(seconds: float, text: str) -> None:
    assert output.span(seconds) == text


# -- the worker's flags ------------------------------------------------------------------------------------


class FakeWorker:
    """Stands for the worker, which has its own tests: here only what the command line hands to it counts."""

    def __init__(self, seen: dict[str, object]) -> None:
        self.seen = seen

    def __call__(self, **options: object) -> FakeWorker:
        self.seen.update(options)
        return self

    def start(self) -> int:
        return 7


@pytest.fixture
def handed(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    seen: dict[str, object] = {}
    monkeypatch.setattr(app, "Worker", FakeWorker(seen), raising=False)
    return seen


def test_worker_flags_reach_the_worker(run: Run, app: Celeriac, handed: dict[str, object]) -> None:
    ran = run(
        *("worker", "-l", "info", "-n", "w1@box", "-Q", "a,b", "-X", "c", "-c", "3", "-P", "threads"),
        *("--prefetch-multiplier", "auto", "--time-limit", "9", "--soft-time-limit", "8.5", "-I", "m1,m2"),
        *(
            "--max-tasks-per-child",
            "100",
            "--max-memory-per-child",
            "200000",
            "--purge",
            "--disable-prefetch",
        ),
        *("--shutdown-grace", "none", "--pool-start-method", "spawn", "task.default_queue=x"),
    )
    assert ran.status == 7, "the worker's status is the process's"
    assert handed == {
        "loglevel": "INFO",
        "hostname": "w1@box",
        "queues": ["a", "b"],
        "exclude_queues": ["c"],
        "concurrency": 3,
        "pool": "threads",
        "prefetch_multiplier": "auto",
        "time_limit": 9.0,
        "soft_time_limit": 8.5,
        "include": ["m1", "m2"],
        "max_tasks_per_child": 100,
        "max_memory_per_child": 200000,
        "purge": True,
        "disable_prefetch": True,
        "shutdown_grace": None,
        "pool_start_method": "spawn",
        "overrides": {"task_default_queue": "x"},
        "app_spec": None,
        "workdir": None,
        "quiet": False,
    }
    assert app.conf.task_default_queue == "x"


def test_flags_that_are_not_given_leave_the_settings_alone(run: Run, handed: dict[str, object]) -> None:
    run("worker")
    assert set(handed) == {"loglevel", "hostname", "overrides", "app_spec", "workdir", "quiet"}
    run("worker", "-c", "auto", "--autoscale", "4,2")
    assert isinstance(handed["concurrency"], int)
    assert handed["autoscale"] == "4,2"


def test_settled_flags_say_what_does_it_here(run: Run, handed: dict[str, object]) -> None:
    ran = run("worker", "-O", "fair", "--without-gossip", "--without-mingle", "-S", "state.db")
    assert ran.status == 7
    assert [line.split(":")[0] for line in ran.err.splitlines()] == [
        "-O",
        "--statedb",
        "--without-gossip",
        "--without-mingle",
    ]
    assert run("-q", "worker", "-O", "fair").err == ""


def test_a_held_pid_file_stops_the_start(run: Run, tmp_path: Path, handed: dict[str, object]) -> None:
    path = tmp_path / "w.pid"
    code = (
        "import sys; from celeriac.platforms import Pidfile; Pidfile(sys.argv[1]).acquire()\n"
        "print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as other:
        assert other.stdout
        other.stdout.readline()
        ran = run("worker", "--pidfile", str(tmp_path / "%n.pid"), "-n", "w@h")
        assert ran.status == 73
        assert str(other.pid) in ran.err
        assert not handed
        other.communicate("\n")


def test_a_log_file_that_cannot_be_written_stops_the_start(run: Run, handed: dict[str, object]) -> None:
    ran = run("worker", "-f", "/nowhere/at/all.log")
    assert ran.status == 73
    assert "/nowhere/at/all.log" in ran.err
    assert not handed
