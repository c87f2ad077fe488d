"""What is RabbitMQ's own: connections that end, alarms, queues declared elsewhere, what must be said."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, Exchange, Queue
from celeriac.engines.rabbitmq.session import Parcel
from celeriac.engines.rabbitmq.topology import DELIVERY, TOP, declare_levels, delayed_key
from celeriac.engines.rabbitmq.wire import to_wire
from celeriac.exceptions import ImproperlyConfigured, OperationalError, TaskRevokedError
from celeriac.message import decode_envelope
from tests.integration import conftest
from tests.integration.conftest import Site
from tests.processes import wait_until
from tests.proxy import Proxy
from tests.servers import RabbitServer

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def site(rabbit_server: RabbitServer, tmp_path: Path) -> Iterator[Site]:
    site = Site(rabbit_server.fresh_url(), tmp_path, f"sqlite:///{tmp_path}/results.db")
    yield site
    site.close()


def test_what_is_left_out_elsewhere_exists() -> None:
    texts = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert all(f"def {name.partition('[')[0]}(" in texts for name in conftest.NOT_ON_RABBITMQ)


def test_a_frozen_node_s_task_runs_elsewhere_after_its_heartbeats_stop(site: Site) -> None:
    frozen = site.worker("-c", "1", broker_heartbeat=1)
    result = site.send("nap", 1.0, "x")
    site.await_journal(lambda lines: lines == ["start x"])
    pids = [frozen.process.pid, frozen.agent() or 0, *frozen.children()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    other = site.worker("-c", "1", broker_heartbeat=1)
    assert result.get(timeout=20) == "x"
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    other.stop()
    # The woken child finds its connection gone, and works on over a new one.
    assert site.send("add", 1, 1).get(timeout=15) == 2


def test_a_vanished_machine_is_noticed_in_time_by_default() -> None:
    # The server gives a connection up after three heartbeats' time at most.
    assert 3 * Celeriac(set_as_current=False).conf.broker_heartbeat <= 15


def test_a_task_that_holds_the_interpreter_keeps_its_connection(site: Site) -> None:
    for _ in range(2):
        site.worker("-c", "1", broker_heartbeat=1, worker_prefetch_multiplier=1)
    result = site.send("hold_for", 6, "x")
    assert result.get(timeout=40) == "x"
    assert site.send("add", 1, 1).get(timeout=15) == 2
    assert site.journal() == ["start x", "end x"]


def test_the_next_agent_beats_for_the_children_of_one_that_was_killed(site: Site) -> None:
    worker = site.worker("-c", "1", broker_heartbeat=1)
    first = worker.agent()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: worker.agent() not in (None, first))
    site.worker("-c", "1", broker_heartbeat=1)
    naps = [site.send("nap", 2.0, f"n{number}") for number in range(2)]  # time to find the new agent
    held = [site.send("hold_for", 5, f"h{number}") for number in range(2)]
    assert [result.get(timeout=40) for result in (*naps, *held)] == ["n0", "n1", "h0", "h1"]
    assert sorted(line for line in site.journal() if "start h" in line) == ["start h0", "start h1"]


def test_a_killed_child_s_connection_ends_with_it_though_the_agent_has_its_socket(site: Site) -> None:
    site.worker("-c", "1", broker_heartbeat=60)
    time.sleep(0.5)  # it has handed its socket over by then
    assert site.send("die_once", "x").get(timeout=30) == "survived"  # long before two heartbeats


def test_a_revoked_delayed_task_is_revoked_when_it_is_due(site: Site) -> None:
    result = site.send("mark", "no", countdown=1)
    result.revoke()
    site.worker("-c", "1")
    with pytest.raises(TaskRevokedError):
        result.get(timeout=10)
    assert site.journal() == []


def test_connections_closed_by_the_server_lose_nothing(site: Site, rabbit_server: RabbitServer) -> None:
    site.worker("-c", "2")
    results = [site.send("nap", 0.05, f"n{n}") for n in range(60)]
    site.await_journal(lambda lines: len(lines) > 10)
    rabbit_server.control("close_all_connections", "a test")
    assert [r.get(timeout=30) for r in results] == [f"n{n}" for n in range(60)]


def test_a_message_that_reaches_no_queue_is_an_error(site: Site) -> None:
    with pytest.raises(OperationalError, match="no exchange 'nowhere'"):
        site.send("add", 1, 1, exchange="nowhere", routing_key="x")


def test_a_queue_declared_elsewhere_with_other_properties_is_named(site: Site) -> None:
    Celeriac(broker=site.broker, set_as_current=False).send_task("t", queue="q1")
    other = Celeriac(broker=site.broker, set_as_current=False)
    other.conf.task_queues = [Queue("q1", queue_arguments={"x-max-priority": 5})]
    with pytest.raises(ImproperlyConfigured, match=r"'x-max-priority'.*Declare it in task_queues"):
        other.send_task("t", queue="q1")


def test_a_worker_of_a_queue_that_is_another_one_there_says_so_and_begins_when_it_is_gone(
    site: Site, rabbit_server: RabbitServer
) -> None:
    other = Celeriac(broker=site.broker, set_as_current=False)
    other.send_task("t")
    broker: Any = other.broker
    site.app.conf.task_queue_max_priority = 5
    worker = site.worker("-c", "1", task_queue_max_priority=5)
    worker.await_line("Cannot tie the queues to their exchanges now, trying on: ")
    worker.await_line("Cannot exchange yet, trying on: ")
    with broker.session("delete the other queue") as session:
        session.desk.queue_delete("celery")
    other.close()
    assert site.send("add", 1, 1).get(timeout=20) == 2
    assert "Declare it in task_queues as it is there" in worker.log
    assert not {"Traceback", "replacing"} & set(worker.log.split())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda url: url.replace("127.0.0.1", "no.such.host.invalid"),
            r"name is not known.*check it in the URL",
        ),
        (lambda url: url.replace("guest:guest", "guest:wrong"), r"logfile\. Check user and password"),
        (lambda url: url.rpartition("/")[0] + "/nosuch", "virtual host"),
        (lambda url: "amqp://127.0.0.1:1//", "refused"),
    ],
)
def test_a_server_that_lets_nobody_in_is_explained(site: Site, change: Any, text: str) -> None:
    app = Celeriac(broker=change(site.broker), set_as_current=False)
    app.conf.broker_publish_timeout = 1.0
    with pytest.raises(OperationalError, match=text):
        app.send_task("t")


def test_missing_rights_are_explained(site: Site, rabbit_server: RabbitServer) -> None:
    vhost = site.broker.rpartition("/")[2]
    rabbit_server.eval(
        'rabbit_auth_backend_internal:add_user(<<"reader">>, <<"secret">>, <<"t">>), '
        f'rabbit_auth_backend_internal:set_permissions(<<"reader">>, <<"{vhost}">>, '
        '<<"">>, <<"">>, <<".*">>, <<"t">>).'
    )
    app = Celeriac(broker=site.broker.replace("guest:guest", "reader:secret"), set_as_current=False)
    with pytest.raises(
        OperationalError, match=r"the user's rights \(rabbitmqctl set_permissions\)"
    ) as refused:
        app.send_task("t")
    assert "secret" not in str(refused.value)
    app.close()
    app = Celeriac(
        broker=rabbit_server.fresh_url().replace("guest:guest", "reader:secret"), set_as_current=False
    )
    with pytest.raises(OperationalError, match="the user's rights there"):
        app.send_task("t")
    app.close()


def test_a_connection_cut_while_a_batch_is_confirmed(site: Site, rabbit_server: RabbitServer) -> None:
    """It is an error that says so, and the next call goes over a new connection."""
    with Proxy(rabbit_server.host, rabbit_server.port) as proxy:
        app = Celeriac(
            broker=site.broker.replace(str(rabbit_server.port), str(proxy.port)), set_as_current=False
        )
        mark = app.task(name="tests.integration.project.mark")(lambda text: text)
        mark.delay("before")
        proxy.drop_replies()
        with pytest.raises(OperationalError, match="may have been stored: the answer got lost"):
            mark.enqueue_many([(f"n{number}",) for number in range(300)])
        mark.delay("after")
        app.close()
    names = [decode_envelope(one).headers["argsrepr"] for one in site.take_all()]
    # What was on its way by the old connection may come after what went by the new one.
    assert (names[0], "('after',)" in names) == ("('before',)", True)
    assert len(names) == len(set(names))


def test_a_connection_cut_while_tasks_are_settled(site: Site, rabbit_server: RabbitServer) -> None:
    with Proxy(rabbit_server.host, rabbit_server.port) as proxy:
        site.env["TEST_BROKER"] = site.broker.replace(str(rabbit_server.port), str(proxy.port))
        site.worker("-c", "2")
        results = [site.send("nap", 0.02, f"n{n}") for n in range(100)]
        for done in (20, 50, 80):
            site.await_journal(lambda lines, done=done: len(lines) > done)
            proxy.cut()
        assert [result.get(timeout=40) for result in results] == [f"n{n}" for n in range(100)]


def test_an_alarm_is_an_error_at_once_and_not_a_hang(site: Site, rabbit_server: RabbitServer) -> None:
    site.app.conf.broker_publish_timeout = 3.0
    site.send("add", 1, 1)
    rabbit_server.control("set_vm_memory_high_watermark", "0.00001")
    try:
        began = time.monotonic()
        with pytest.raises(OperationalError, match="memory or disk alarm"):
            site.send("add", 1, 1)
        assert time.monotonic() - began < 8
    finally:
        rabbit_server.control("set_vm_memory_high_watermark", "0.6")


def test_a_worker_sits_out_an_alarm_with_what_it_has_to_send(site: Site, rabbit_server: RabbitServer) -> None:
    """Who gave up and tried again would run the task again, and leave a copy on its way each time."""
    callback = site.app.signature("tests.integration.project.mark", ("called",), immutable=True)
    results = [site.send("flaky", 1), site.send("mark", "calling", link=callback)]
    rabbit_server.control("set_vm_memory_high_watermark", "0.00001")
    try:
        worker = site.worker("-c", "2")
        worker.await_line(":0] RabbitMQ at")
        worker.await_line(":1] RabbitMQ at")
    finally:
        rabbit_server.control("set_vm_memory_high_watermark", "0.6")
    assert [result.get(timeout=30) for result in results] == [1, "calling"]
    site.await_true(lambda: site.app.broker.depth(["celery"])["celery"].ready == 0)
    assert worker.stop() == 0
    assert sorted(site.journal()) == ["called", "calling", "try 0", "try 1"]


def test_quorum_queues_delays_and_failover(site: Site) -> None:
    conf: dict[str, Any] = {"task_default_queue_type": "quorum"}
    url = f"amqp://127.0.0.1:1//;{site.broker}"
    site.env["TEST_BROKER"] = url
    site.app.conf.update(broker_url=url, **conf)
    site.worker("-c", "1", **conf)
    began = time.time()
    late = site.send("add", 2, 3, countdown=1)
    assert [site.send("add", n, n).get(timeout=10) for n in range(5)] == [0, 2, 4, 6, 8]
    assert late.get(timeout=10) == 5
    assert time.time() - began >= 1.0


def test_a_unique_task_is_sent_once_until_it_has_ended(site: Site) -> None:
    first = site.app.task(name="tests.integration.project.mark", unique_for=60)(lambda text: text)
    one, two = first.delay("a"), first.delay("a")
    assert two.duplicate
    assert two.id == one.id
    site.worker("-c", "1")
    assert one.get(timeout=10) == "a"
    site.await_true(lambda: not first.delay("a").duplicate)


@pytest.mark.parametrize("kind", ["direct", "topic"])
def test_a_queue_tied_to_delays_in_both_ways_gets_a_message_once(site: Site, kind: str) -> None:
    """Celery ties a queue by ``#.<routing key>`` through the queue's exchange, we by its name."""
    queue = Queue("both", Exchange("both", kind), "both")
    site.app.conf.task_queues = [queue]
    broker: Any = site.app.broker
    with broker.session("tie") as session:
        broker.topology.tie_to_delays(session, "both")
        declare_levels(session, "classic")
        # As Celery does it, and once more straight to the queue.
        session.desk.exchange_bind("both", DELIVERY, "#.both")
        session.desk.queue_bind("both", "both", "#.both")
        session.desk.queue_bind("both", DELIVERY, "#.both")
    site.app.send_task("ours", queue="both", countdown=1)
    theirs = site.app.publisher.build("theirs", queue="both")
    with broker.session("send as Celery does") as session:
        broker.post(session, [Parcel(TOP, delayed_key(1, "both"), to_wire(theirs.message))])
    # Sent later, due later: what is twice would have come before it.
    site.app.send_task("last", queue="both", countdown=3)
    names: list[bytes] = []
    site.await_true(lambda: names.extend(site.take_all("both")) or any(b'"last"' in one for one in names))
    found = sorted(decode_envelope(one).headers["task"] for one in names)
    assert found == ["last", "ours", "theirs"]


def test_who_is_there_is_told_where_results_are(site: Site) -> None:
    coordinator = site.app.coordinator
    assert coordinator is not None

    def names() -> list[str]:
        return sorted(node.name.partition("@")[0] for node in coordinator.nodes())

    killed, other = site.worker("-c", "1"), site.worker("-c", "1")
    site.await_true(lambda: names() == ["w1", "w2"])
    killed.kill()
    site.await_true(lambda: names() == ["w2"])
    other.stop()
    assert names() == []
