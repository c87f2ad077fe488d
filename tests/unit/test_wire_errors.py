"""Exceptions as data: what comes back, and what an attacker's data must not do."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from celeriac import exceptions
from celeriac.exceptions import DecodeError, SecurityError
from celeriac.serialization import decode_exception, encode_exception, json_dumps


class Plain(Exception):
    pass


class Picky(Exception):
    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(f"{code}: {text}")


class NeedsAttributes(Exception):
    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(text)

    def __str__(self) -> str:
        return str(self.code)


def stored(kind: str, module: Any, message: Any = ("x",)) -> dict[str, Any]:
    return {"exc_type": kind, "exc_message": message, "exc_module": module}


def test_round_trip() -> None:
    try:
        try:
            raise KeyError("cause")
        except KeyError as cause:
            raise Plain("a", 1) from cause
    except Plain as error:
        data = json.loads(json_dumps(encode_exception(error)))
    assert data == {"exc_type": "Plain", "exc_message": ["a", 1], "exc_module": __name__}
    found = decode_exception(data)
    assert type(found) is Plain
    assert found.args == ("a", 1)


def test_unwritable_arguments_become_text() -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    found = encode_exception(ValueError({1}, Bad(), 2, ValueError("nested")))
    assert found["exc_message"][0] == "{1}"
    assert "Unrepresentable" in found["exc_message"][1]
    assert found["exc_message"][2:] == [2, "ValueError('nested')"]
    json_dumps(found)


def test_classes_of_other_constructors_are_still_caught_by_type() -> None:
    found = decode_exception(json.loads(json_dumps(encode_exception(Picky(4, "no")))))
    assert type(found) is Picky
    assert str(found) == "4: no"


def test_classes_that_cannot_be_shown_without_their_constructor() -> None:
    found = decode_exception(encode_exception(NeedsAttributes(4, "no")))
    assert type(found) is Exception
    assert "NeedsAttributes" in str(found)


def test_groups_and_decode_errors() -> None:
    group = encode_exception(ExceptionGroup("g", [ValueError(1)]))
    assert "ExceptionGroup" in str(decode_exception(group)) + type(decode_exception(group)).__name__
    unicode = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")
    assert decode_exception(encode_exception(unicode)).args == unicode.args


def test_unknown_classes_are_stood_in_for() -> None:
    for data in (
        stored("Gone", "not.loaded"),
        stored("Gone", "builtins"),
        stored("Gone", None),
        stored("f.<locals>.Gone", "builtins"),
        stored("Gone.Deeper", "builtins", "text"),
    ):
        found = decode_exception(data)
        assert isinstance(found, Exception)
        assert type(found).__name__ == data["exc_type"]
        assert type(found).__module__ == "celeriac.exceptions"
        assert found.args == (("text",) if data["exc_message"] == "text" else ("x",))


@pytest.mark.parametrize("module", ["celery.exceptions", "celeriac.exceptions"])
@pytest.mark.parametrize("name", ["TaskRevokedError", "TimeLimitExceeded", "OperationalError"])
def test_celerys_classes_are_ours(module: str, name: str) -> None:
    assert type(decode_exception(stored(name, module))) is getattr(exceptions, name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "int"),
        ("subprocess", "Popen"),
        (__name__, "subprocess"),
    ],
)
def test_only_exceptions_are_made(module: str, name: str) -> None:
    assert subprocess
    with pytest.raises(SecurityError, match="not an exception"):
        decode_exception(stored(name, module, ["true"]))


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_no_stored_value_stops_a_process(name: str) -> None:
    found = decode_exception(stored(name, "builtins"))
    assert isinstance(found, Exception)
    assert type(found).__name__ == name


def test_nothing_is_imported() -> None:
    import sys

    assert "wave" not in sys.modules, "choose another module that nobody imports"
    decode_exception(stored("Error", "wave"))
    assert "wave" not in sys.modules


@pytest.mark.parametrize("data", [None, 5, "text", [], {}, {"exc_type": 5}, stored("a\x00b", None)])
def test_malformed_data(data: Any) -> None:
    with pytest.raises(DecodeError):
        decode_exception(data)


def test_exceptions_pass_through() -> None:
    error = ValueError()
    assert decode_exception(error) is error
