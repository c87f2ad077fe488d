"""Fleets that are shared by the tests of a module: ours stays, Celery's releases come and go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet.house import OURS, RELEASES, THEIRS, Fleet, FleetSite, stop_now
from tests.fleet.scenarios import WIDE
from tests.servers import RabbitServer, RedisServer


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the broad tests where the thin ones will do."""
    left_out = [
        item
        for item in items
        if item.get_closest_marker("wide") and (item.module.BROKER, item.callspec.params["fleet"]) not in WIDE  # type: ignore[attr-defined]
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="module")
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetSite]:
    """A broker of the kind the module names, with a worker of ours."""
    broker = None
    if request.module.BROKER == "rabbitmq":
        rabbit: RabbitServer = request.getfixturevalue("rabbit_server")
        broker = rabbit.fresh_url()
    with RedisServer() as redis:
        site = FleetSite(redis, tmp_path_factory.mktemp("fleet"), broker)
        site.client_conf = {"broker_delay": "celery"} if broker is None else {}
        site.worker("celeriac", OURS, "-c", "2", "-n", f"{OURS}@%h", worker_prefetch_multiplier=1)
        yield site
        site.close()


@pytest.fixture(scope="module", params=RELEASES)
def fleet(request: pytest.FixtureRequest, house: FleetSite) -> Iterator[Fleet]:
    """The same with a worker and a client of one release of Celery."""
    house.move_on(request.param)
    theirs = house.worker(
        "celery",
        THEIRS,
        "-c",
        "2",
        "-n",
        f"{THEIRS}@%h",
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=True,
    )
    code = "answer = [name for reply in app.control.ping(timeout=10, limit=2) for name in reply]"
    names = {name.partition("@")[0]: name for name in house.client("celery").run(code)}
    assert sorted(names) == [OURS, THEIRS]
    yield Fleet(house, names)
    stop_now(theirs)
    house.workers.remove(theirs)
