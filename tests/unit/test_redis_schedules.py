"""What only Redis has of schedules: lost answers, a full server, names of keys, several databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from celeriac.contrib.conformance.helpers import drain, incarnation, pub
from celeriac.engines import create
from celeriac.engines.base import Publication, Unique
from celeriac.engines.redis import RedisEngine, schedules
from celeriac.engines.results import Presence
from celeriac.engines.schedule import Entry, Term, Tick
from celeriac.exceptions import OperationalError, StoreFull
from tests.proxy import Proxy
from tests.servers import RedisServer


def opened(url: str, **options: object) -> RedisEngine:
    engine = create(url, options)
    assert isinstance(engine, RedisEngine)
    return engine


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.flush()
    return redis_server


@pytest.fixture
def client(server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(server.url(), decode_responses=True) as client:
        yield client


def take(engine: RedisEngine, holder: str = "one") -> Term:
    term = engine.lead(holder, 1000.0)
    assert term is not None
    return term


def tick(name: str = "e", due: float = 1.0, **options: object) -> Tick:
    return Tick(name, due, f"{name}@{due:g}", pub(f"{name}@{due:g}", **options))


def fired(engine: RedisEngine) -> list[str]:
    consumer = engine.attach(incarnation())
    ids = drain(consumer)
    consumer.close()
    return ids


def test_a_tick_whose_answer_is_lost_is_fired_once(server: RedisServer) -> None:
    with Proxy(server.host, server.port) as proxy:
        engine = opened(proxy.url(), socket_timeout=2.0)
        engine.put_entries([Entry("e", b"{}")])
        term = take(engine)
        engine.fire(term, [tick()])
        proxy.drop_replies()
        with pytest.raises(OperationalError):
            engine.fire(term, [tick(due=2.0)])
        assert engine.fire(term, [tick(due=2.0)]) == {"e": "done"}
        assert fired(engine) == ["e@1", "e@2"]
        engine.close()


def test_at_maxmemory_the_leader_stays_and_ticks_wait() -> None:
    with RedisServer() as server:
        engine = opened(server.url())
        engine.put_entries([Entry("e", b"{}"), Entry("f", b"{}")])
        before = engine.schedule()
        term = take(engine)
        server.command("CONFIG", "SET", "maxmemory", "1mb")
        for ticks in ([tick()], [tick(unique=Unique("k", 60.0))], [tick(track=60.0)], [Tick("e", 1.0)]):
            with pytest.raises(StoreFull, match="maxmemory"):
                engine.fire(term, ticks)
        with pytest.raises(StoreFull, match="maxmemory"):
            engine.put_entries([Entry("more", b"{}")])
        assert take(engine).token == term.token, "the term is renewed"
        assert engine.schedule() == before
        assert engine.holder("k") is None
        assert engine.remove_entries(["f"]) == 1
        engine.resign("one")
        assert take(engine, "two").token == term.token + 1
        server.command("CONFIG", "SET", "maxmemory", "0")
        assert engine.fire(take(engine, "two"), [tick()]) == {}
        assert fired(engine) == ["e@1"]
        engine.close()


def test_every_key_has_the_prefix(server: RedisServer, client: Redis) -> None:
    engine = opened(server.url(), global_keyprefix="app:")
    engine.put_entries([Entry("e", b"{}"), Entry("f", b"{}")])
    engine.fire(take(engine), [tick(unique=Unique("k", 60.0))])
    engine.remove_entries(["f"])
    names = set(client.keys("*"))
    assert {name for name in names if "schedule" in name} == {
        f"app:celeriac:schedule{what}"
        for what in (":version", ":leader", ":entries", ":ticks", ":versions", ":removed")
    }
    assert all(name.startswith("app:") for name in names)
    engine.close()


def test_keys_of_a_scope_end_with_it(server: RedisServer, client: Redis) -> None:
    engine = opened(server.url(), schedule_scope="one: two")
    engine.put_entries([Entry("e", b"{}"), Entry("f", b"{}")])
    engine.fire(take(engine), [tick()])
    engine.remove_entries(["f"])
    names = {name for name in client.keys("*") if "schedule" in name}
    assert len(names) == 6
    assert all(name.endswith(":one: two") for name in names)
    engine.close()


def test_what_is_stored_of_an_entry(server: RedisServer, client: Redis) -> None:
    """Stores of an earlier version are read by later ones: a change of this needs a step between."""
    engine = opened(server.url())
    engine.put_entries([Entry("e", b'{"task": "a|b"}', "code")])
    assert client.hgetall("celeriac:schedule:entries") == {"e": '1|code|{"task": "a|b"}'}
    client.hset("celeriac:schedule:ticks", "e", "1.5|2.25|3.5|4|5|x|y")
    assert engine.schedule().entries == [
        Entry("e", b'{"task": "a|b"}', "code", True, 1, 1.5, 2.25, 3.5, "x|y", 4, 5)
    ]
    assert engine.fire(take(engine), [tick(due=2.25)]) == {"e": "done"}
    assert engine.fire(take(engine), [Tick("e", 2.5, held=True)]) == {"e": "held"}
    since, due, _, *rest = client.hget("celeriac:schedule:ticks", "e").split("|")
    assert (since, due, rest) == ("1.5", "2.5", ["4", "6", "x", "y"])
    engine.close()


def test_a_removed_entry_leaves_only_its_name(server: RedisServer, client: Redis) -> None:
    engine = opened(server.url())
    engine.put_entries([Entry("e", b"{}")])
    engine.remove_entries(["e"])
    assert set(client.keys("*")) == {"celeriac:schedule:version", "celeriac:schedule:removed"}
    engine.close()


def test_results_in_another_database(server: RedisServer) -> None:
    """Where both are one server, the results know a tracked tick, and the broker has its message."""
    broker, results = opened(server.url(0)), opened(server.url(1))
    assert broker.shares_store(results)
    broker.put_entries([Entry("e", b"{}"), Entry("f", b"{}")])
    assert broker.fire(take(broker), [tick(track=60.0), tick("f")]) == {}
    assert results.presence(["e@1"]) == {"e@1": Presence.QUEUED}
    assert results.schedule().entries == []
    assert fired(broker) == ["e@1", "f@1"]
    for engine in (broker, results):
        engine.close()


def test_many_entries_are_read_in_chunks_while_some_go(
    server: RedisServer, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "READ_CHUNK", 2)
    engine = opened(server.url())
    engine.put_entries([Entry(f"e{number}", b"{}") for number in range(7)])
    client.hdel("celeriac:schedule:entries", "e3")  # as if removed between two commands
    assert sorted(entry.name for entry in engine.schedule().entries) == ["e0", "e1", "e2", "e4", "e5", "e6"]
    engine.close()


def test_a_message_for_workers_that_keep_their_own_delays(server: RedisServer) -> None:
    """With ``broker_delay="celery"`` nothing is held back, for ticks as for other publications."""
    engine = opened(server.url(), broker_delay="celery")
    engine.put_entries([Entry("e", b"{}")])
    late = tick(delay=1000.0)
    assert isinstance(late.publication, Publication)
    engine.fire(take(engine), [late])
    assert engine.depth(["q"])["q"][:2] == (1, 0)
    engine.close()
