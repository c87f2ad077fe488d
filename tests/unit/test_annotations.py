"""The setting task_annotations: every form, in Celery's order, at whatever time task and setting appear."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.exceptions import ImproperlyConfigured
from tests.unit.helpers import make_app


class ForPay:
    def annotate(self, task: Any) -> dict[str, Any] | None:
        return {"rate_limit": "7/s", "custom": True} if task.name == "pay" else None


def tasks(app: Celeriac) -> tuple[Any, Any]:
    @app.task(shared=False, name="pay", rate_limit="1/s")
    def pay(x: int) -> int:
        return x

    @app.task(shared=False, name="ship")
    def ship(x: int) -> int:
        return x

    app.conf.load()
    return pay, ship


@pytest.mark.parametrize(
    "annotations",
    [
        {"pay": {"rate_limit": "7/s", "custom": True}},
        ForPay(),
        [{"other": {"rate_limit": "9/s"}}, ForPay()],
        "tests.unit.test_annotations.ForPay",
        ["tests.unit.test_annotations:ForPay"],
        [ForPay(), {"pay": {"rate_limit": "8/s"}}],
    ],
)
def test_every_form(annotations: Any) -> None:
    pay, ship = tasks(make_app(task_annotations=annotations))
    assert (pay.rate_limit, pay.custom) == ("7/s", True)
    assert ship.rate_limit is None
    assert not hasattr(ship, "custom")


def test_a_star_is_for_all_and_goes_last() -> None:
    """As in Celery 5.7, where it wins over the task's own entry and over the decorator."""
    pay, ship = tasks(make_app(task_annotations={"pay": {"rate_limit": "7/s"}, "*": {"rate_limit": "5/s"}}))
    assert (pay.rate_limit, ship.rate_limit) == ("5/s", "5/s")


def test_methods_are_set_and_wrapped() -> None:
    failed = []

    def on_failure(self: Any, exc: Any, task_id: str, *_: Any) -> None:
        failed.append((self.name, str(exc)))

    def doubled(run: Any) -> Any:
        return lambda self, x: run(x) * 2

    app = make_app(task_annotations={"pay": {"@run": doubled}, "*": {"on_failure": on_failure}})
    pay, ship = tasks(app)
    assert app.conf.task_annotations
    assert pay.apply((4,)).get() == 8
    pay.apply(("x", "y"))
    assert ship.apply((4,)).get() == 4
    assert [name for name, _ in failed] == ["pay"]


def test_tasks_made_after_the_settings_were_read_and_before() -> None:
    app = make_app(task_annotations={"*": {"custom": 1}})
    first, _ = tasks(app)

    @app.task(shared=False, name="late")
    def late() -> None: ...

    assert (first.custom, late.custom) == (1, 1)


def test_a_setting_made_at_run_time_counts_until_the_application_is_finalized() -> None:
    app = make_app()
    pay, _ = tasks(app)
    app.conf.task_annotations = {"pay": {"max_retries": 9}}
    app.finalize()
    assert pay.max_retries == 9


def test_an_attribute_that_follows_a_setting_is_annotated_before_the_settings_were_read() -> None:
    app = make_app(task_annotations={"*": {"rate_limit": "5/s"}})

    @app.task(shared=False)
    def pay() -> None: ...

    assert pay.rate_limit == "5/s"


def test_class_based_tasks_and_a_module_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("annotated_config")
    module.__dict__["task_annotations"] = {"report": {"time_limit": 30}}
    monkeypatch.setitem(sys.modules, "annotated_config", module)
    app = make_app()
    app.config_from_object("annotated_config")

    class Report(app.Task):  # type: ignore[name-defined,misc]
        name = "report"

        def run(self) -> None: ...

    made = app.register_task(Report())
    app.conf.load()
    assert made.time_limit == 30
    assert app.Task.time_limit is None


def test_what_cannot_annotate_is_a_mistake() -> None:
    app = make_app(task_annotations=[5])
    with pytest.raises(ImproperlyConfigured, match="task_annotations: 5 is neither"):
        tasks(app)
