"""``app.conf``: which layer wins, that changes act at once, and that it is read once, by one thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from celeriac.exceptions import ImproperlyConfigured
from celeriac.settings import SETTINGS, Settings, from_mapping


def settings(environ: Mapping[str, str] | None = None, **source: Any) -> Settings:
    """A configuration from a dictionary, cut off from the environment of the tests."""
    return Settings(source=lambda: from_mapping(source), environ={} if environ is None else environ)


@pytest.fixture
def fast_switching() -> Iterator[None]:
    """Let threads take turns after a microsecond, so that a gap of a few instructions is met."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# -- layers ------------------------------------------------------------------------------------------


def test_each_layer_wins_over_the_one_below() -> None:
    environ: dict[str, str] = {}
    conf = settings(environ, task_default_queue="source")
    assert Settings(environ={}).task_default_queue == "celery"
    conf.maybe_defaults({"task_default_queue": "fallback", "task_serializer": "yaml"})
    assert conf.task_default_queue == "source"
    assert conf.task_serializer == "yaml"
    conf.add_defaults({"task_default_queue": "added"})
    assert conf.task_default_queue == "added"
    conf.add_defaults(lambda: {"task_default_queue": "added later"})
    assert conf.task_default_queue == "added later"
    conf.task_default_queue = "changed"
    assert conf.task_default_queue == "changed"
    environ["CELERIAC_TASK_DEFAULT_QUEUE"] = "environment"
    conf.configure(dict)
    assert conf.task_default_queue == "environment"
    conf.override({"task_default_queue": "command line"})
    assert conf.task_default_queue == "command line"


def test_the_same_order_holds_for_what_is_set_before_the_first_read() -> None:
    conf = settings({"CELERY_BROKER_URL": "redis://env"}, task_serializer="yaml", broker_url="redis://source")
    conf.add_defaults(lambda: {"task_serializer": "msgpack", "task_compression": "gzip"})
    conf.task_compression = "zstd"
    conf.broker_url = "redis://code"
    assert (conf.task_serializer, conf.task_compression) == ("msgpack", "zstd")
    assert conf.broker_url == "redis://env", "Celery's URL variables override the code"


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("broker_url", "CELERY_BROKER_URL"),
        ("broker_read_url", "CELERY_BROKER_READ_URL"),
        ("broker_write_url", "CELERY_BROKER_WRITE_URL"),
        ("result_backend", "CELERY_RESULT_BACKEND"),
    ],
)
def test_the_four_url_variables(name: str, variable: str) -> None:
    assert settings({variable: "redis://env"}, **{name: "redis://code"})[name] == "redis://env"


def test_a_change_acts_at_once_and_can_be_taken_back() -> None:
    conf = settings()
    assert conf.task_always_eager is False
    conf.task_always_eager = True
    assert conf.task_always_eager is True
    assert conf["task_always_eager"] is True
    del conf.task_always_eager
    assert conf.task_always_eager is False
    conf["task_always_eager"] = "yes"
    conf.clear()
    assert conf.task_always_eager is False


def test_names_that_follow_others() -> None:
    conf = settings(broker_url="redis://a", task_default_queue="q")
    assert (conf.broker_read_url, conf.broker_write_url) == ("redis://a", "redis://a")
    assert (conf.task_default_exchange, conf.task_default_routing_key) == ("q", "q")
    conf.update(broker_url="redis://b", broker_read_url="redis://c", task_default_queue="r")
    assert (conf.broker_read_url, conf.broker_write_url) == ("redis://c", "redis://b")
    assert (conf.task_default_exchange, conf.task_default_routing_key) == ("r", "r")


def test_an_update_is_all_or_nothing_and_checks_at_its_line() -> None:
    conf = settings()
    with pytest.raises(ImproperlyConfigured, match="task_time_limit"):
        conf.update(task_default_queue="q", task_time_limit="soon")
    with pytest.raises(ImproperlyConfigured, match="did you mean 'task_acks_late'"):
        conf.task_ack_late = True
    assert conf.task_default_queue == "celery"
    assert not conf.table()


def test_defaults_that_are_changed_in_place_belong_to_one_application() -> None:
    one, other = settings(), settings()
    one.beat_schedule["tick"] = {}
    one.task_default_queue = "q"
    assert one.beat_schedule == {"tick": {}}
    assert other.beat_schedule == {}
    assert SETTINGS["beat_schedule"].default == {}


# -- names ---------------------------------------------------------------------------------------------


def test_old_and_namespaced_names_stand_for_todays() -> None:
    conf = Settings(namespace="CELERY", environ={})
    conf.CELERY_ALWAYS_EAGER = True
    assert conf.task_always_eager is True
    conf["CELERY_TASK_ALWAYS_EAGER"] = False
    assert conf.task_always_eager is False
    assert conf.CELERY_ALWAYS_EAGER is False
    assert "CELERY_TASK_ALWAYS_EAGER" in conf


def test_a_users_own_values_are_kept() -> None:
    conf = settings(page_size=50)
    conf.colour = "red"
    assert (conf.page_size, conf["colour"]) == (50, "red")
    assert conf.get("shape") is None
    assert conf.get("shape", "round") == "round"


def test_a_users_own_value_does_not_hide_a_method() -> None:
    conf = settings(update="mine", table=3)
    assert conf["update"] == "mine"
    conf.update(task_default_queue="q")
    assert conf.task_default_queue == "q"


def test_reading_what_is_not_there() -> None:
    conf = settings()
    with pytest.raises(AttributeError, match="did you mean 'task_acks_late'"):
        _ = conf.task_ack_late
    with pytest.raises(KeyError, match="colour"):
        _ = conf["colour"]
    assert not hasattr(conf, "colour")
    assert "colour" not in conf
    assert "task_acks_late" in conf
    assert set(SETTINGS) <= set(conf)


# -- reading once --------------------------------------------------------------------------------------


def test_the_source_is_read_at_the_first_read_only() -> None:
    calls = []
    conf = Settings(
        {"task_serializer": "yaml"}, lambda: calls.append(1) or {"task_default_queue": "q"}, environ={}
    )
    conf.task_compression = "gzip"
    repr(conf)
    hasattr(conf, "__deepcopy__")
    assert not calls
    assert conf.task_default_queue == "q"
    assert conf.task_serializer == "yaml"
    assert conf.get("task_track_started") is False
    assert calls == [1]


def test_many_threads_read_the_source_once() -> None:
    calls: list[int] = []
    everybody = threading.Barrier(8)
    reading, go_on = threading.Event(), threading.Event()
    seen: list[str] = []

    def source() -> dict[str, Any]:
        calls.append(1)
        reading.set()
        assert go_on.wait(10)
        return {"task_default_queue": "q"}

    conf = Settings(source=source, environ={})

    def read() -> None:
        everybody.wait(10)
        seen.append(conf.task_default_queue)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert reading.wait(10)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert calls == [1]
    assert seen == ["q"] * 8


def test_a_reader_never_sees_a_setting_missing_while_others_change_it(fast_switching: None) -> None:
    conf = settings(task_default_queue="q0")
    assert conf.task_default_queue
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                assert conf.task_default_queue[0] == "q"
                assert conf["task_default_exchange"][0] == "q"
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(300):
        conf.task_default_queue = f"q{number}"
        if number % 10 == 0:
            conf.configure(lambda: {"task_default_queue": "q"})
    done.set()
    for thread in threads:
        thread.join(10)
    assert not failures


def test_a_source_that_fails_is_read_again() -> None:
    answers: list[Callable[[], dict[str, Any]]] = [lambda: {"task_default_queue": "q"}]

    def source() -> dict[str, Any]:
        if len(answers) == 1:
            answers.append(answers[0])
            raise ImportError("not yet")
        return answers[1]()

    conf = Settings(source=source, environ={})
    with pytest.raises(ImportError, match="not yet"):
        _ = conf.task_default_queue
    assert conf.task_default_queue == "q"


def test_a_source_that_reads_the_configuration_is_told_so() -> None:
    conf = Settings(environ={})
    conf.configure(lambda: {"task_default_queue": conf.task_serializer})
    with pytest.raises(ImproperlyConfigured, match="while the configuration is being read"):
        _ = conf.task_default_queue


# -- what is settled, refused, secret ----------------------------------------------------------------------


def test_a_refused_setting_is_an_error_unless_it_is_celerys_default() -> None:
    conf = settings(worker_autoscaler="celery.worker.autoscale:Autoscaler", s3_bucket=None, task_protocol=2)
    conf.check()
    conf.update(s3_bucket="b", worker_agent="proj:Agent")
    with pytest.raises(ImproperlyConfigured, match=r"(?s)worker_agent: .*s3_bucket: .*redis://"):
        conf.check()


def test_start_up_lines_for_settled_settings() -> None:
    assert settings(worker_state_db=None, task_acks_late=False).settled_notes() == []
    conf = settings(
        worker_state_db="/var/state",
        broker_transport_options={"visibility_timeout": 60, "sep": ":"},
    )
    notes = conf.settled_notes()
    assert [note.partition(":")[0] for note in notes] == [
        "worker_state_db",
        "broker_transport_options['visibility_timeout']",
    ]


def test_the_table_shows_what_was_set_and_no_secrets() -> None:
    conf = settings(
        broker_url="redis://:hunter2@host/0",
        result_backend="redis://:hunter2@host/1",
        broker_transport_options={"sentinel_kwargs": {"password": "hunter2"}, "sep": ":"},
        security_key_password="hunter2",
        task_default_routing_key="plain",
        mail_token="hunter2",
        addresses=["amqp://u:hunter2@h"],
    )
    shown = conf.table()
    assert set(shown) == {
        "broker_url",
        "result_backend",
        "broker_transport_options",
        "security_key_password",
        "task_default_routing_key",
        "mail_token",
        "addresses",
    }
    assert shown["broker_url"] == "redis://:**@host/0"
    assert shown["task_default_routing_key"] == "plain"
    for text in (repr(shown), repr(conf.table(with_defaults=True)), conf.humanize(), repr(conf)):
        assert "hunter2" not in text
    assert conf.table(censored=False)["mail_token"] == "hunter2"
    assert "task_serializer: 'json'" in conf.humanize(with_defaults=True)


def test_is_set_tells_a_value_from_a_default() -> None:
    conf = settings({"CELERIAC_TASK_SERIALIZER": "json"}, task_default_queue="celery")
    assert conf.is_set("task_default_queue")
    assert conf.is_set("task_serializer")
    assert conf.is_set("CELERY_DEFAULT_QUEUE")
    assert not conf.is_set("task_compression")
