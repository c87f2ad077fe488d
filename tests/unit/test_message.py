"""Envelopes and bodies: what is written is read again, and garbage is named.

``data/celery_envelopes.json`` holds what the real Celery 5.7 wrote (``write`` of ``celery_peer.py``).
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import threading
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.exceptions import ContentDisallowed, DecodeError, EncodeError
from celeriac.message import (
    Message,
    Notes,
    decode_body,
    decode_envelope,
    encode_body,
    encode_envelope,
    new_id,
    notes,
    with_notes,
)
from celeriac.serialization import ensure_accept

JSON = ensure_accept(["json"])
TASK_ID = "3f6b1c9e-8d1e-4c57-9a0f-52b1f7f0a001"
CAPTURED = json.loads((Path(__file__).parent.parent / "data" / "celery_envelopes.json").read_text())
NOTHING = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def message(*args: Any, headers: dict[str, Any] | None = None, **options: Any) -> Message:
    body, content_type, encoding, more = encode_body(args, {}, **options)
    made = {"id": TASK_ID, "task": "t", **(headers or {}), **more}
    return Message(made, {"correlation_id": TASK_ID}, body, content_type, encoding)


def captured(name: str) -> Message:
    return decode_envelope(CAPTURED[name].encode())


# -- what Celery has written --------------------------------------------------------------------------


def test_reads_celerys_message() -> None:
    found = captured("plain")
    assert found.headers["task"] == "peer.task"
    assert found.headers["id"] == found.properties["correlation_id"] == TASK_ID
    assert decode_body(found, JSON) == ([2, 3], {}, NOTHING)


def test_reads_celerys_extended_types() -> None:
    args, kwargs, _ = decode_body(captured("typed"), JSON)
    assert args == [
        datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        datetime.date(2026, 1, 2),
        datetime.time(1, 2),
        uuid.UUID("12345678123456781234567812345678"),
        Decimal("1.10"),
        b"ab",
        b"\xff",
        10**30,
        float("inf"),
    ]
    assert [type(item) for item in args[:3]] == [datetime.datetime, datetime.date, datetime.time]
    assert kwargs == {"a": {"b": [1, None, "é"]}}


@pytest.mark.parametrize("name", ["gzip", "bzip2"])
def test_reads_celerys_compressed_bodies(name: str) -> None:
    assert decode_body(captured(name), JSON)[0] == ["x" * 200]


def test_reads_celerys_pickle_only_when_accepted() -> None:
    with pytest.raises(ContentDisallowed, match="accept_content"):
        decode_body(captured("pickle"), JSON)
    assert decode_body(captured("pickle"), ensure_accept(["pickle"]))[0] == ({1, 2},)


def test_reads_protocol_1() -> None:
    found = captured("protocol 1")
    assert "task" not in found.headers
    args, kwargs, embed = decode_body(found, JSON)
    assert (args, kwargs) == ([1, "a"], {"k": 1})
    assert embed == NOTHING
    assert found.headers["task"] == "peer.task"
    assert found.headers["id"] == TASK_ID
    assert found.headers["retries"] == 2
    assert found.headers["timelimit"][0] == 9
    assert found.headers["eta"] == "2026-01-02T03:04:05+00:00"
    assert found.headers["argsrepr"] == "[1, 'a']"


def test_reads_hybrid_messages() -> None:
    body = json.dumps(
        {"task": "of the body", "id": "1", "args": [1], "taskset": "g", "callbacks": [{"task": "c"}]}
    )
    found = Message({"task": "of the headers"}, {}, body.encode())
    args, kwargs, embed = decode_body(found, JSON)
    assert (args, kwargs) == ([1], {})
    assert embed["callbacks"] == [{"task": "c"}]
    assert (found.headers["task"], found.headers["id"], found.headers["group"]) == (
        "of the headers",
        "1",
        "g",
    )


@pytest.mark.parametrize(
    ("eta", "utc", "expected"),
    [
        ("2026-01-02T03:04:05", True, "2026-01-02T03:04:05+00:00"),
        ("2026-01-02T03:04:05", False, "2026-01-02T03:04:05"),
        ("2026-01-02T03:04:05-05:00", True, "2026-01-02T03:04:05-05:00"),
        (None, True, None),
    ],
)
def test_protocol_1_times_are_utc_unless_they_say_otherwise(
    eta: str | None, utc: bool, expected: str | None
) -> None:
    found = Message({}, {}, json.dumps({"task": "t", "id": "1", "eta": eta, "utc": utc}).encode())
    decode_body(found, JSON)
    assert found.headers["eta"] == expected


# -- what we write --------------------------------------------------------------------------------------


def test_envelope_keeps_every_part() -> None:
    original = message(2, 3, headers={"own": {"deep": [1.5, None]}, "stamps": {"a": ["b"]}})
    found = decode_envelope(encode_envelope(original))
    assert found.headers == original.headers
    assert found.body == original.body
    assert found.properties["correlation_id"] == TASK_ID
    assert found.properties["body_encoding"] == "base64"
    assert found.properties["delivery_info"] == {"exchange": "", "routing_key": ""}


def test_every_publication_gets_its_own_delivery_tag() -> None:
    # Celery's consumers key unacknowledged messages by it: two of one task (a retry) must not collide.
    original = message()
    tags = {decode_envelope(encode_envelope(original)).properties["delivery_tag"] for _ in range(3)}
    assert len(tags) == 3
    read = decode_envelope(encode_envelope(original))
    assert decode_envelope(encode_envelope(read)).properties == read.properties


@pytest.mark.parametrize(
    "value",
    [
        datetime.datetime(2026, 1, 1),
        b"\xff",
        Decimal("1.0"),
        uuid.UUID(int=1),
        "\ud800",
        10**30,
        {"a": (b"x",)},
    ],
)
def test_headers_keep_their_types(value: Any) -> None:
    found = decode_envelope(encode_envelope(message(headers={"own": value, "shadow": value})))
    expected = {"a": [b"x"]} if isinstance(value, dict) else value
    assert found.headers["own"] == found.headers["shadow"] == expected
    assert type(found.headers["own"]) is type(expected)


def test_non_finite_numbers_survive() -> None:
    found = decode_envelope(encode_envelope(message(float("inf"), headers={"own": float("-inf")})))
    assert found.headers["own"] == float("-inf")
    assert decode_body(found, JSON)[0] == [float("inf")]


def test_unwritable_header_is_named() -> None:
    with pytest.raises(EncodeError, match=r"headers\['own'\]\['a'\]: an object of type set"):
        encode_envelope(message(headers={"own": {"a": {1}}}))


def test_unwritable_known_header_is_named() -> None:
    with pytest.raises(EncodeError, match=r"headers\['shadow'\]: an object of type object"):
        encode_envelope(message(headers={"shadow": object()}))


@pytest.mark.parametrize("value", [set(), {1}, frozenset()])
def test_custom_empty_sets_are_refused_as_well(value: Any) -> None:
    with pytest.raises(EncodeError):
        encode_envelope(message(headers={"own": value}))


def test_unwritable_argument_is_named_with_a_remedy() -> None:
    with pytest.raises(
        EncodeError, match=r"args\[1\]\['when'\]: an object of type .*timedelta.*total_seconds"
    ):
        encode_body((1, {"when": datetime.timedelta(1)}), {})
    with pytest.raises(EncodeError, match=r"kwargs\['k'\]\[0\]: an object of type set .*list\(value\)"):
        encode_body((), {"k": [{1}]})
    with pytest.raises(EncodeError, match=r"errbacks\[0\]: an object of type object"):
        encode_body((), {}, {**NOTHING, "errbacks": [object()]})


def test_body_carries_what_follows() -> None:
    embed = {**NOTHING, "chain": [{"task": "b"}, {"task": "a"}]}
    found = message(1, embed=embed)
    assert decode_body(found, JSON) == ([1], {}, embed)


@pytest.mark.parametrize("method", ["gzip", "zlib", "bzip2", "lzma", "zstd"])
@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
def test_body_round_trip(serializer: str, method: str) -> None:
    found = decode_envelope(encode_envelope(message("é", 1, serializer=serializer, compression=method)))
    args, kwargs, embed = decode_body(found, ensure_accept([serializer]))
    assert (list(args), kwargs, embed) == (["é", 1], {}, NOTHING)


def test_decoded_embeds_are_not_shared() -> None:
    _, _, first = decode_body(message(), JSON)
    first["chain"] = [1]
    _, _, second = decode_body(Message({}, {}, b"[[], {}, {}]"), JSON)
    second["chain"] = [2]
    assert decode_body(Message({}, {}, b"[[], {}, null]"), JSON)[2] == NOTHING
    sparse = decode_body(Message({}, {}, b'[[], {}, {"chain": [1]}]'), JSON)[2]
    assert sparse == {**NOTHING, "chain": [1]}
    assert encode_body((), {})[0] == encode_body((), {}, NOTHING)[0]  # type: ignore[arg-type]


def test_bomb_is_refused() -> None:
    with pytest.raises(DecodeError, match="more than the limit of 1000 bytes"):
        decode_body(message("x" * 10_000, compression="gzip"), JSON, limit=1000)


# -- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b"garbage", "not JSON"),
        (b"[1, 2]", "Expected `object`"),
        (b"{}", "neither body nor headers"),
        (b'{"method": "ping"}', "neither body nor headers"),
        (b'{"body": {"a": 1}, "headers": {}}', r"\$.body"),
        (b'{"body": "", "headers": []}', r"\$.headers"),
        (b'{"body": "", "properties": "x"}', r"\$.properties"),
        (b'{"body": "", "content-type": 1}', r"content-type"),
        (b'{"body": "@@@", "properties": {"body_encoding": "base64"}}', "damaged base64"),
        (b'{"body": "YQ", "properties": {"body_encoding": "base64"}}', "damaged base64"),
        ('{"body": "é", "properties": {"body_encoding": "base64"}}'.encode(), "damaged base64"),
        (b'{"body": "\\ud800", "headers": {"a": 1}}', "damaged text"),
        (b'{"headers": {"a": {"__type__": "datetime", "__value__": 5}}}', "not JSON"),
        (b'{"headers": {"a": {"__type__": "decimal", "__value__": "x"}}}', "not JSON"),
        (b'{"headers": {"a": {"__type__": ["x"], "__value__": "x"}}}', "unknown extended type"),
        (b'{"headers": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"headers": {"a": ' + b"1" * 5000 + b"}}", "not JSON"),
    ],
)
def test_bad_envelopes_are_named(data: bytes, complaint: str) -> None:
    with pytest.raises(DecodeError, match=complaint):
        decode_envelope(data)


@pytest.mark.parametrize(
    "body", [b"", b"1", b"null", b"[]", b"[1, {}, {}]", b"[[], [], {}]", b"[[], {}, 5]", b"\x80"]
)
def test_bad_bodies_are_named(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_body(Message({}, {}, body), JSON)


@pytest.mark.parametrize(
    "headers", [{"compression": "application/x-gzip"}, {"compression": "x"}, {"compression": 5}]
)
def test_bad_compression_is_named(headers: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match=r"damaged|unknown way"):
        decode_body(Message(headers, {}, b"[[], {}, {}]"), JSON)


def test_reads_sparse_and_foreign_envelopes() -> None:
    body = "[[1], {}, {}]"
    as_text = json.dumps({"body": body, "headers": {"task": "t", "id": "1"}}).encode()
    assert decode_body(decode_envelope(as_text), JSON)[0] == [1]
    lines = base64.encodebytes(body.encode() * 20).decode()
    broken = json.dumps({"body": lines, "headers": None, "properties": {"body_encoding": "base64"}})
    assert decode_envelope(broken.encode()).body == body.encode() * 20


WHOLE = encode_envelope(message(1, "x", {"a": [b"\xff"]}, headers={"own": b"x"}))


@given(st.one_of(st.binary(), st.text().map(str.encode)))
@settings(max_examples=300, deadline=None)
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    check_garbage(data)


@given(
    st.integers(0, len(WHOLE)),
    st.integers(0, len(WHOLE)),
    st.sampled_from(
        [b"", b"null", b"1", b"[]", b"{", b'"', b"\xff", b"\x00", b'{"__type__":1,"__value__":2}', b"NaN"]
    ),
)
@settings(max_examples=500, deadline=None)
def test_damaged_messages_raise_nothing_else(start: int, end: int, patch: bytes) -> None:
    check_garbage(WHOLE[:start] + patch + WHOLE[end:])


def check_garbage(data: bytes) -> None:
    try:
        found = decode_envelope(data)
        notes(found)
        args, kwargs, _ = decode_body(found, ensure_accept(["json", "msgpack", "yaml"]))
        assert isinstance(args, list)
        assert isinstance(kwargs, dict)
    except (DecodeError, ContentDisallowed):
        pass


# -- notes ------------------------------------------------------------------------------------------------


def test_notes_travel_in_one_header() -> None:
    original = message(1)
    noted = with_notes(original, Notes(reply="r", deliveries=2))
    assert noted.headers["celeriac"] == {"reply": "r", "deliveries": 2}
    assert "celeriac" not in original.headers
    assert notes(decode_envelope(encode_envelope(noted))) == Notes(reply="r", deliveries=2)
    assert with_notes(noted, Notes()).headers == original.headers


def test_foreign_notes() -> None:
    assert notes(message()) == Notes()
    assert notes(message(headers={"celeriac": {"of": "a later version", "held": True}})) == Notes(held=True)
    for garbage in ("text", [1], {"deliveries": "many"}):
        with pytest.raises(DecodeError, match="celeriac"):
            notes(message(headers={"celeriac": garbage}))


# -- ids --------------------------------------------------------------------------------------------------


def test_ids_are_uuids_of_version_4() -> None:
    made = [new_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    for text in made:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)


def test_forked_processes_make_other_ids() -> None:
    new_id()  # there is a pool now
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "".join(new_id() for _ in range(100)).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    theirs = {text[at : at + 36] for at in range(0, len(text), 36)}
    assert len(theirs) == 100
    assert not theirs & {new_id() for _ in range(100)}


def test_threads_make_different_ids() -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.extend([new_id() for _ in range(2000)])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8000
