"""Redis URLs and options, without a server."""

from __future__ import annotations

import ssl

import pytest

from celeriac.engines.redis.address import masked_url, parse
from celeriac.engines.redis.keys import Keys
from celeriac.exceptions import ImproperlyConfigured


def test_a_plain_url() -> None:
    address = parse("redis://me:s%40crt@example.org:7000/3", {})
    assert (address.host, address.port, address.db) == ("example.org", 7000, 3)
    assert (address.username, address.password) == ("me", "s@crt")


def test_the_defaults() -> None:
    address = parse("redis://", {})
    assert (address.host, address.port, address.db, address.tls) == ("localhost", 6379, 0, None)


@pytest.mark.parametrize("url", ["unix:///tmp/r.sock?db=2", "redis+socket:///tmp/r.sock?virtual_host=2"])
def test_unix_sockets(url: str) -> None:
    address = parse(url, {})
    assert (address.path, address.db) == ("/tmp/r.sock", 2)


@pytest.mark.parametrize("value", ["CERT_NONE", "none", ssl.CERT_NONE])
def test_tls_settings_from_options(value: object) -> None:
    options = {"broker_use_ssl": {"ssl_cert_reqs": value, "ssl_ca_certs": "/ca.pem", "keyfile": "/k.pem"}}
    address = parse("rediss://h", options)
    assert address.tls == {
        "ssl_cert_reqs": "none",
        "ssl_ca_certs": "/ca.pem",
        "ssl_keyfile": "/k.pem",
    }


def test_tls_settings_from_the_url() -> None:
    address = parse("rediss://h?ssl_cert_reqs=CERT_OPTIONAL&ssl_ca_certs=/ca.pem", {})
    assert address.tls == {"ssl_cert_reqs": "optional", "ssl_ca_certs": "/ca.pem"}


def test_use_ssl_turns_tls_on_for_a_plain_url() -> None:
    assert parse("redis://h", {"redis_backend_use_ssl": True}).tls == {}


def test_sentinels() -> None:
    url = "sentinel://:pw@a:1;sentinel://b:2;c:3/4"
    address = parse("sentinel://:pw@a:1/4;sentinel://b:2;c:3", {"master_name": "main"})
    assert address.sentinels == (("a", 1), ("b", 2), ("c", 3))
    assert (address.master, address.db, address.password) == ("main", 4, "pw")
    with pytest.raises(ImproperlyConfigured, match="master_name"):
        parse(url, {})


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://h/notadb", {}),
        ("redis://h:notaport", {}),
        ("rediss://h?ssl_cert_reqs=perhaps", {}),
        ("redis://h", {"priority_steps": []}),
        ("redis://h", {"socket_timeout": "soon"}),
    ],
)
def test_mistakes_are_named(url: str, options: dict[str, object]) -> None:
    with pytest.raises(ImproperlyConfigured, match="redis://user:password@host:6379/0"):
        parse(url, options)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@h:1/0", "redis://:**@h:1/0"),
        ("redis://me:secret@h/0?password=secret", "redis://me:**@h/0"),
        ("sentinel://:secret@a;sentinel://:secret@b", "sentinel://:**@a;sentinel://:**@b"),
        ("redis://h/0", "redis://h/0"),
    ],
)
def test_secrets_are_masked(url: str, shown: str) -> None:
    assert masked_url(url) == shown


def test_same_server() -> None:
    first = parse("redis://localhost/0", {})
    assert first.same_server(parse("redis://127.0.0.1:6379/5", {}))
    assert not first.same_server(parse("redis://localhost:6380/0", {}))
    assert not first.same_server(parse("redis://me@localhost/0", {}))
    assert not first.same_server(parse("unix:///tmp/r.sock", {}))


def test_priorities_use_celery_s_lists() -> None:
    keys = Keys(parse("redis://", {"global_keyprefix": "app."}))
    assert keys.lines("celery") == [
        "app.celery",
        "app.celery\x06\x163",
        "app.celery\x06\x166",
        "app.celery\x06\x169",
    ]
    assert [keys.lane(priority) for priority in (None, -1, 0, 2, 3, 5, 8, 9, 100)] == [
        0,
        0,
        0,
        0,
        1,
        1,
        2,
        3,
        3,
    ]


def test_other_steps_and_separators() -> None:
    keys = Keys(parse("redis://", {"priority_steps": [5, 0], "sep": ":"}))
    assert keys.lines("q") == ["q", "q:5"]
    assert [keys.lane(priority) for priority in (0, 4, 5, 9)] == [0, 0, 1, 1]
