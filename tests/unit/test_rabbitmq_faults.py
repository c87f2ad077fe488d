"""The RabbitMQ engine when the way to the server ends in the middle of something; and its heartbeats."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from celeriac.contrib.conformance.helpers import claim, drain, ids_of, incarnation, outcome, pub, pubs, settle
from celeriac.engines import create
from celeriac.engines.base import Consumer, DeadLetter, Delivery, Verdict
from celeriac.engines.rabbitmq import ledger
from celeriac.engines.rabbitmq.broker import RabbitBroker
from celeriac.engines.rabbitmq.consumer import RabbitConsumer
from celeriac.exceptions import OperationalError
from celeriac.message import Message, decode_envelope, notes
from tests.processes import wait_until
from tests.proxy import Proxy
from tests.servers import RabbitServer


@pytest.fixture
def url(rabbit_server: RabbitServer) -> str:
    return rabbit_server.fresh_url()


@pytest.fixture
def way(rabbit_server: RabbitServer) -> Iterator[Proxy]:
    with Proxy(rabbit_server.host, rabbit_server.port) as proxy:
        yield proxy


def opened(url: str, way: Proxy | None = None, **options: object) -> RabbitBroker:
    if way is not None:
        url = url.replace(f":{way.target[1]}/", f":{way.port}/")
    engine = create(url, options)
    assert isinstance(engine, RabbitBroker)
    return engine


@pytest.fixture
def engine(url: str, way: Proxy) -> Iterator[RabbitBroker]:
    engine = opened(url, way, publish_timeout=1.0)
    yield engine
    engine.close()


def waiting(url: str) -> list[str]:
    """What is in the queue, looked at by another way."""
    engine = opened(url)
    consumer = engine.attach(incarnation())
    found = drain(consumer)
    consumer.close()
    engine.close()
    return found


def test_a_publish_that_is_cut_off_before_its_confirm_says_so(
    url: str, way: Proxy, engine: RabbitBroker
) -> None:
    engine.publish([pub("a")])
    way.drop_replies()
    with pytest.raises(OperationalError, match="cannot publish") as raised:
        engine.publish([pub("b")])
    assert raised.value.maybe_done
    engine.publish([pub("c")])  # over a new connection
    assert waiting(url) == ["a", "b", "c"]  # b was there: only the word of it got lost


def test_a_publish_into_a_hole_ends_within_its_time_and_is_not_repeated(
    url: str, way: Proxy, engine: RabbitBroker
) -> None:
    engine.publish([pub("a")])
    way.black_hole()
    with pytest.raises(OperationalError, match="did not answer in time") as raised:
        engine.publish([pub("b")])
    assert raised.value.maybe_done
    way.black_hole(False)
    way.cut()
    engine.publish([pub("c")])
    assert waiting(url) == ["a", "c"]


def test_what_was_confirmed_before_a_cut_is_there(url: str, way: Proxy, engine: RabbitBroker) -> None:
    confirmed: list[str] = []
    engine.publish([pub("first")])

    def cut_some_times() -> None:
        for _ in range(5):
            reached = len(confirmed)
            wait_until(lambda reached=reached: len(confirmed) > reached + 10)
            way.cut()

    cutter = threading.Thread(target=cut_some_times)
    cutter.start()
    batch = 0
    while cutter.is_alive():
        ids = [f"{batch}-{number}" for number in range(10)]
        batch += 1
        try:
            engine.publish([pub(id) for id in ids])
        except OperationalError:
            continue  # told: it may be there or not
        confirmed += ids
    cutter.join()
    found = waiting(url)
    assert set(confirmed) <= set(found)
    assert len(found) == len(set(found))


def test_a_settle_that_is_cut_off_is_refused_and_the_message_comes_back(url: str, way: Proxy) -> None:
    engine = opened(url, way, read_timeout=1.0)
    consumer = engine.attach(incarnation())
    engine.publish(pubs("a"))
    (delivery,) = claim(consumer)
    way.cut()
    with pytest.raises(OperationalError):
        settle(consumer, outcome(delivery))
    assert not consumer.repeat().deliveries
    wait_until(lambda: ids_of(claim(consumer)) == ["a"])
    consumer.close()
    engine.close()


def test_who_gives_back_and_is_cut_off_leaves_nothing_that_runs_unseen(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(url)
    consumer = engine.attach(incarnation())
    assert isinstance(consumer, RabbitConsumer)
    assert claim(consumer, 2) == []
    engine.publish(pubs("abc"))
    wait_until(lambda: consumer.wait(["q"], 0.1) and consumer.buffered == 3)
    began = time.time()
    with monkeypatch.context() as patch:

        def broken(*_: object) -> None:
            raise ConnectionResetError

        patch.setattr(consumer, "_ack", broken)
        consumer.busy, consumer.exchanged = True, 0.0  # at work for long
        assert consumer.return_buffered() == 0
    other = engine.attach(incarnation("n2"))
    found: list[Message] = []

    def taken() -> int:
        deliveries = claim(other, 10)
        settle(other, *map(outcome, deliveries))
        found.extend(decode_envelope(delivery.payload) for delivery in deliveries)
        return len(found)

    wait_until(lambda: taken() == 6)  # the originals and the copies
    assert sum(bool(message.headers.get("redelivered")) for message in found) == 3
    copies = [notes(message).returned for message in found if not message.headers.get("redelivered")]
    assert all(when is not None and began <= when <= time.time() for when in copies)
    other.close()
    consumer.close()
    engine.close()


def test_what_came_back_goes_together_once_and_then_alone(url: str) -> None:
    """After a crash of the server everything has come back: one by one it would take hours."""
    engine = opened(url)
    engine.publish(pubs("abcd"))

    def lose(name: str) -> list[str]:
        """Take what comes at a time, and have the whole node die with it."""
        consumer = engine.attach(incarnation(name))
        found: list[str] = []

        def some() -> bool:
            found.extend(ids_of(claim(consumer, 3)))
            return bool(found)

        wait_until(some)
        consumer.close(detach=False)
        return found

    wait_until(lambda: len(lose("n")) > 0)  # all were pushed, and so all of them come back
    assert lose("m") == ["a", "b", "c"]
    assert lose("o") == ["a"]
    engine.close()


def test_what_a_connection_s_end_brings_back_gets_no_notes(
    url: str, way: Proxy, rabbit_server: RabbitServer
) -> None:
    """Its worker lives, so no task is to blame; and each note costs the server a queue."""
    engine = opened(url, way)
    engine.publish(pubs("abc"))
    consumer = engine.attach(incarnation(slots=3))
    wait_until(lambda: consumer.wait(["q"], 0.1))
    way.cut()
    again: set[str] = set()

    def taken() -> bool:
        try:
            messages = [decode_envelope(delivery.payload) for delivery in claim(consumer, 3)]
        except OperationalError:
            consumer.repeat()
            return False
        again.update(message.headers["id"] for message in messages if message.headers.get("redelivered"))
        return again == set("abc")

    wait_until(taken)
    assert "celeriac.note" not in rabbit_server.control("list_queues", "-p", url.rpartition("/")[2])
    consumer.close()
    engine.close()


def test_a_crowd_that_comes_back_gets_notes_for_its_first_ones_only(
    url: str, rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash of the server brings back everything in its queues, to workers that know nothing of it."""
    monkeypatch.setattr("celeriac.engines.rabbitmq.buffer.CROWD", 2)
    engine = opened(url)
    engine.publish(pubs("abcdefgh"))
    first = engine.attach(incarnation(slots=8))
    wait_until(lambda: first.wait(["q"], 0.1))
    first.close(detach=False)
    other = engine.attach(incarnation("n2", slots=4))
    found: list[str] = []

    def taken() -> int:
        deliveries = claim(other, 2)
        found.extend(ids_of(deliveries))
        return len(found)

    wait_until(lambda: taken() == 2)
    noted = rabbit_server.control("list_queues", "-p", url.rpartition("/")[2], "name")
    assert {f"celeriac.note.{id}" for id in "ab"} <= set(noted.split())
    wait_until(lambda: taken() == 8)
    noted = rabbit_server.control("list_queues", "-p", url.rpartition("/")[2], "name")
    assert not {f"celeriac.note.{id}" for id in "gh"} & set(noted.split())
    other.close()
    engine.close()


def test_what_came_back_is_given_back_behind_a_task_that_takes_long(url: str) -> None:
    engine = opened(url)
    engine.publish(pubs("abcd"))
    lost = engine.attach(incarnation(slots=4))
    wait_until(lambda: lost.wait(["q"], 0.1))
    lost.close(detach=False)
    busy = engine.attach(incarnation("n2", slots=4))
    assert isinstance(busy, RabbitConsumer)
    wait_until(lambda: ids_of(claim(busy, 1)) == ["a"])
    wait_until(lambda: busy.buffered == 0)  # its keeper has seen that "a" takes its time
    other = engine.attach(incarnation("n3", slots=4))
    found: list[Message] = []

    def taken() -> int:
        found.extend(decode_envelope(delivery.payload) for delivery in claim(other, 4))
        return len(found)

    wait_until(lambda: taken() == 3)
    assert [(message.headers["id"], notes(message).returned) for message in found] == [
        ("b", 0.0), ("c", 0.0), ("d", 0.0)
    ]  # fmt: skip
    other.close()
    busy.close()
    engine.close()


def test_a_copy_brings_along_what_is_known_of_earlier_runs(url: str) -> None:
    """Whoever gets it is not told that it had been delivered before."""
    engine = opened(url)
    engine.publish([pub("a")])
    first = engine.attach(incarnation())
    (delivery,) = claim(first)
    assert first.mark_once(delivery)
    first.close(detach=False)

    def lost(consumer: Consumer) -> str | None:
        deliveries: list[Delivery] = []
        wait_until(lambda: deliveries.extend(claim(consumer)) or deliveries)
        found = notes(decode_envelope(deliveries[0].payload)).lost
        settle(consumer, outcome(deliveries[0], Verdict.GIVE_BACK))
        return found

    other = engine.attach(incarnation("n2"))
    assert [lost(other), lost(other)] == ["once", "once"]
    other.close()
    engine.close()


def test_what_came_back_and_is_parked_again_and_again_was_not_started(url: str) -> None:
    """A limit turns it away: that is no delivery, also if the child dies between two attempts."""
    engine = opened(url)
    engine.publish([pub("a")])
    first = engine.attach(incarnation())
    assert ids_of(claim(first)) == ["a"]
    first.close(detach=False)
    for child in (1, 2):
        consumer = engine.attach(incarnation(child=child))
        for _ in range(4):
            wait_until(lambda: consumer.wait(["q"], 0.1))  # noqa: B023
            (delivery,) = claim(consumer)
            assert notes(decode_envelope(delivery.payload)).deliveries == 0
            settle(consumer, outcome(delivery, Verdict.PARK, bucket="limit"))
        consumer.close(detach=False)
    engine.close()


def test_what_is_pushed_to_a_child_at_work_goes_to_another(url: str) -> None:
    """It comes after the exchange, when the child's own thread reads nothing any more."""
    engine = opened(url)
    busy = engine.attach(incarnation())
    engine.publish(pubs("abcdef"))
    wait_until(lambda: busy.wait(["q"], 0.1))
    settle(busy, *map(outcome, claim(busy, 32)))  # tasks are short: more is asked for than is handed out
    engine.publish([pub("long")])
    found: list[str] = []
    wait_until(lambda: found.extend(ids_of(claim(busy, 32))) or "long" in found)
    engine.publish([pub("quick")])
    other = engine.attach(incarnation("n2"))
    wait_until(lambda: ids_of(claim(other)) == ["quick"])
    other.close()
    busy.close()
    engine.close()


def test_a_connection_for_publishing_needs_no_heartbeat(url: str) -> None:
    engine = opened(url, heartbeat=1)
    engine.publish([pub("a")])
    with engine.session("look") as session:
        link = session.link
        assert link.heartbeat == 0
    engine.close()


def test_nothing_is_given_back_when_an_exchange_came_in_between(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper's look was before the exchange: what is given back would lose its place for nothing."""
    monkeypatch.setattr("celeriac.engines.rabbitmq.consumer.OVERRUN", 1000.0)
    engine = opened(url)
    consumer = engine.attach(incarnation(slots=3))
    engine.publish(pubs("abc"))
    wait_until(lambda: consumer.wait(["q"], 1.0) and consumer.buffered == 3)
    (first,) = claim(consumer, 1)
    assert consumer.return_buffered() == 0
    assert [*ids_of([first]), *drain(consumer)] == ["a", "b", "c"]
    consumer.close()
    engine.close()


def test_the_rest_of_a_late_answer_keeps_its_place(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes no more than is asked for (``celeriac migrate``) may take its time over a batch."""
    monkeypatch.setattr("celeriac.engines.rabbitmq.consumer.OVERRUN", 0.0)
    engine = opened(url, exact_prefetch=True)
    consumer = engine.attach(incarnation())
    engine.publish(pubs("abcde"))
    with monkeypatch.context() as late:
        late.setattr(consumer, "_hand_out", lambda *about: [])
        assert claim(consumer, 3) == []
    assert consumer.return_buffered() == 0
    assert drain(consumer) == ["a", "b", "c", "d", "e"]
    consumer.close()
    engine.close()


def test_dead_letters_of_all_queues_share_one_bound(url: str) -> None:
    engine = opened(url, dead_letters_max=3)
    consumer = engine.attach(incarnation())
    for task_id in "abcde":
        engine.publish([pub(task_id, "q1" if task_id in "ac" else "q2")])
        (delivery,) = claim(consumer, queues=("q1", "q2"))
        settle(consumer, outcome(delivery, Verdict.DEAD, reason="failed", task_id=task_id))
    assert [letter.task_id for letter in engine.dead_letters()] == list("edc")
    assert [letter.task_id for letter in engine.dead_letters("q1")] == ["c"]
    consumer.close()
    engine.close()


def test_bounds_of_dead_letters_that_have_no_effect_are_named(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for most in (3, 3, 4, 5):
        engine = opened(url, dead_letters_max=most)
        engine.bury([DeadLetter("", "q", "failed", "", time.time(), "t", "a", b"")])
        engine.close()
    (said,) = [record.message for record in caplog.records]
    assert "keeps the bounds it was made with" in said
    assert "x-max-length" in said
    assert "guest:guest" not in said
    assert len(opened(url).dead_letters()) == 3


def test_many_dead_letters_are_counted_now_and_then(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To know whose they are all are read: of ten thousand that takes seconds."""
    monkeypatch.setattr("celeriac.engines.rabbitmq.dead._FEW", 2)
    engine = opened(url)

    def bury(queue: str) -> tuple[int, int]:
        engine.bury([DeadLetter("", queue, "failed", "", 0.0, "t", "", b"{}")])
        depths = engine.depth(["q", "r"])
        return depths["q"].dead, depths["r"].dead

    assert [bury(queue) for queue in "qrqr"] == [(1, 0), (1, 1), (1, 1), (1, 1)]
    monkeypatch.setattr("celeriac.engines.rabbitmq.dead._TALLY_EVERY", 0.0)
    assert bury("q") == (3, 2)
    assert engine.purge_dead() == 5
    assert engine.depth(["q"])["q"].dead == 0
    engine.close()


def test_a_note_that_somebody_reads_is_there_for_others(url: str) -> None:
    """To ask for it deletes its queue if that is empty: what a reader has in hand must not make it that."""
    engine, other = opened(url), opened(url)
    with engine.session("note") as here, other.session("note") as there:
        assert ledger.read(there, "a") is None
        ledger.write(here, [("a", ledger.Note(deliveries=1))], 5.0)
        ledger.write(here, [("a", ledger.Note(deliveries=2))], 5.0)
        assert here.desk.basic_get("celeriac.note.a") is not None
        for _ in range(2):
            assert ledger.read(there, "a") == ledger.Note(deliveries=2)
        ledger.erase(here, "a")
        assert ledger.read(here, "a") is None
    engine.close()
    other.close()
