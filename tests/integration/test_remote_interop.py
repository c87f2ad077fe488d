"""Remote control between Celeriac and the real Celery: clients and workers of both on one broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.test_celery_interop import InteropSite
from tests.processes import LoggedProcess
from tests.servers import RabbitServer, RedisServer

pytestmark = pytest.mark.timeout(120)

BOTH = ("celery", "celeriac")


class Fleet:
    """One worker of each library, and clients of both."""

    def __init__(self, site: InteropSite) -> None:
        self.site = site
        self.workers: dict[str, LoggedProcess] = {
            library: site.worker(library, "fleet", "-c", "1", worker_enable_remote_control=True)
            for library in BOTH
        }
        code = "answer = [name for reply in app.control.ping(timeout=5, limit=2) for name in reply]"
        self.names = {name.partition("-")[0]: name for name in self.run("celery", code)}
        assert sorted(self.names) == sorted(BOTH)

    def run(self, client: str, code: str, of: str = "celery") -> object:
        """Run code in a client, in which ``{name}`` is the node of ``of``."""
        name = self.names[of] if hasattr(self, "names") else ""
        return self.site.client(client).run(code.replace("{name}", name))


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    broker = None
    if request.param == "rabbitmq":
        server: RabbitServer = request.getfixturevalue("rabbit_server")
        broker = server.fresh_url()
    with RedisServer() as redis:
        site = InteropSite(redis, tmp_path_factory.mktemp("remote"), broker)
        yield Fleet(site)
        site.close()


@pytest.mark.parametrize("client", BOTH)
def test_all_are_reached(fleet: Fleet, client: str) -> None:
    code = "answer = app.control.inspect(timeout=5, limit=2).ping()"
    assert fleet.run(client, code) == {name: {"ok": "pong"} for name in fleet.names.values()}


@pytest.mark.parametrize(("client", "worker"), [BOTH, BOTH[::-1]])
def test_one_asks_the_other(fleet: Fleet, client: str, worker: str) -> None:
    code = """
        look = app.control.inspect(["{name}"], timeout=5)
        found = {
            "queues": [queue["name"] for queue in look.active_queues()["{name}"]],
            "pool": look.stats()["{name}"]["pool"]["max-concurrency"],
            "registered": any(each.startswith("interop_tasks.add") for each in look.registered()["{name}"]),
            "clock": look.clock()["{name}"]["clock"] > 0,
            "idle": look.active()["{name}"] + look.reserved()["{name}"] + look.scheduled()["{name}"],
            "unknown": "error" in look._request("no_such_command")["{name}"],
            "pattern": list(app.control.inspect(timeout=5, pattern="{name}", matcher="glob", limit=1).ping()),
        }
        answer = found
    """
    assert fleet.run(client, code, worker) == {
        "queues": ["fleet"],
        "pool": 1,
        "registered": True,
        "clock": True,
        "idle": [],
        "unknown": True,
        "pattern": [fleet.names[worker]],
    }


def test_our_clock_follows_that_of_celery_s_worker(fleet: Fleet) -> None:
    code = """
        for _ in range(50):
            app.control.ping(destination=["{name}"], timeout=5)
        theirs = app.control.inspect(["{name}"], timeout=5).clock()["{name}"]["clock"]
        answer = [theirs, app.clock.value]
    """
    fleet.run("celery", code)  # its clients' clocks do not go on, its workers' do
    theirs, ours = fleet.run("celeriac", code.replace("50", "1"))  # type: ignore[misc]
    assert ours > theirs > 50


@pytest.mark.parametrize(("client", "worker"), [BOTH, BOTH[::-1]])
def test_one_orders_the_other(fleet: Fleet, client: str, worker: str) -> None:
    code = f"""
        options = dict(destination=["{{name}}"], reply=True, timeout=5)
        answer = [
            list(told["{{name}}"])
            for (told,) in (
                app.control.revoke("by-{client}", **options),
                app.control.rate_limit("interop_tasks.add", "100/s", **options),
                app.control.time_limit("interop_tasks.add", soft=50, hard=60, **options),
                app.control.add_consumer("more", **options),
                app.control.cancel_consumer("more", **options),
            )
        ]
        answer += [app.control.inspect(["{{name}}"], timeout=5).revoked()["{{name}}"]]
    """
    answer = fleet.run(client, code, worker)
    assert isinstance(answer, list)
    assert answer[:-1] == [["ok"]] * 5
    assert f"by-{client}" in answer[-1]


@pytest.mark.parametrize(("client", "worker"), [BOTH, BOTH[::-1]])
def test_one_ends_the_other(fleet: Fleet, client: str, worker: str) -> None:
    """The last test of the fleet."""
    fleet.run(client, 'app.control.shutdown(destination=["{name}"]); answer = 0', worker)
    assert fleet.workers[worker].process.wait(20) == 0
