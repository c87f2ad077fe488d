"""SQLite: URLs, options, file systems, clocks, hosts and durability."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from celeriac.engines import create
from celeriac.engines.base import Incarnation, NodeInfo, Outcome, Publication, Verdict
from celeriac.engines.results import ResultRecord
from celeriac.engines.sqlite import SQLiteEngine, clock, location
from celeriac.engines.sqlite.location import Location, file_system
from celeriac.exceptions import ImproperlyConfigured, OperationalError
from celeriac.message import Message


def pub(task_id: str, **options: object) -> Publication:
    return Publication(Message({"id": task_id, "task": "t"}, {}, b"[[], {}, {}]"), "q", **options)  # type: ignore[arg-type]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SQLiteEngine]:
    engine = create(f"sqlite:///{tmp_path / 'store.db'}", {})
    assert isinstance(engine, SQLiteEngine)
    with closing(engine):
        yield engine


def test_a_relative_path_is_made_absolute_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = Location.parse("sqlite:///data.db?synchronous=FULL", {})
    assert (made.path, made.url) == (tmp_path / "data.db", f"sqlite:///{tmp_path}/data.db?synchronous=FULL")
    assert Location.parse("sqlite:////var/a%20b.db", {}).path == Path("/var/a b.db")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///x?mode=memory"])
def test_a_store_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="names no file"):
        Location.parse(url, {})


def test_a_host_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="names no host"):
        Location.parse("sqlite://server/data.db", {})


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("syncronous=FULL", "no option 'syncronous'"),
        ("synchronous=SOMETIMES", "synchronous=SOMETIMES: use one of OFF, NORMAL, FULL, EXTRA"),
        ("lock_timeout=soon", "lock_timeout='soon': not a number"),
        ("priority_order=random", "use 'higher'"),
    ],
)
def test_a_wrong_option_is_named(query: str, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        Location.parse(f"sqlite:///x.db?{query}", {})


def test_the_query_overrides_the_transport_options() -> None:
    made = Location.parse("sqlite:///x.db?lock_timeout=3", {"lock_timeout": 5, "visibility_timeout": 1})
    assert made.options.lock_timeout == 3.0


MOUNTS = r"""
22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 0:30 / /mnt/share rw - nfs4 server:/x rw
31 22 0:31 / /mnt/with\040space rw - cifs //server/x rw
32 30 254:1 / /mnt/share/local rw - xfs /dev/vdb rw
33 22 0:33 / /home/me/far rw - fuse.sshfs me@far: rw
34 22 0:34 / /again rw - ext4 /dev/vdc rw
35 22 0:35 / /again rw - 9p share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib", "ext4"),
        ("/mnt/share/deep", "nfs4"),
        ("/mnt/shared", "ext4"),
        ("/mnt/with space/x", "cifs"),
        ("/mnt/share/local/x", "xfs"),
        ("/home/me/far", "fuse.sshfs"),
        ("/again", "9p"),
    ],
)
def test_the_file_system_of_a_path(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.lstrip())
    assert file_system(Path(path), str(mounts)) == kind


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "virtiofs", "fuse.sshfs", "fuse"])
def test_a_shared_file_system_is_refused(
    engine: SQLiteEngine, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location, "file_system", lambda path: kind)
    with pytest.raises(OperationalError, match=rf"network or shared file system \({kind}\).*local disk"):
        engine.publish([pub("a")])


def test_lower_priority_numbers_can_come_first(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with closing(create(url, {"priority_order": "lower"})) as engine:
        engine.publish([pub("late", priority=9), pub("early", priority=0)])
        consumer = engine.attach(Incarnation("n", 1, 1))
        deliveries = consumer.exchange([], ["q"], 2).deliveries
        assert [delivery.lane for delivery in deliveries] == [0, 9]
        consumer.close()


# -- clocks and hosts --------------------------------------------------------------------------------------


def node(lease: float = 15.0) -> NodeInfo:
    return NodeInfo("n", "celery@n", "host", 1, 1.0, lease)


def test_setting_the_wall_clock_kills_no_worker(
    engine: SQLiteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.beat(node())
    engine.recover("elsewhere", lambda *_: True)
    for jump in (86400.0, -86400.0):
        monkeypatch.setattr(clock, "now", lambda jump=jump, now=clock.now: now() + jump)
        assert engine.recover("elsewhere", lambda *_: True) == []
        assert [known.id for known in engine.nodes()] == ["n"]


def test_a_node_of_the_last_boot_is_dead(engine: SQLiteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.publish([pub("a")])
    engine.beat(node(lease=1e9))
    assert len(engine.attach(Incarnation("n", 1, 1)).exchange([], ["q"], 1).deliveries) == 1
    monkeypatch.setattr(clock, "boot_id", lambda: "another boot")
    assert [lost.owner for lost in engine.recover("elsewhere", lambda *_: True)] == ["n:1:1"]
    assert engine.depth(["q"])["q"].ready == 1


def test_tokens_grow_past_what_a_power_cut_took_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def claim_one() -> int:
        with closing(create(f"sqlite:///{tmp_path / 'store.db'}", {})) as engine:
            engine.publish([pub("a")])
            consumer = engine.attach(Incarnation("n", 1, 1))
            (delivery,) = consumer.exchange([], ["q"], 1).deliveries
            consumer.close()
        return delivery.token

    before = claim_one()
    assert 0 < claim_one() - before < 100
    monkeypatch.setattr(clock, "boot_id", lambda: "another boot")
    assert claim_one() - before > 1 << 39


def test_a_second_machine_is_refused_while_the_first_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with closing(create(url, {})) as first, closing(create(url, {})) as second:
        first.beat(node())
        monkeypatch.setattr(clock, "boot_id", lambda: "its boot")
        monkeypatch.setattr(clock, "machine_id", lambda: "another machine")
        with pytest.raises(OperationalError, match="in use by another machine"):
            second.publish([pub("a")])
        monkeypatch.setattr(clock, "now", lambda now=clock.now: now() + 60)
        second.publish([pub("a")])


# -- durability ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "publisher", "worker"), [("", "FULL", "NORMAL"), ("?synchronous=full", "FULL", "FULL")]
)
def test_who_commits_how_durably(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str, publisher: str, worker: str
) -> None:
    from celeriac.engines.sqlite.connection import Connection

    levels: list[str] = []
    write = Connection.write
    monkeypatch.setattr(
        Connection,
        "write",
        lambda self, synchronous: (levels.append(synchronous), write(self, synchronous))[1],
    )
    with closing(create(f"sqlite:///{tmp_path / 'store.db'}{query}", {})) as engine:
        engine.publish([pub("a")])
        engine.revoke(["x"], 60)
        assert levels == [publisher, publisher]
        levels.clear()
        consumer = engine.attach(Incarnation("n", 1, 1))
        (delivery,) = consumer.exchange([], ["q"], 1).deliveries
        consumer.exchange([Outcome(delivery.token, "q", Verdict.ACK)], ["q"], 0)
        engine.store([ResultRecord("a", "SUCCESS", b"1")])
        assert levels == [worker] * 4
        consumer.close()


def test_the_file_shrinks_after_cleaning(engine: SQLiteEngine) -> None:
    records = [ResultRecord(f"task-{number}", "SUCCESS", b"x" * 2000, ttl=0.001) for number in range(3000)]
    engine.store(records)
    path = engine._store.path
    assert engine.cleanup() == 3000
    engine.close()  # the log is written back
    assert path.stat().st_size < 3_000_000
