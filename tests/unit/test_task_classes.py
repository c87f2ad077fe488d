"""Base classes of tasks: the application's, one task's, and classes that are tasks; all as in Celery 5.7."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac import Celeriac, Task
from tests.unit.helpers import make_app

log: list[Any] = []


class Base(Task[..., Any]):
    abstract = True
    rate_limit = "3/s"
    attr = "base"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        log.append("call")
        return super().__call__(*args, **kwargs)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        log.append(("before", args))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        log.append(("success", retval))


class Other(Base):
    attr = "other"
    ignore_result = True

    def run(self, y: int) -> Any:
        return self.attr, y


@pytest.fixture(autouse=True)
def fresh() -> None:
    log.clear()


@pytest.mark.parametrize("task_cls", [Base, "tests.unit.test_task_classes:Base"])
def test_a_base_for_all_tasks_of_an_application(task_cls: Any) -> None:
    app = make_app(task_cls=task_cls)

    @app.task(shared=False)
    def add(x: int) -> int:
        return x + 1

    assert isinstance(add, Base)
    assert issubclass(app.Task, Base)
    assert app.Task.abstract
    assert not add.abstract
    assert (add.rate_limit, add.attr) == ("3/s", "base")
    assert add.apply((1,)).get() == 2
    assert log == [("before", (1,)), "call", ("success", 2)]
    assert add(5) == 6


def test_a_base_set_by_a_subclass_of_the_application() -> None:
    class Own(Celeriac):
        task_cls = Base

        def gen_task_name(self, name: str, module: str) -> str:
            return f"own.{name}"

    app = Own("own", broker="memory://own", set_as_current=False)

    @app.task(shared=False)
    def report() -> None:
        """What it does."""

    assert isinstance(report, Base)
    assert (report.name, report.__doc__) == ("own.report", "What it does.")


def test_a_base_for_one_task_with_attributes_of_its_own() -> None:
    app = make_app()

    @app.task(base=Other, attr="given", bind=True, shared=False, name="b")
    def b(self: Any, y: int) -> Any:
        return self.attr, y, self.name

    assert b.apply((2,)).get() == ("given", 2, "b")
    assert b.ignore_result is True
    assert Other.attr == "other"


def test_the_request_stays_that_of_the_run_where_call_is_overridden() -> None:
    app = make_app()

    @app.task(base=Base, bind=True, shared=False, name="seen", max_retries=1)
    def seen(self: Any, x: int) -> Any:
        if self.request.retries == 0:
            self.retry(countdown=0)
        return self.request.id, self.request.called_directly, self.request.retries

    assert seen.apply((1,), task_id="id-1").get() == ("id-1", False, 1)
    assert log.count("call") == 2


def test_a_class_that_is_a_task() -> None:
    app = make_app()

    class Named(app.Task):  # type: ignore[name-defined,misc]
        name = "named"
        max_retries = 7

        def run(self, *args: Any, **kwargs: Any) -> Any:
            return args, kwargs

    made = app.register_task(Named())
    assert app.tasks["named"] is made
    assert made.max_retries == 7
    assert made.apply((1,), {"k": 2}).get() == ((1,), {"k": 2})
    other = app.register_task(Other())
    assert (other.name, other.rate_limit, other.app) == ("tests.unit.test_task_classes.Other", "3/s", app)
    assert other.apply((3,)).get() == ("other", 3)


def test_a_mixin_beside_the_applications_base() -> None:
    app = make_app()

    class Mixin:
        def helper(self) -> str:
            return "helped"

    class Both(Mixin, app.Task):  # type: ignore[name-defined,misc]
        pass

    @app.task(base=Both, bind=True, shared=False)
    def c(self: Any) -> Any:
        return self.helper()

    assert c.apply().get() == "helped"
