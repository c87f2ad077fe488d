"""Serialisers, compression and the text of arguments: exact for Celery's types, clear about the rest."""

from __future__ import annotations

import bz2
import dataclasses
import datetime
import enum
import json
import lzma
import sys
import types
import uuid
import zlib
from collections import OrderedDict, namedtuple
from decimal import Decimal
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac import extended_json, serialization
from celeriac.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured
from celeriac.saferepr import repr_args
from celeriac.serialization import (
    compress,
    decompress,
    dumps,
    ensure_accept,
    json_dumps,
    json_loads,
    loads,
    register,
    register_type,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(), inner, max_size=40),
    max_leaves=60,
)
TYPED = (
    st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | st.dates()
    | st.times()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.binary()
)


class Color(enum.Enum):
    RED = 1


class Text(enum.StrEnum):
    A = "a"


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: int


class Described:
    def __json__(self) -> Any:
        return {"when": datetime.date(2026, 1, 2)}


# -- JSON -----------------------------------------------------------------------------------------------


@given(PLAIN)
@settings(max_examples=300, deadline=None)
def test_json_of_plain_values_is_exact(value: Any) -> None:
    text = json_dumps(value)
    assert json_loads(text) == value == json.loads(text)


@given(st.lists(PLAIN | TYPED | st.dictionaries(st.text(), TYPED), max_size=8))
@settings(max_examples=200, deadline=None)
def test_json_keeps_extended_types(value: Any) -> None:
    found = json_loads(json_dumps(value))
    assert found == value
    assert [type(item) for item in found] == [type(item) for item in value]


def test_json_of_special_values() -> None:
    assert json_dumps(float("nan")) == b"NaN"
    assert json_dumps([float("inf"), {"a": float("-inf")}]) == b'[Infinity, {"a": -Infinity}]'
    assert json_loads(b"[NaN, Infinity, 1e400]")[1:] == [float("inf")] * 2
    assert json_loads(json_dumps("\ud800")) == "\ud800"
    assert json_loads(json_dumps({"\ud800": ["\udfff"]})) == {"\ud800": ["\udfff"]}
    assert json_loads(json_dumps({1: 2, None: 3, False: 4, 1.5: 5})) == {
        "1": 2,
        "null": 3,
        "false": 4,
        "1.5": 5,
    }
    assert json_loads(json_dumps((1, (2,)))) == [1, [2]]
    assert json_loads(json_dumps([Text.A, Number.ONE, Described()])) == [
        "a",
        1,
        {"when": datetime.date(2026, 1, 2)},
    ]
    assert json_loads(b'{"\\u005f_type__": "decimal", "__value__": "1.0"}') == Decimal("1.0")
    assert json_loads(b'{"__type__": "decimal", "__value__": "1", "more": 1}')["more"] == 1


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ({1, 2}, "list"),
        (frozenset(), "list"),
        (Color.RED, "value.value"),
        (Point(1), "asdict"),
        (datetime.timedelta(1), "total_seconds"),
        (1j, "plain data"),
        (object(), "__json__"),
        ({(1, 2): 3}, "strings as keys"),
        ({uuid.UUID(int=1): 3}, "strings as keys"),
        ({b"x": 3}, "strings as keys"),
        (bytearray(b"x"), "plain data"),
        (memoryview(b"x"), "plain data"),
        pytest.param(10**5000, "int cannot be written", id="huge"),
    ],
)
def test_json_refuses_what_celery_refuses(value: Any, remedy: str) -> None:
    # msgspec alone would write most of these, in forms that no Celery worker reads back.
    for wrapped in (value, [value], {"k": value}, [[0, value]]):
        with pytest.raises(EncodeError, match=remedy):
            json_dumps(wrapped)


def test_json_names_circular_values() -> None:
    value: list[Any] = [1]
    value.append({"k": value})
    with pytest.raises(EncodeError, match=r"value\[1\]\['k'\].*contains itself"):
        json_dumps(value)


def test_json_of_objects_that_fail() -> None:
    class Bad:
        def __json__(self) -> Any:
            raise RuntimeError("no")

    with pytest.raises(EncodeError, match=r"value\[0\]: an object of type .*Bad"):
        json_dumps([Bad()])


def test_json_of_lazy_django_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Promise:
        def __str__(self) -> str:
            return "lazy"

    functional = types.ModuleType("django.utils.functional")
    functional.Promise = Promise  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "django.utils.functional", functional)
    assert json_dumps([Promise()]) == b'["lazy"]'


def test_registered_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extended_json, "_encoders", dict(extended_json._encoders))
    monkeypatch.setattr(extended_json, "_decoders", dict(extended_json._decoders))
    register_type(Point, "point", lambda point: point.x, Point)
    register_type(set, None, sorted)
    assert json_loads(json_dumps([Point(3), {2, 1}])) == [Point(3), [1, 2]]


# -- serialisers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content_type", "encoding"),
    [
        ("json", "application/json", "utf-8"),
        ("yaml", "application/x-yaml", "utf-8"),
        ("msgpack", "application/x-msgpack", "binary"),
        ("pickle", "application/x-python-serialize", "binary"),
    ],
)
def test_serializers_carry_celerys_labels(name: str, content_type: str, encoding: str) -> None:
    value = {"a": [1, "é", None, 1.5]}
    label, found_encoding, data = dumps(value, name)
    assert (label, found_encoding) == (content_type, encoding)
    assert loads(data, content_type, encoding, ensure_accept([name])) == value
    with pytest.raises(ContentDisallowed, match=name):
        loads(data, content_type, encoding, frozenset())
    with pytest.raises(DecodeError):
        loads(b"\x80\xff[garbage", content_type, encoding, ensure_accept([name]))


@pytest.mark.parametrize("name", ["json", "yaml", "msgpack", "pickle"])
def test_every_serializer_names_the_culprit(name: str) -> None:
    culprit = lambda: None  # noqa: E731
    with pytest.raises(EncodeError, match=rf"args\[1\]\['f'\]: .*function cannot be written as {name}"):
        dumps(([1, {"f": culprit}], {}), name, {"args": [1, {"f": culprit}], "kwargs": {}})


def test_yaml_makes_no_objects() -> None:
    with pytest.raises(DecodeError):
        loads(b"!!python/object/apply:os.getpid []", "application/x-yaml", "utf-8", ensure_accept(["yaml"]))


def test_unknown_names() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"jsn.*json, msgpack"):
        ensure_accept(["jsn"])
    with pytest.raises(ImproperlyConfigured, match="nope"):
        dumps(1, "nope")
    assert ensure_accept(["json", "text/x"]) == {"application/json", "text/x"}
    with pytest.raises(DecodeError, match="text/x"):
        loads(b"1", "text/x", "utf-8", {"text/x"})


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("yaml", "zstandard", "brotli"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImproperlyConfigured, match=r"celeriac\[yaml\]"):
        dumps(1, "yaml")
    with pytest.raises(DecodeError, match=r"celeriac\[yaml\]"):
        loads(b"1", "application/x-yaml", "utf-8", ensure_accept(["yaml"]))
    with pytest.raises(EncodeError, match=r"celeriac\[zstd\]"):
        compress(b"x", "zstd")
    with pytest.raises(DecodeError, match="brotli"):
        decompress(b"x", "application/x-brotli")


def test_own_serializers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialization, "_by_name", dict(serialization._by_name))
    monkeypatch.setattr(serialization, "_by_type", dict(serialization._by_type))
    register("upper", lambda value: str(value).upper(), lambda data: data.decode().lower(), "text/x-upper")
    assert dumps("é", "upper") == ("text/x-upper", "utf-8", "É".encode())
    assert loads(b"AB", "text/x-upper", "utf-8", ensure_accept(["upper"])) == "ab"


# -- compression ----------------------------------------------------------------------------------------

LABELS = {
    "gzip": "application/x-gzip",
    "zlib": "application/x-gzip",
    "bzip2": "application/x-bz2",
    "lzma": "application/x-lzma",
    "xz": "application/x-lzma",
    "zstd": "application/zstd",
}


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("size", [0, 1, 3000, 2_000_000])
def test_compression_round_trip(name: str, size: int) -> None:
    original = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    data, label = compress(original, name)
    assert label == LABELS[name]
    assert decompress(data, label, limit=size) == original
    assert decompress(data, name) == original
    if size:
        with pytest.raises(DecodeError, match=f"more than the limit of {size - 1} bytes"):
            decompress(data, label, limit=size - 1)
    for damaged in (data[:-1], data[: len(data) // 2], b"", b"garbage"):
        with pytest.raises(DecodeError, match="damaged"):
            decompress(damaged, label)


@pytest.mark.parametrize(
    ("label", "bomb"),
    [
        ("application/x-gzip", zlib.compress(bytes(50_000_000))),
        ("application/x-bz2", bz2.compress(bytes(50_000_000))),
        ("application/x-lzma", lzma.compress(bytes(50_000_000), preset=0)),
        ("application/zstd", zstandard.compress(bytes(50_000_000))),
    ],
)
def test_bombs_do_not_go_off(label: str, bomb: bytes) -> None:
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(DecodeError, match="limit"):
        decompress(bomb, label, limit=100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40_000_000


def test_zstd_bodies_of_streaming_writers() -> None:
    stream = zstandard.ZstdCompressor().compressobj()  # writes no size of the original
    data = stream.compress(b"abc" * 1000) + stream.flush()
    assert decompress(data, "application/zstd") == b"abc" * 1000


def test_unknown_compression() -> None:
    with pytest.raises(EncodeError, match=r"'lz77'.*bzip2"):
        compress(b"x", "lz77")
    with pytest.raises(DecodeError, match="lz77"):
        decompress(b"x", "lz77")


# -- the text of arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((), "()"),
        ((2, 3), "(2, 3)"),
        ((1,), "(1,)"),
        ({}, "{}"),
        ({"a": 1, "b": None}, "{'a': 1, 'b': None}"),
        (("it's",), "('it\\'s',)"),
        (('"',), "('\"',)"),
        (("a\nb\\",), "('a\nb\\',)"),
        (([[[1]]],), "([[[...]]],)"),
        ((Decimal("1.0"), True, 1.5), "(Decimal('1.0'), True, 1.5)"),
        ((b"ab", b"\xff"), "(b'ab', b'ff')"),
        ((set(), {1}, frozenset({2})), "(set(), {1}, frozenset({2}))"),
    ],
)
def test_text_of_arguments(value: Any, expected: str) -> None:
    assert repr_args(value) == expected


def test_text_of_arguments_is_bounded() -> None:
    text = repr_args((list(range(100_000)), "x" * 100_000), 1024)
    assert len(text) < 1100
    assert text.endswith((", ...])", ", ...)"))


def test_text_of_hostile_arguments() -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    circle: list[Any] = []
    circle.append(circle)
    assert "Unrepresentable" in repr_args((Bad(),))
    assert "Recursion on list" in repr_args((circle,))
    assert "Unrepresentable" in repr_args((10**5000,))


# -- against the real Celery ----------------------------------------------------------------------------

Pair = namedtuple("Pair", "a b")
NAMES = {"datetime": datetime, "UUID": uuid.UUID, "Decimal": Decimal, "inf": float("inf")}


@given(
    st.lists(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text(max_size=40)
            | st.decimals()
            | st.binary(max_size=20)
            | st.datetimes()
            | st.uuids(),
            lambda inner: (
                st.lists(inner, max_size=5)
                | st.dictionaries(st.text(max_size=9), inner, max_size=5)
                | st.tuples(inner)
                | st.frozensets(st.integers(), max_size=3)
            ),
            max_leaves=30,
        ),
        max_size=20,
    ),
    st.sampled_from([1024, 200, 50, 20, 5]),
)
@settings(max_examples=150, deadline=None)
def test_text_of_arguments_equals_celerys(celery_peer: Any, value: list[Any], limit: int) -> None:
    for arguments in (tuple(value), {str(index): item for index, item in enumerate(value)}):
        expected = celery_peer.ask("repr_args", expression(arguments), limit)
        assert repr_args(eval(expression(arguments), NAMES), limit) == expected


def expression(value: Any) -> str:
    """``repr``, with the two floats that have no literal."""
    return "(lambda nan, inf: " + repr(value) + ")(float('nan'), float('inf'))"


@given(st.lists(PLAIN | TYPED | st.dictionaries(st.text(), TYPED), max_size=6))
@settings(max_examples=100, deadline=None)
def test_celery_reads_our_json_and_we_read_celerys(celery_peer: Any, value: Any) -> None:
    assert eval(celery_peer.ask("read_json", json_dumps(value).decode()), NAMES) == value
    assert json_loads(celery_peer.ask("write_json", expression(value))) == value


@pytest.mark.parametrize("name", ["gzip", "zlib", "bzip2", "lzma", "xz"])
def test_celery_reads_our_compression_and_we_read_celerys(celery_peer: Any, name: str) -> None:
    import base64

    data, label = compress(b"some text" * 50, name)
    assert celery_peer.ask("decompress", label, base64.b64encode(data).decode()) == "some text" * 50
    theirs, their_label = celery_peer.ask("compress", name, "some text" * 50)
    assert their_label == label
    assert decompress(base64.b64decode(theirs), their_label) == b"some text" * 50


def test_ordered_and_named_containers_read_as_celery_writes_them(celery_peer: Any) -> None:
    assert json_dumps([OrderedDict(a=1), Pair(1, 2)]) == b'[{"a": 1}, [1, 2]]'
    assert celery_peer.ask("write_json", "[{'a': 1}, (1, 2)]") == '[{"a": 1}, [1, 2]]'
