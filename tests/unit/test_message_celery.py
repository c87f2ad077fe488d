"""Messages and exceptions against the real Celery, in both directions."""

from __future__ import annotations

import datetime
import json
import uuid
from decimal import Decimal
from typing import Any

import pytest

from celeriac import exceptions
from celeriac.message import (
    Message,
    Notes,
    decode_body,
    decode_envelope,
    encode_body,
    encode_envelope,
    with_notes,
)
from celeriac.serialization import encode_exception, ensure_accept, json_dumps
from celeriac.wire_errors import decode_exception

NAMES = {"datetime": datetime, "UUID": uuid.UUID, "Decimal": Decimal, "inf": float("inf")}
ARGUMENTS = (
    2,
    "é",
    None,
    [1.5, {"a": b"\xff"}],
    Decimal("1.10"),
    uuid.UUID(int=7),
    datetime.date(2026, 1, 2),
)


@pytest.mark.parametrize("compression", [None, "gzip", "bzip2", "lzma"])
@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_celery_reads_our_messages(celery_peer: Any, serializer: str, compression: str | None) -> None:
    body, content_type, encoding, more = encode_body(ARGUMENTS, {"k": "v"}, None, serializer, compression)
    headers = {"lang": "py", "task": "t", "id": "1", "own": {"x": datetime.time(1, 2)}, **more}
    message = with_notes(
        Message(headers, {"correlation_id": "1"}, body, content_type, encoding), Notes(sent=1.5)
    )
    found = eval(celery_peer.ask("read", encode_envelope(message).decode()), NAMES)
    args, kwargs, embed = found["body"]
    assert (tuple(args), kwargs) == (ARGUMENTS, {"k": "v"})
    assert embed == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    assert found["headers"] | more == message.headers
    assert found["properties"]["correlation_id"] == "1"
    assert found["properties"]["delivery_tag"]


@pytest.mark.parametrize("compression", [None, "gzip", "bzip2", "lzma"])
@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize("protocol", [1, 2])
def test_we_read_celerys_messages(
    celery_peer: Any, protocol: int, serializer: str, compression: str | None
) -> None:
    options = {
        "args": ARGUMENTS,
        "kwargs": {"k": "v"},
        "protocol": protocol,
        "serializer": serializer,
        "compression": compression,
        "headers": {"own": datetime.date(2026, 1, 2)},
        "task_id": "an-id",
        "retries": 3,
    }
    message = decode_envelope(celery_peer.ask("write", repr(options)).encode())
    args, kwargs, _ = decode_body(message, ensure_accept([serializer]))
    assert (tuple(args), kwargs) == (ARGUMENTS, {"k": "v"})
    assert (message.headers["task"], message.headers["id"], message.headers["retries"]) == (
        "peer.task",
        "an-id",
        3,
    )
    assert message.headers["own"] == datetime.date(2026, 1, 2)


def test_our_envelope_is_celerys_but_for_spaces(celery_peer: Any) -> None:
    written = celery_peer.ask("write", "{'args': (1, {'a': [None]})}")
    message = decode_envelope(written.encode())
    args, kwargs, embed = decode_body(message, ensure_accept(["json"]))
    again, _, _, _ = encode_body(tuple(args), kwargs, embed)
    assert json.loads(again) == json.loads(message.body)
    assert json.loads(encode_envelope(message)) == json.loads(written)


# -- exceptions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "ValueError('boom', 1)",
        "KeyError(b'\\xff', datetime.date(2026, 1, 2))",
        "ValueError({1})",
        "exceptions.TaskRevokedError('revoked')",
        "exceptions.TimeLimitExceeded(5)",
        "exceptions.SoftTimeLimitExceeded()",
        "exceptions.WorkerLostError('gone')",
        "exceptions.Terminated(9)",
        "exceptions.OperationalError('x')",
        "exceptions.Ignore()",
        "exceptions.Reject('r', True)",
        "exceptions.Retry('m', ValueError('x'), 3)",
        "exceptions.MaxRetriesExceededError('m')",
        "exceptions.NotRegistered('a.b')",
        "exceptions.ChordError('c')",
        "exceptions.BackendGetMetaError('b', task_id='1')",
        "exceptions.ImproperlyConfigured('i')",
        "exceptions.SecurityError('s')",
    ],
)
def test_exceptions_are_written_as_celery_writes_them(celery_peer: Any, text: str) -> None:
    ours = eval(text, {**NAMES, "exceptions": exceptions})
    written = json_dumps(encode_exception(ours)).decode()
    assert json.loads(written) == json.loads(celery_peer.ask("write_error", text))
    module, name, _ = celery_peer.ask("read_error", written)
    assert name == type(ours).__qualname__
    assert module.split(".")[0] in ("builtins", "celery", "billiard", "kombu")
    assert type(decode_exception(encode_exception(ours))) is type(ours)


def test_every_exception_of_ours_is_named_where_a_celery_client_finds_it(celery_peer: Any) -> None:
    own = {
        "CeleriacError",
        "EntryNotFound",
        "LeaseLost",
        "Fenced",
        "SchemaError",
        "StoreFull",
        "WorkerTerminate",
        "WorkerShutdown",
    }
    kinds = {
        kind.__name__: kind
        for kind in vars(exceptions).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == exceptions.__name__
    }
    for name in kinds.keys() - own:
        data = {**encode_exception(Exception("x")), "exc_type": name}
        data["exc_module"] = encode_exception(kinds[name].__new__(kinds[name], "x"))["exc_module"]
        assert data["exc_module"] != exceptions.__name__, name
        found = celery_peer.ask("read_error", json.dumps({**data, "exc_message": ["x"]}))
        assert found[1] in (name, "Exception"), name
        assert found[0] in ("celery.exceptions", "billiard.exceptions", "kombu.exceptions", "builtins")


def test_an_exception_of_our_own_still_arrives(celery_peer: Any) -> None:
    written = json_dumps(encode_exception(exceptions.StoreFull("disk")))
    assert celery_peer.ask("read_error", written.decode()) == ["celery.exceptions", "StoreFull", "('disk',)"]
    base = json_dumps(encode_exception(exceptions.CeleryError("x")))
    assert celery_peer.ask("read_error", base.decode()) == ["celery.exceptions", "CeleryError", "('x',)"]
