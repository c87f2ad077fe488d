"""The application: laziness, configuration, tasks and their names, being current, stores."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, Celery, Task, current_app, current_task, shared_task
from celeriac.app import state
from celeriac.exceptions import DuplicateTaskNameWarning, ImproperlyConfigured, NotRegistered

from .helpers import make_app


@pytest.fixture(autouse=True)
def clean_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests must not see each other's current applications and shared tasks."""
    monkeypatch.setattr(state, "_default_app", None)
    monkeypatch.setattr(state, "_on_finalize", [])
    monkeypatch.setattr(state, "_local", threading.local())


def test_celery_is_an_alias() -> None:
    assert Celery is Celeriac


def test_making_an_application_and_tasks_reads_no_configuration() -> None:
    app = Celeriac("x", config_source="there_is_no_such_module")

    @app.task(rate_limit="10/s")
    def add() -> None: ...

    assert app.tasks["x.add" if add.name.startswith("x.") else add.name] is add
    with pytest.raises(ImportError):
        _ = app.conf.task_serializer


def test_settings_come_from_arguments_before_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    app = Celeriac("x", broker="memory://a", task_default_queue="q", changes={"task_always_eager": True})
    app.config_from_object({"broker_url": "memory://b", "task_default_priority": 3})
    assert app.conf.broker_url == "memory://a"
    assert (app.conf.task_default_queue, app.conf.task_default_priority) == ("q", 3)
    assert app.conf.task_always_eager
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://env")
    assert Celeriac("x", broker="memory://a").conf.broker_url == "memory://env"


def test_namespaces_and_environment_variables_name_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    class Django:
        CELERY_TASK_DEFAULT_QUEUE = "dj"
        OTHER = 1

    app = make_app(namespace="CELERY", config_source=Django)
    assert app.conf.task_default_queue == "dj"
    monkeypatch.delenv("MY_CONFIG", raising=False)
    assert app.config_from_envvar("MY_CONFIG", silent=True) is False
    with pytest.raises(ImproperlyConfigured, match="MY_CONFIG"):
        app.config_from_envvar("MY_CONFIG")


def test_signals_around_the_configuration() -> None:
    app = make_app()
    seen: list[str] = []
    app.on_configure.connect(lambda **_: seen.append("configure"), weak=False)

    @app.on_after_configure.connect
    def after(sender: Celeriac, **_: Any) -> None:
        seen.append(sender.conf.task_default_queue)

    assert seen == []
    _ = app.conf.task_serializer
    _ = app.conf.task_serializer
    assert seen == ["configure", "celery"]


def test_parts_of_celery_that_do_not_exist_here_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="amqp"):
        Celeriac("x", amqp="my.module:AMQP")
    Celeriac("x", loader="app", fixups=[])


def test_names_of_tasks() -> None:
    app = make_app()
    assert app.gen_task_name("add", "proj.tasks") == "proj.tasks.add"
    assert app.gen_task_name("add", "__main__") == "unit.add"
    assert app.task(lambda: None).name.startswith(f"{__name__}.")
    assert app.task(name="mine")(lambda: None).name == "mine"


def test_unknown_tasks_are_not_registered() -> None:
    with pytest.raises(NotRegistered, match="nope"):
        make_app().tasks["nope"]
    assert "celery.backend_cleanup" in make_app().tasks


def test_a_second_task_of_the_same_name_warns_and_replaces_the_first() -> None:
    app = make_app()
    app.task(name="same")(lambda: 1)
    with pytest.warns(DuplicateTaskNameWarning, match="'same'.*test_app.py"):
        app.task(name="same")(lambda: 2)
    assert app.tasks["same"]() == 2

    def once() -> None: ...

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app.task(name="again")(once)
        app.task(name="again")(once)


def test_options_of_the_decorator_become_attributes_and_hooks() -> None:
    app = make_app()

    def failed(self: Any, exc: BaseException, *_: Any) -> None:
        self.seen = exc

    @app.task(on_failure=failed, max_retries=9, custom="value")
    def t() -> None:
        """Doc."""
        raise ValueError("x")

    assert (t.max_retries, t.custom, t.__doc__, t.__name__) == (9, "value", "Doc.", "t")
    error = t.apply().result
    assert t.seen is error


def test_arguments_of_the_decorator() -> None:
    app = make_app()
    with pytest.raises(TypeError, match="keyword"):
        app.task("name")  # type: ignore[call-overload]
    assert app.task(name="f", filter=lambda task: task.name)(lambda: None) == "f"


def test_tasks_follow_settings_until_they_have_values_of_their_own() -> None:
    app = make_app()

    @app.task
    def t() -> None: ...

    @app.task(acks_late=False)
    def early() -> None: ...

    assert t.acks_late is True
    app.conf.task_acks_late = False
    assert t.acks_late is False
    assert early.acks_late is False
    t.serializer = "pickle"
    app.conf.task_serializer = "yaml"
    assert t.serializer == "pickle"


def test_class_based_tasks() -> None:
    app = make_app()

    class Add(Task):  # type: ignore[type-arg]
        name = "add-class"
        ignore_result = True

        def run(self, x: int) -> int:
            return self.request.retries + x

    class Base(Task):  # type: ignore[type-arg]
        abstract = True

        def helper(self) -> str:
            return "helped"

    add = app.register_task(Add())
    assert app.tasks["add-class"] is add
    assert add.app is app
    assert add(2) == 2

    @app.task(base=Base, bind=True)
    def t(self: Any) -> str:
        return self.helper()

    assert t() == "helped"
    assert isinstance(t, Base)


def test_the_base_class_of_all_tasks() -> None:
    class Base(Task):  # type: ignore[type-arg]
        abstract = True
        mark = 1

    app = make_app(task_cls=Base)
    assert app.task(lambda: None).mark == 1
    assert make_app(task_cls="celeriac.task:Task").task(lambda: None).name


def test_shared_tasks_join_every_application() -> None:
    early = make_app()
    early.finalize()

    @shared_task(name="shared")
    def shared() -> str:
        return shared.app.main or ""

    late = make_app()
    assert early.tasks["shared"].app is early
    assert late.tasks["shared"].app is late
    assert shared.app is late
    early.set_current()
    assert shared.app is early
    assert shared.name == "shared"
    assert isinstance(shared, Task)


def test_tasks_of_one_application_are_shared_unless_told() -> None:
    one = make_app()
    one.task(name="public")(lambda: 1)
    one.task(name="private", shared=False)(lambda: 2)
    other = make_app()
    assert "public" in other.tasks
    assert other.tasks["public"].app is other
    assert "private" not in other.tasks


def test_current_application_and_task() -> None:
    first, second = make_app(), make_app()
    assert current_app.main == "unit"
    assert current_app._get_current_object() is second
    first.set_current()
    assert current_app._get_current_object() is first
    assert not current_task

    @first.task
    def t() -> str:
        return current_task.name

    assert t() == t.name
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(state.get_current_app()))
    thread.start()
    thread.join()
    assert seen[0] in (first, second)


def test_without_any_application_one_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unit_celeryconfig.py").write_text("task_default_queue = 'from-module'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "unit_celeryconfig")
    assert current_app.main == "default"
    assert current_app.conf.task_default_queue == "from-module"
    made = make_app()
    assert state.get_current_app() is made


def test_autofinalize_can_be_turned_off() -> None:
    app = make_app(autofinalize=False)
    with pytest.raises(RuntimeError, match="finalize"):
        _ = app.tasks
    app.finalize()
    assert app.tasks


def test_autodiscovery_and_include(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "disc_a/__init__.py": "",
        "disc_a/tasks.py": "from celeriac import shared_task\nshared_task(name='from-a')(lambda: 1)\n",
        "disc_b/__init__.py": "",
        "disc_c/__init__.py": "",
        "disc_c/tasks.py": "import there_is_no_such_module\n",
        "disc_inc.py": "loaded = True\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    app = make_app(include=["disc_inc"])
    app.autodiscover_tasks(lambda: ["disc_a", "disc_b"])
    assert "disc_a.tasks" not in sys.modules
    app.import_tasks()
    assert "from-a" in app.tasks
    assert "disc_inc" in sys.modules
    app.autodiscover_tasks(["disc_c"])
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        app.import_tasks()
    with pytest.raises(ModuleNotFoundError, match="disc_missing"):
        app.autodiscover_tasks(["disc_missing"], force=True)


def test_the_default_broker_is_a_file_beside_the_top_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    monkeypatch.delenv("CELERIAC_HOME", raising=False)
    package = tmp_path / "dflt" / "inner"
    package.mkdir(parents=True)
    (tmp_path / "dflt" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("from celeriac import Celeriac\napp = Celeriac('label')\n")
    (package / "celery.py").write_text("from celeriac import Celeriac\napp = Celeriac('label')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from importlib import import_module

    expected = f"sqlite:///{tmp_path}/celeriac.db"
    assert import_module("dflt.inner.celery").app.broker_url == expected
    assert import_module("dflt.inner").app.broker_url == expected
    assert Celeriac("dflt.inner").broker_url == expected
    monkeypatch.setenv("CELERIAC_HOME", str(tmp_path / "home"))
    assert Celeriac("x").broker_url == f"sqlite:///{tmp_path}/home/celeriac.db"


def test_stores() -> None:
    app = make_app()
    assert app.backend is app.broker
    assert app.coordinator is app.broker
    assert app.fused
    other = make_app(backend="memory://elsewhere")
    assert other.backend is not other.broker
    assert not other.fused
    off = make_app(result_backend="disabled://")
    assert off.backend is None
    assert not off.fused
    assert off.coordinator is off.broker


@pytest.mark.parametrize(
    ("backend", "text"), [("rpc://", "rpc:// needs RabbitMQ"), ("mongodb://x", "no engine for URLs")]
)
def test_backends_that_do_not_exist_are_refused(backend: str, text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=text):
        _ = make_app(backend=backend).backend


def test_routes_follow_changed_settings() -> None:
    app = make_app()
    assert app.router.target("t").queue == "celery"
    app.conf.task_routes = {"t": "other"}
    assert app.router.target("t").queue == "other"
    app.conf.task_default_queue = "main"
    assert app.router.target("x").queue == "main"
    assert app.select_queue_names(None, None) == ["main"]
    assert app.select_queue_names("a,b,c", "b") == ["a", "c"]
    assert list(app.queues.consumed) == ["a", "c"]


def test_an_application_and_its_tasks_can_be_pickled_and_copied() -> None:
    app = make_app(task_default_queue="q")

    @app.task
    def t() -> None: ...

    assert pickle.loads(pickle.dumps(t)) is t
    assert copy.deepcopy(t) is t
    other = make_app()
    other.main = "other"
    other.set_current()
    assert pickle.loads(pickle.dumps(app)).conf.task_default_queue == "q"


def test_one_application_is_safe_in_threads() -> None:
    app = make_app()
    barrier = threading.Barrier(8)
    seen: list[Any] = []

    def work() -> None:
        barrier.wait()
        app.send_task("x")
        seen.append((id(app.broker), id(app.publisher), len(app.tasks)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1
    assert app.broker.depth(["celery"])["celery"].ready == 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_is_announced_in_the_child() -> None:
    app = make_app()
    reader, writer = os.pipe()

    @app.on_after_fork.connect
    def forked(sender: Celeriac, **_: Any) -> None:
        os.write(writer, (sender.main or "").encode())

    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    assert os.read(reader, 100) == b"unit"
    os.close(reader)


def test_control() -> None:
    app = make_app()
    results = [app.send_task("x", countdown=60), app.send_task("x")]
    app.control.revoke([r.id for r in results], terminate=True, signal="kill")
    control = app.broker.control()
    assert set(control.revoked) == {r.id for r in results}
    assert control.terminate == {r.id: "SIGKILL" for r in results}
    assert results[0].state == "REVOKED"
    assert results[1].state == "PENDING"
    app.control.rate_limit("x", "10/m")
    assert app.broker.control().rate_limits == {"x": "10/m"}
    app.control.rate_limit("x", None)
    assert app.broker.control().rate_limits == {}
    assert app.control.purge() == 1
    with pytest.raises(ValueError, match="NOPE"):
        app.control.terminate(results[0].id, signal="NOPE")


def test_the_report_shows_no_password() -> None:
    app = make_app(
        broker="memory://unit", result_backend="redis://:hunter2@localhost/1", task_always_eager=True
    )
    app._stores.use_backend(None)
    assert "hunter2" not in app.bugreport()
