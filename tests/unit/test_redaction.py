"""What is shown of arguments and results, and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.app.request import Context
from celeriac.exceptions import ImproperlyConfigured, MaxRetriesExceededError
from tests.unit.helpers import body, make_app, message, messages, running


@pytest.fixture
def app() -> Celeriac:
    return make_app()


def shown(app: Celeriac) -> tuple[str, str]:
    headers = message(app).headers
    return headers["argsrepr"], headers["kwargsrepr"]


def test_plain_arguments_are_shown_as_they_are(app: Celeriac) -> None:
    @app.task(shared=False)
    def add(x: Any, y: Any) -> None: ...

    add.delay(2, y=[3, {"a": None}])
    assert shown(app) == ("(2,)", "{'y': [3, {'a': None}]}")


def test_a_sensitive_parameter_is_hidden_however_it_is_passed(app: Celeriac) -> None:
    @app.task(shared=False, sensitive=("iban",))
    def pay(iban: str, amount: int) -> None: ...

    pay.delay("DE89 3704", 5)
    pay.apply_async((), {"iban": "DE89 3704", "amount": 5})
    first, second = messages(app)
    assert first.headers["argsrepr"] == "('***', 5)"
    assert second.headers["kwargsrepr"] == "{'iban': '***', 'amount': 5}"
    assert body(first)[0] == ["DE89 3704", 5]
    assert "DE89" not in json.dumps(first.headers) + json.dumps(second.headers)


def test_parameters_and_keys_with_telling_names_are_hidden_at_any_depth(app: Celeriac) -> None:
    @app.task(shared=False)
    def login(user: str, password: str, options: Any) -> None: ...

    login.delay("bob", "hunter2", {"retry": 1, "headers": {"Authorization": "Bearer x"}})
    assert shown(app) == ("('bob', '***', {'retry': 1, 'headers': {'Authorization': '***'}})", "{}")


@pytest.mark.parametrize(
    "name", ["password", "passwd", "pwd", "API_KEY", "apikey", "client_secret", "access_token", "cookies"]
)
def test_the_default_patterns(app: Celeriac, name: str) -> None:
    app.send_task("unknown.task", kwargs={name: "hunter2"})
    assert shown(app)[1] == f"{{'{name}': '***'}}"


def test_positions_of_bound_tasks_and_of_rest_arguments(app: Celeriac) -> None:
    @app.task(shared=False, bind=True)
    def bound(self: Any, secret: str, *tokens: str) -> None: ...

    bound.delay("a", "b", "c")
    assert shown(app) == ("('***', '***', '***')", "{}")


def test_enqueue_many_hides_too(app: Celeriac) -> None:
    @app.task(shared=False, sensitive="pin")
    def check(pin: int) -> None: ...

    check.enqueue_many([(1234,), (5678,), ((), {"pin": 9999})])
    reprs = [(m.headers["argsrepr"], m.headers["kwargsrepr"]) for m in messages(app)]
    assert reprs == [("('***',)", "{}"), ("('***',)", "{}"), ("()", "{'pin': '***'}")]


def test_a_name_that_is_no_parameter_is_a_mistake_said_at_the_call(app: Celeriac) -> None:
    @app.task(shared=False, sensitive=("pasword",))
    def login(password: str) -> None: ...

    with pytest.raises(ImproperlyConfigured, match="'pasword', which is not a parameter"):
        login.delay("x")


def test_a_hidden_argument_does_not_come_out_where_the_text_is_cut(app: Celeriac) -> None:
    @app.task(shared=False)
    def store(data: Any) -> None: ...

    store.delay([{"n": n, "token": "hunter2"} for n in range(500)])
    assert "hunter2" not in shown(app)[0]
    assert len(shown(app)[0]) < 1200


def test_patterns_of_ones_own_replace_the_default_ones() -> None:
    app = make_app(redact_patterns=["^iban$"])
    app.send_task("t", kwargs={"IBAN": 1, "password": 2, "my_iban": 3})
    assert shown(app)[1] == "{'IBAN': '***', 'password': 2, 'my_iban': 3}"


def test_no_patterns_hide_nothing_but_sensitive_parameters() -> None:
    app = make_app(redact_patterns=[])

    @app.task(shared=False, sensitive=("a",))
    def show(a: int, password: int) -> None: ...

    show.delay(1, 2)
    assert shown(app)[0] == "('***', 2)"


def test_a_broken_pattern_is_named() -> None:
    app = make_app(redact_patterns=["("])
    with pytest.raises(ImproperlyConfigured, match="redact_patterns"):
        app.send_task("t")


def test_extended_results_hold_no_secret() -> None:
    app = make_app(result_extended=True)

    @app.task(shared=False, sensitive=("pin",))
    def check(pin: int, data: Any, token: str = "") -> None: ...

    check.delay(1234, [{"password": "hunter2", "n": 1}], token="hunter2")
    context: Context = running(message(app))
    record = app.results.record("SUCCESS", None, context)
    meta = app.results.decode(record.payload)
    assert meta["args"] == ["***", [{"password": "***", "n": 1}]]
    assert meta["kwargs"] == {"token": "***"}
    assert context.args[0] == 1234


def test_results_in_the_log(app: Celeriac) -> None:
    @app.task(shared=False, sensitive_result=True)
    def secret() -> None: ...

    @app.task(shared=False)
    def plain() -> None: ...

    assert app.redact.result_repr(secret, "hunter2") == "'***'"
    assert app.redact.result_repr(plain, {"id": 1, "token": "hunter2"}) == "{'id': 1, 'token': '***'}"
    assert app.redact.result_repr(plain, 4) == "4"


def test_the_error_of_the_last_retry_shows_no_secret(app: Celeriac) -> None:
    @app.task(shared=False, bind=True, max_retries=0)
    def login(self: Any, password: str) -> None:
        self.retry()

    result = login.apply(("hunter2",))
    assert isinstance(result.result, MaxRetriesExceededError)
    assert "'***'" in str(result.result)
    assert "hunter2" not in str(result.result)
