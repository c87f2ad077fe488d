"""What needs no RabbitMQ: the bytes of properties, addresses, delays, and messages that cannot be written."""

from __future__ import annotations

import datetime
import struct
from decimal import Decimal
from typing import Any

import amqp
import pytest
from amqp import spec
from amqp.basic_message import Message as TheirMessage
from amqp.exceptions import UnexpectedFrame
from amqp.serialization import decode_properties_basic

from celeriac.engines.rabbitmq.address import parse
from celeriac.engines.rabbitmq.frames import content_frames, frame_reader
from celeriac.engines.rabbitmq.tables import Known, decode_properties, write_properties
from celeriac.engines.rabbitmq.topology import delayed_key, whole_seconds
from celeriac.engines.rabbitmq.wire import Content, body_of, to_wire
from celeriac.exceptions import EncodeError, ImproperlyConfigured
from celeriac.message import Message

HEADERS: list[dict[str, Any]] = [
    {},
    {"id": "ü", "n": None, "yes": True, "no": False, "i": 7, "neg": -2147483647, "long": 1 << 40, "f": 1.5},
    {"list": [1, "a", [None, {}]], "deep": {"a": {"b": [1.0]}}, "tuple": (1, 2), "edge": -2147483648},
    {"later": datetime.datetime(2026, 1, 2), "exact": Decimal("1.5"), "raw": b"\x00"},
]


@pytest.mark.parametrize("headers", HEADERS)
def test_properties_are_py_amqps_bytes(headers: dict[str, Any]) -> None:
    properties = {
        "content_type": "application/json", "content_encoding": "utf-8", "application_headers": headers,
        "delivery_mode": 2, "priority": 9, "correlation_id": "c", "reply_to": "r", "expiration": "10",
    }  # fmt: skip
    theirs = TheirMessage(b"", **properties)._serialize_properties()
    known: Known = {}
    # Twice: what an earlier message of the batch had is not written again, and must be the same all the same.
    assert [write_properties(properties, known) for _ in range(2)] == [theirs, theirs]
    assert decode_properties(theirs, 0) == decode_properties_basic(theirs, 0)[0]


def test_a_batch_writes_again_what_is_equal_but_another_value() -> None:
    known: Known = {}
    for value in (1, True, 1.0, "1", [1], [True]):
        headers = {"application_headers": {"v": value}}
        assert write_properties(headers, known) == TheirMessage(b"", **headers)._serialize_properties()


def test_values_of_other_clients_are_read_as_py_amqp_reads_them() -> None:
    table = (
        b"\x01sS\x00\x00\x00\x02\xff\xfe" b"\x01bb\xff" b"\x01ll" + b"\xff" * 8 + b"\x01ff\x3f\x80\x00\x00"
        b"\x01TT" + (1_800_000_000).to_bytes(8, "big") + b"\x01xx\x00\x00\x00\x01z"
    )  # fmt: skip
    data = b"\x20\x40" + len(table).to_bytes(4, "big") + table + (7).to_bytes(8, "big")
    theirs = decode_properties_basic(data, 0)[0]
    assert decode_properties(data, 0) == theirs
    assert theirs["timestamp"] == 7


@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 20_000])
def test_a_message_s_frames_are_read_back(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    content = Content(body[:size], application_headers={"id": "x"}, delivery_mode=2)
    written = b"".join(content_frames(3, content, 4096))
    deliver = struct.pack(">HH", *spec.Basic.Deliver)
    taken: list[Any] = []

    class Connection:
        bytes_recv = 0

    read = frame_reader(Connection(), lambda *args: taken.append(args))
    assert not read((1, 3, deliver))
    while written:
        kind, channel, length = struct.unpack_from(">BHI", written)
        assert length <= 4096 - 8
        assert written[7 + length] == 0xCE
        assert not taken
        read((kind, channel, written[7 : 7 + length]))
        written = written[8 + length :]
    [(channel, signature, arguments, message)] = taken
    assert (channel, signature, arguments) == (3, spec.Basic.Deliver, deliver)
    assert body_of(message) == body[:size]
    assert message.properties == {"application_headers": {"id": "x"}, "delivery_mode": 2}
    with pytest.raises(UnexpectedFrame):
        read((3, 3, b"no message was announced"))


@pytest.mark.parametrize("value", [object(), 1 << 70, {1, 2}])
def test_a_header_that_amqp_cannot_carry_is_named(value: Any) -> None:
    with pytest.raises(EncodeError, match="cannot be written for RabbitMQ"):
        to_wire(Message({"task": "t", "id": "i", "odd": value}, {}, b""))


def test_an_expiry_in_the_headers_is_not_left_to_the_server() -> None:
    """It would throw the message away without a word."""
    sent = to_wire(Message({"expires": "2026-01-01T00:00:00+00:00"}, {"expiration": "1000"}, b""))
    assert "expiration" not in decode_properties(sent.properties, 0)
    kept = to_wire(Message({}, {"expiration": "1000"}, b""))
    assert decode_properties(kept.properties, 0)["expiration"] == "1000"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://", ("localhost", 5672, "guest", "guest", "/")),
        ("amqp://u:p%2F@host:1/vh", ("host", 1, "u", "p/", "vh")),
        ("pyamqp://host//", ("host", 5672, "guest", "guest", "/")),
        ("amqps://host/%2Fa", ("host", 5671, "guest", "guest", "/a")),
    ],
)
def test_urls(url: str, expected: tuple[Any, ...]) -> None:
    assert parse(url, {}).hosts[0][:5] == expected


def test_several_urls_are_tried_in_their_order_and_masked() -> None:
    address = parse("amqp://u:secret@a;amqp://u:secret@b:7", {})
    assert [(host.host, host.port) for host in address.hosts] == [("a", 5672), ("b", 7)]
    assert "secret" not in address.masked
    order = iter(address.order(address.hosts))
    assert [next(order).host for _ in range(3)] == ["a", "b", "a"]


def test_tls_checks_the_server_unless_told_otherwise() -> None:
    import ssl

    assert parse("amqps://h", {}).hosts[0].tls == {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "h"}
    given: Any = {"ssl": {"ssl_cert_reqs": ssl.CERT_NONE, "ca_certs": __file__}}
    assert parse("amqp://h", given).hosts[0].tls == {"cert_reqs": ssl.CERT_NONE, "ca_certs": __file__}
    given = {"ssl": {"context": {"cafile": "f"}}}
    assert parse("amqps://h", given).hosts[0].tls == {
        "context": {"check_hostname": True, "cafile": "f"},
        "server_hostname": "h",
    }


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("amqp://h:x", {}, "cannot read the URL"),
        ("amqp://h?heartbeat=3", {}, "options belong in broker_transport_options"),
        ("amqp://h", {"login_method": "MAGIC"}, "broker_login_method 'MAGIC' is unknown"),
        ("amqp://h", {"failover_strategy": "never"}, "broker_failover_strategy 'never' is unknown"),
        ("amqp://h", {"ssl": {"nonsense": 1}}, "has no option 'nonsense'"),
    ],
)
def test_what_cannot_be_is_refused(url: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=text):
        parse(url, options)


def test_a_delay_is_rounded_up_and_written_in_28_bits() -> None:
    assert [whole_seconds(delay, None) for delay in (0.0, 0.2, 1.0, 1.01, 59.9)] == [0, 1, 1, 2, 60]
    assert whole_seconds(None, None) == 0
    assert delayed_key(5, "q.a") == "0." * 25 + "1.0.1.q.a"
    with pytest.raises(ImproperlyConfigured, match="at most"):
        whole_seconds(1e9, None)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from celeriac.engines import create, rabbitmq

    monkeypatch.setattr(rabbitmq, "find_spec", lambda name: None)
    with pytest.raises(ImproperlyConfigured, match=r"celeriac\[rabbitmq\]"):
        create("amqp://")
    assert amqp
