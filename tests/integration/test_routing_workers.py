"""Queues and routes with real workers, ours and Celery's."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from celeriac import Broadcast, Exchange, Queue
from tests.integration.test_celery_interop import InteropSite, alone  # noqa: F401

pytestmark = pytest.mark.timeout(90)


def test_a_broadcast_reaches_every_worker_that_takes_it_and_no_other(site: Any) -> None:
    site.conf = {"broadcast": ["news"]}
    site.worker("-c", "2")
    site.worker("-c", "1", "-P", "threads")
    site.worker("-c", "1", "-X", "news")
    site.app.conf.task_queues = [Queue("celery"), Broadcast("news")]
    site.send("mark", "told", queue="news")
    site.send("mark", "once")
    site.await_journal(lambda lines: Counter(lines) == {"told": 2, "once": 1})
    site.send("mark", "again", queue="news")
    site.await_journal(lambda lines: Counter(lines) == {"told": 2, "once": 1, "again": 2})


def test_a_worker_s_copy_goes_with_it_and_comes_back_after_a_kill(site: Any) -> None:
    site.conf = {"broadcast": ["news"]}
    site.app.conf.task_queues = [Queue("celery"), Broadcast("news")]
    leaver, killed = site.worker("-c", "1"), site.worker("-c", "1")
    assert len(site.app.broker.bindings("news")) == 2
    leaver.stop()
    assert len(site.app.broker.bindings("news")) == 1
    killed.kill()
    site.worker("-c", "1")
    site.await_true(lambda: len(site.app.broker.bindings("news")) == 1)
    site.send("mark", "told", queue="news")
    site.await_journal(lambda lines: lines == ["told"])
    own = [queue for queue in site.app.broker.queues() if queue.startswith("bcast.")]
    assert len(own) == 1


def test_a_copy_that_is_retried_comes_back_to_its_worker_alone(site: Any) -> None:
    site.conf = {"broadcast": ["news"], "task_create_missing_queues": False}
    site.worker("-c", "1")
    site.worker("-c", "1")
    site.app.conf.task_queues = [Queue("celery"), Broadcast("news")]
    site.send("flaky", 1, queue="news")
    site.await_journal(lambda lines: Counter(lines) == {"try 0": 2, "try 1": 2})


def test_a_worker_s_direct_queue(site: Any) -> None:
    site.conf = {"worker_direct": True}
    site.worker("-c", "1", "-n", "one@h")
    site.worker("-c", "1", "-n", "two@h")
    call = {"exchange": "C.dq2", "routing_key": "two@h"}
    assert site.send("who", **call).get(timeout=10)["hostname"] == "two@h"
    assert site.send("who", queue="one@h.dq2").get(timeout=10)["hostname"] == "one@h"


def test_a_topic_s_message_goes_to_each_queue_whose_pattern_fits(site: Any) -> None:
    queues = {
        "images": {"exchange": "media", "exchange_type": "topic", "routing_key": "image.#"},
        "small": {"exchange": "media", "exchange_type": "topic", "routing_key": "*.small"},
        "other": {"exchange": "media", "exchange_type": "topic", "routing_key": "video.*"},
    }
    site.conf = {"task_queues": queues}
    site.worker("-c", "1")
    # The client knows nothing of these queues: the store does.
    site.send("mark", "both", exchange="media", routing_key="image.small")
    site.send("mark", "one", exchange="media", routing_key="image.big")
    site.await_journal(lambda lines: Counter(lines) == {"both": 2, "one": 1})


def test_a_queue_that_must_be_declared_is_named(site: Any) -> None:
    worker = site.worker("-Q", "nowhere", ready=False, task_create_missing_queues=False)
    assert worker.process.wait(20) != 0
    assert "-Q: queue 'nowhere' is not in task_queues" in worker.log
    assert "Traceback" not in worker.log


def test_nobody_waits_for_the_watch_at_the_end_of_a_process(site: Any) -> None:
    """A client that ends at once, and one that ends while the watch looks, both end silently."""
    code = (
        "import sys, time\n"
        "from celeriac import Celeriac\n"
        "app = Celeriac('x', broker=sys.argv[1])\n"
        "app.publisher.watch.interval = float(sys.argv[2])\n"
        "app.send_task('x', queue='nobody')\n"
        "time.sleep(float(sys.argv[3]))\n"
    )
    for interval, pause in (("30", "0"), ("0.001", "0"), ("0.001", "0.2")):
        command = [sys.executable, "-c", code, site.broker, interval, pause]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=10, env=site.env, check=False)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


# -- Celery's workers and clients on the same Redis ----------------------------------------------------------


@pytest.fixture
def mixed(alone: InteropSite) -> InteropSite:  # noqa: F811
    alone.client_conf = {"broadcast": "news"}
    return alone


@pytest.mark.parametrize("library", ["celeriac", "celery"])
def test_a_broadcast_of_either_library_reaches_both_s_workers_once(mixed: InteropSite, library: str) -> None:
    for worker in ("celeriac", "celeriac", "celery"):
        mixed.worker(worker, "news", "-c", "1", "-P", "solo", broadcast="news")
    # Without this a client of Celery's does not know that it is a fanout, and misses Celery's worker.
    more = ", declare=[app.amqp.queues['news'].exchange]" if library == "celery" else ""
    mixed.client(library).run(f"mark.apply_async(('told',), queue='news'{more})")
    mixed.await_true(lambda: len(mixed.journal()) >= 3)
    mixed.client(library).run(f"mark.apply_async(('last',), queue='news'{more})")
    mixed.await_true(lambda: Counter(mixed.journal())["celeriac last"] == 2)
    mixed.await_true(lambda: Counter(mixed.journal())["celery last"] == 1)
    assert Counter(mixed.journal()) == {
        "celeriac told": 2,
        "celery told": 1,
        "celeriac last": 2,
        "celery last": 1,
    }


def test_a_client_of_celery_s_that_has_not_declared_the_exchange_reaches_our_workers(
    mixed: InteropSite,
) -> None:
    mixed.worker("celeriac", "news", "-c", "1", broadcast="news")
    mixed.worker("celeriac", "news", "-c", "1", broadcast="news")
    mixed.client("celery").run("mark.apply_async(('told',), queue='news')")
    mixed.await_true(lambda: mixed.journal() == ["celeriac told"] * 2)


def test_celery_s_clients_reach_queues_that_only_our_workers_declared(alone: InteropSite) -> None:  # noqa: F811
    topic = {"exchange": "media", "exchange_type": "topic"}
    alone.client_conf = {"task_queues": {"images": {**topic, "routing_key": "image.#"}}}
    alone.worker("celeriac", "all", "-c", "1", task_queues={"all": {**topic, "routing_key": "#"}})
    alone.client("celery").run("mark.apply_async(('found',), queue='images', routing_key='image.png')")
    alone.await_true(lambda: alone.journal() == ["celeriac found"])


def test_we_reach_queues_that_only_celery_s_workers_declared(alone: InteropSite) -> None:  # noqa: F811
    topic = {"exchange": "media", "exchange_type": "topic", "routing_key": "image.#"}
    alone.worker("celery", "images", "-c", "1", "-P", "solo", task_queues={"images": topic})
    send = "mark.apply_async(('found',), exchange='media', routing_key='image.png')"
    alone.client("celeriac").run(send)
    alone.await_true(lambda: alone.journal() == ["celery found"])


def test_celery_s_workers_count_as_consumers(alone: InteropSite) -> None:  # noqa: F811
    from celeriac import Celeriac

    celery = alone.worker("celery", "shared", "-c", "1", "-P", "solo", worker_enable_remote_control=True)
    with Celeriac("watcher", broker=alone.server.url(), set_as_current=False) as app:
        alone.await_true(lambda: app.broker.consumers(["shared", "nobody"]) == {"shared": 1})
        app.publisher.watch.patience = 0.0
        app.send_task("interop_tasks.mark", ["x"], queue="shared")
        app.send_task("interop_tasks.mark", ["x"], queue="nobody")
        assert app.publisher.watch.look() == ["nobody"]
        celery.signal(signal.SIGQUIT)
        celery.process.wait(10)
        assert app.broker.consumers(["shared"]) == {}


def test_exchanges_declared_by_kombu_s_objects(site: Any) -> None:
    import kombu

    site.app.conf.task_queues = [kombu.Queue("images", kombu.Exchange("media", "topic"), "image.#")]
    site.worker("-Q", "images", "-c", "1")
    assert site.app.queues["images"].exchange == Exchange("media", "topic")
    assert site.send("add", 1, 2, exchange="media", routing_key="image.png").get(timeout=10) == 3
