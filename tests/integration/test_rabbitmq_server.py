"""RabbitMQ servers of another kind: one that speaks TLS and soon takes back what is not acked."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, Queue
from celeriac.contrib.conformance.helpers import drain, incarnation, pub, pubs
from celeriac.engines.base import DeadLetter
from celeriac.exceptions import ImproperlyConfigured, OperationalError
from tests.certificates import Authority
from tests.integration.conftest import Site
from tests.processes import wait_until
from tests.servers import RabbitServer, free_port

pytestmark = pytest.mark.timeout(90)

ACK_TIMEOUT = 2.0


class TlsServer(RabbitServer):
    """A server with a port for TLS, which asks clients for a certificate if ``strict``."""

    def __init__(self, authority: Authority, *, strict: bool) -> None:
        self.tls_port = free_port()
        self.authority = authority
        files = authority.issue("server")
        super().__init__(
            config={
                "listeners.ssl.local": f"127.0.0.1:{self.tls_port}",
                "ssl_options.cacertfile": str(authority.file),
                "ssl_options.certfile": files["certfile"],
                "ssl_options.keyfile": files["keyfile"],
                "ssl_options.verify": "verify_peer",
                "ssl_options.fail_if_no_peer_cert": str(strict).lower(),
                "consumer_timeout": str(int(ACK_TIMEOUT * 1000)),
            }
        )

    def tls_url(self, host: str = "127.0.0.1") -> str:
        plain = self.fresh_url()
        return plain.replace(f"{self.host}:{self.port}", f"{host}:{self.tls_port}").replace("amqp:", "amqps:")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    with TlsServer(Authority(tmp_path_factory.mktemp("tls")), strict=True) as server:
        look_often(server)
        yield server


def look_often(server: RabbitServer) -> None:
    """Let channels look for messages that are not acked: they do it once a minute otherwise."""
    server.eval("application:set_env(rabbit, channel_tick_interval, 500).")


@pytest.fixture
def trusted(server: TlsServer, tmp_path: Path) -> dict[str, Any]:
    """What a client needs: the authority, and a certificate of its own."""
    return {"ca_certs": str(server.authority.file), **server.authority.issue("client")}


def app_of(url: str, tls: Any) -> Celeriac:
    app = Celeriac(broker=url, set_as_current=False)
    app.conf.update(broker_use_ssl=tls, broker_publish_timeout=1.0, task_publish_retry=False)
    return app


# -- TLS ---------------------------------------------------------------------------------------------


def test_worker_and_client_over_tls(server: TlsServer, trusted: dict[str, Any], tmp_path: Path) -> None:
    site = Site(server.tls_url(), tmp_path, f"sqlite:///{tmp_path}/results.db")
    try:
        site.conf = {"broker_use_ssl": trusted, "broker_heartbeat": 1}
        site.app.conf.update(broker_use_ssl=trusted)
        site.worker("-c", "1")
        large = "x" * 300_000  # more than a TLS record, more than a frame
        results = [site.send("mark", text) for text in ("a", "b", large)]
        assert [result.get(timeout=20) for result in results] == ["a", "b", large]
    finally:
        site.close()


def test_celery_s_ways_to_ask_for_tls(server: TlsServer, trusted: dict[str, Any]) -> None:
    url = server.tls_url()
    prefixed = {f"ssl_{name}": value for name, value in trusted.items()} | {
        "ssl_cert_reqs": ssl.CERT_REQUIRED
    }
    unchecked = {**trusted, "cert_reqs": ssl.CERT_NONE}
    for tls in (trusted, prefixed, unchecked):
        app = app_of(url, tls)
        app.send_task("t")
        app.close()
    # amqp:// with broker_use_ssl speaks TLS too, as in Celery.
    app = app_of(url.replace("amqps:", "amqp:"), trusted)
    app.send_task("t")
    app.close()
    with pytest.raises(OperationalError, match="wants a certificate"):  # and this one shows none
        app_of(url, {"context": {"cafile": trusted["ca_certs"]}}).send_task("t")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ca_certs": "other"}, "signed by nobody who is trusted here.*'?ca_certs"),
        ({"server_hostname": "elsewhere"}, "certificate is for another name"),
        ({"certfile": None, "keyfile": None}, "wants a certificate of the client's"),
    ],
)
def test_what_is_wrong_with_tls_is_said(
    server: TlsServer, trusted: dict[str, Any], tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    if change.get("ca_certs"):
        change = {"ca_certs": str(Authority(tmp_path, "other").file)}
    with pytest.raises(OperationalError, match=text):
        app_of(server.tls_url(), {**trusted, **change}).send_task("t")


def test_a_port_that_does_not_speak_tls_is_said(server: TlsServer, trusted: dict[str, Any]) -> None:
    url = server.fresh_url()
    with pytest.raises(OperationalError, match="Nobody speaks TLS there"):
        app_of(url.replace("amqp:", "amqps:"), trusted).send_task("t")
    with pytest.raises(OperationalError, match="amqps://"):
        app_of(server.tls_url().replace("amqps:", "amqp:"), False).send_task("t")
    with pytest.raises(ImproperlyConfigured, match="there is no file '/no/such"):
        app_of(url, {"ca_certs": "/no/such.pem"}).send_task("t")


# -- consumer_timeout --------------------------------------------------------------------------------


def test_a_task_that_outlives_consumer_timeout(server: TlsServer, tmp_path: Path) -> None:
    """The message is delivered again; the first run's outcome counts, and the worker works on."""
    site = Site(server.fresh_url(), tmp_path, f"sqlite:///{tmp_path}/results.db")
    try:
        known = {"consumer_timeout": ACK_TIMEOUT}
        worker = site.worker("-c", "1", "--time-limit", "60", broker_transport_options=known)
        assert "delivers a task again that runs longer than its consumer_timeout (2 s" in worker.log
        result = site.send("nap", 3 * ACK_TIMEOUT, "long")
        assert result.get(timeout=30) == "long"
        worker.await_line("consumer_timeout")
        assert site.send("add", 1, 1).get(timeout=20) == 2
        site.await_true(lambda: site.app.broker.depth(["celery"])["celery"].ready == 0)
        assert site.journal() == ["start long", "end long"]
        assert f"consumer_timeout ({ACK_TIMEOUT:g} s)" in worker.log
        assert worker.stop() == 0
    finally:
        site.close()


# -- shutting down -----------------------------------------------------------------------------------


def test_a_server_that_shuts_down_is_said_and_survived(server: TlsServer, tmp_path: Path) -> None:
    site = Site(server.fresh_url(), tmp_path, f"sqlite:///{tmp_path}/results.db")
    site.app.conf.update(broker_publish_timeout=1.0, task_publish_retry=False)
    try:
        worker = site.worker("-c", "1")
        assert site.send("add", 1, 1).get(timeout=20) == 2
        server.control("stop_app")
        try:
            worker.await_line("Lost the broker")
            with pytest.raises(OperationalError, match=r"shutting down|refused|closed"):
                site.send("add", 1, 2)
        finally:
            server.control("start_app")
        site.app.conf.broker_publish_timeout = 20.0
        assert site.send("add", 2, 2).get(timeout=30) == 4
    finally:
        site.close()


KINDS = ("classic", "quorum")


def test_what_was_confirmed_outlives_the_death_of_the_server(server: TlsServer) -> None:
    def opened() -> Celeriac:
        queues = [Queue(kind, queue_arguments={"x-queue-type": kind}) for kind in KINDS]
        return Celeriac(broker=url, set_as_current=False, task_queues=queues)

    url = server.fresh_url()
    with opened() as app:
        for kind in KINDS:
            app.broker.publish([pub("old", kind), pub("older", kind, delay=1000.0)])  # makes the queues
        server.eval("[dets:sync(Table) || Table <- dets:all()].")  # docs/rabbitmq.md: not at once by itself
        for kind in KINDS:
            app.broker.publish([*pubs("abc", kind), pub("later", kind, delay=1.0)])
        app.broker.bury([DeadLetter("", "q", "failed", "", time.time(), "t", "dead", b"")])
        server.restart()
    look_often(server)
    with opened() as app:
        consumer = app.broker.attach(incarnation())
        for kind in KINDS:
            found: list[str] = []
            wait_until(lambda: found.extend(drain(consumer, [kind])) or len(found) > 4)  # type: ignore[func-returns-value]  # noqa: B023
            assert sorted(found) == ["a", "b", "c", "later", "old"], kind
        assert [letter.task_id for letter in app.broker.dead_letters()] == ["dead"]
        consumer.close()
