"""By what two calls of a task are the same, and how a key may be given."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from celeriac.app import keys
from celeriac.engines.base import Hold, Unique
from celeriac.exceptions import ImproperlyConfigured
from tests.unit.helpers import make_app


def report(user_id: int, day: str = "today", **more: Any) -> None: ...


@pytest.fixture(scope="module")
def task() -> Any:
    return make_app().task(report, name="report")


def key(task: Any, given: Any, *args: Any, **kwargs: Any) -> str:
    return keys.call_key("report", task, given, args, kwargs)


def test_without_a_key_all_arguments_count(task: Any) -> None:
    assert key(task, None, 1) == key(task, None, user_id=1) == key(task, None, 1, day="today")
    assert key(task, None, 1) != key(task, None, 2)
    assert key(task, None, 1) != key(task, None, 1, "tomorrow")


def test_a_key_of_text_names_parameters(task: Any) -> None:
    assert key(task, "user:{user_id}", 1, day="x") == "report:user:1"
    assert key(task, "user:{user_id}", user_id=1) == "report:user:1"


def test_a_key_that_not_every_store_can_keep_as_text_is_kept_as_its_digest(task: Any) -> None:
    odd = {key(task, "{user_id}", text) for text in ("a\0b", "ab", "a\0c", "a\ud800", "é")}
    assert len(odd) == 5
    assert {"report:ab", "report:é"} < odd
    assert all("\0" not in text and text.encode() for text in odd)


def test_a_key_of_names_or_a_function(task: Any) -> None:
    assert key(task, ["user_id"], 1, "a") == key(task, ["user_id"], 1, "b")
    assert key(task, ["user_id", "day"], 1, "a") != key(task, ["user_id", "day"], 1, "b")
    assert key(task, lambda user_id, **_: user_id % 10, 31) == "report:1"


def test_a_long_key_is_stood_in_for(task: Any) -> None:
    assert len(key(task, "{day}", 1, "x" * 10_000)) < 100


def test_a_key_that_names_no_parameter_says_so(task: Any) -> None:
    with pytest.raises(TypeError, match=r"'nobody'.*it has user_id, day"):
        key(task, "{nobody}", 1)


def test_a_task_known_by_name_has_numbers_for_positions() -> None:
    assert keys.call_key("far", None, "{0}-{x}", (7,), {"x": 1}) == "far:7-1"


def condition(task: Any, *args: Any, **options: Any) -> Unique | None:
    return keys.unique_of("report", task, args, {}, options)


def test_no_condition_without_an_option(task: Any) -> None:
    assert condition(task, 1) is None
    assert condition(task, 1, unique_for=0) is None


def test_unique_holds_until_the_end_and_debounce_while_delayed(task: Any) -> None:
    unique = condition(task, 1, unique_for=timedelta(minutes=1))
    assert unique is not None
    assert (unique.ttl, unique.until) == (60.0, Hold.ENDED)
    late = condition(task, 1, debounce=5)
    assert late is not None
    assert late.until is Hold.DELAYED
    assert late.ttl > 5
    alone = condition(task, 1, unique_key="{user_id}")
    assert alone is not None
    assert alone.ttl == keys.UNIQUE_AT_MOST


def test_both_at_once_make_no_sense(task: Any) -> None:
    with pytest.raises(TypeError, match="give one of the two"):
        condition(task, 1, unique_for=5, debounce=5)


@pytest.mark.parametrize("wrong", ["5", -1, True])
def test_a_time_is_a_number_or_a_timedelta(task: Any, wrong: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="unique_for is a number"):
        condition(task, 1, unique_for=wrong)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unique_key": "user:{nobody}"}, r"unique_key='user:{nobody}' names 'nobody'.*it has user_id, day"),
        ({"unique_key": ["user_id", "nobody"]}, "names 'nobody'"),
        ({"unique_key": "user:{user_id"}, "cannot be read"),
        ({"unique_key": 7}, "cannot be read"),
        ({"max_concurrency": 1, "concurrency_key": "{nobody.id}"}, "names 'nobody'"),
        ({"concurrency_key": "{user_id}"}, "concurrency_key needs max_concurrency"),
        ({"max_concurrency": 0}, "max_concurrency is a number from 1"),
        ({"unique_for": "1h"}, "unique_for is a number of seconds"),
        ({"unique_for": 60, "debounce": 5}, "give one of the two"),
    ],
)
def test_what_no_call_could_obey_is_a_mistake_of_the_task(options: Any, said: str) -> None:
    def ask(user_id: int, day: str = "today") -> None: ...

    app = make_app()
    app.finalize()
    with pytest.raises(ImproperlyConfigured, match=f"task ask: .*{said}"):
        app.task(ask, name="ask", **options)


def test_keys_that_only_a_call_can_judge_are_let_through() -> None:
    app = make_app()
    for given in ("{0}", "{user_id.name}", "{more}", "any", ["user_id", "other"], lambda **_: 1):
        app.task(report, name=str(given), unique_key=given).name  # noqa: B018 - makes the task


def test_a_key_that_does_not_fit_the_arguments_says_so(task: Any) -> None:
    with pytest.raises(TypeError, match=r"report: the key '{user_id.name}' does not fit .* 'name'"):
        key(task, "{user_id.name}", 1)


def test_a_function_given_to_the_decorator_gets_the_call_s_arguments_only() -> None:
    task = make_app().task(
        report, name="report", unique_key=lambda user_id: user_id % 10,
        max_concurrency=1, concurrency_key=lambda user_id: user_id % 5,
    )  # fmt: skip
    found = keys.unique_of("report", task, (31,), {}, {})
    assert found is not None
    assert found.key == "report:1"
    assert keys.call_key("report", task, task.concurrency_key, (31,), {}) == "report:1"
