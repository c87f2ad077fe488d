"""Settings are read from every form Celery knows, and mistyped names are found where they are written."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from celeriac.exceptions import ImproperlyConfigured
from celeriac.settings import from_arguments, from_environment, from_mapping, from_object
from celeriac.settings.loading import suggest


@pytest.fixture
def config_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a configuration module and make it importable; returns a function of its text."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def write(text: str, name: str = "proj_config") -> str:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)


# -- objects and modules -----------------------------------------------------------------------------


def test_a_module_by_its_name(config_module: Any) -> None:
    name = config_module(
        "import os\n"
        "from datetime import timedelta\n"
        "task_acks_late = False\n"
        "result_expires = timedelta(hours=1)\n"
        "page_size = 50\n"
        "def task_route(name): return 'x'\n"
        "task_routes = (task_route,)\n"
        "_private = 1\n"
    )
    found = from_object(name)
    assert found["task_acks_late"] is False
    assert found["result_expires"] == 3600
    assert found["page_size"] == 50, "a value of the user's own is kept"
    assert callable(found["task_route"]), "a function of the module's own is no mistyped setting"
    assert not found.keys() & {"os", "_private"}


def test_an_attribute_of_a_module(config_module: Any) -> None:
    config_module(
        "class Config:\n    task_default_queue = 'mine'\nsettings = {'task_default_queue': 'its'}\n"
    )
    assert from_object("proj_config:Config")["task_default_queue"] == "mine"
    assert from_object("proj_config:settings") == {"task_default_queue": "its"}
    assert from_object("proj_config.Config")["task_default_queue"] == "mine"


def test_a_module_that_is_not_there(config_module: Any) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_config"):
        from_object("no_such_config")
    assert from_object("no_such_config", silent=True) == {}
    with pytest.raises(ImproperlyConfigured, match=r"without \.py"):
        from_object("celeryconfig.py")


def test_a_failing_import_inside_the_module_is_not_mistaken_for_a_missing_one(config_module: Any) -> None:
    config_module("import no_such_library\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        from_object("proj_config")


def test_an_error_names_the_module(config_module: Any) -> None:
    config_module("task_time_limit = 'soon'\n")
    with pytest.raises(
        ImproperlyConfigured, match=r"task_time_limit: 'soon' is not a number of seconds.*in proj_config"
    ):
        from_object("proj_config")


def test_an_instance_is_read_with_its_methods_left_alone() -> None:
    class Config:
        task_default_queue = "mine"

        def task_route(self) -> None: ...

    assert from_object(Config())["task_default_queue"] == "mine"


# -- namespaces --------------------------------------------------------------------------------------


def test_a_django_namespace() -> None:
    django = SimpleNamespace(
        CELERY_TASK_ACKS_LATE=False,
        CELERY_BROKER_URL="redis://new",
        CELERY_APP="left alone",
        BROKER_URL="redis://old",
        CELERY_MESSAGE_COMPRESSION="gzip",
        TIME_ZONE="UTC",
        DEBUG=True,
        S3_BUCKET="pictures",
        DATABASES={},
    )
    assert from_object(django, "CELERY") == {
        "task_acks_late": False,
        "broker_url": "redis://new",
        "task_compression": "gzip",
        "timezone": "UTC",
        "app": "left alone",
    }


def test_the_new_name_wins_over_the_old_one_in_a_namespace() -> None:
    both = {"CELERY_TASK_ACKS_LATE": False, "CELERY_ACKS_LATE": True}
    assert from_mapping(both, "CELERY") == {"task_acks_late": False}
    assert from_mapping(dict(reversed(both.items())), "CELERY") == {"task_acks_late": False}


def test_only_what_carries_the_namespace_is_read() -> None:
    class Django:
        CELERY_TASK_ALWAYS_EAGER = True

        @property
        def EXPENSIVE(self) -> None:
            raise AssertionError("must not be read")

    assert from_object(Django(), "CELERY") == {"task_always_eager": True}


def test_djangos_time_zone_yields_to_celerys() -> None:
    assert from_mapping({"TIME_ZONE": "UTC", "CELERY_TIMEZONE": "GMT"}, "CELERY") == {"timezone": "GMT"}


@pytest.mark.parametrize("name", ["CELERY_TASK_ALWAYS_EAGR", "CELERY_BROKER_ULR"])
def test_a_near_miss_in_a_namespace_is_an_error(name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="did you mean"):
        from_mapping({name: True}, "CELERY")


# -- old names ---------------------------------------------------------------------------------------


def test_old_names_are_found_by_themselves() -> None:
    old = {"CELERY_ACKS_LATE": True, "CELERYD_CONCURRENCY": 4, "BROKER_URL": "redis://", "S3_BUCKET": "b"}
    assert from_mapping(old) == {
        "task_acks_late": True,
        "worker_concurrency": 4,
        "broker_url": "redis://",
        "S3_BUCKET": "b",
    }


def test_mixing_old_and_new_names_is_an_error_that_lists_the_minority() -> None:
    with pytest.raises(ImproperlyConfigured, match="CELERY_ACKS_LATE -> task_acks_late") as error:
        from_mapping({"CELERY_ACKS_LATE": True, "task_serializer": "json", "task_default_queue": "q"})
    assert "task_serializer" not in str(error.value)
    with pytest.raises(ImproperlyConfigured, match="task_serializer -> CELERY_TASK_SERIALIZER"):
        from_mapping({"CELERY_ACKS_LATE": True, "CELERY_IMPORTS": (), "task_serializer": "json"})


def test_a_setting_given_under_both_names_is_no_mixture() -> None:
    assert from_mapping({"CELERY_ACKS_LATE": True, "task_acks_late": False}) == {"task_acks_late": False}


# -- near misses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("task_ack_late", "task_acks_late"),
        ("worker_concurency", "worker_concurrency"),
        ("broker_uri", "broker_url"),
        ("worker_prefetch_multipler", "worker_prefetch_multiplier"),
        ("task_queue", "task_queues"),
        ("Task_Acks_Late", "task_acks_late"),
        ("CELERY_ACK_LATE", "CELERY_ACKS_LATE"),
        ("CELERYD_CONCURENCY", "CELERYD_CONCURRENCY"),
        ("CELERY_TASK_ACKS_LATE", "task_acks_late"),
    ],
)
def test_a_near_miss_is_an_error_that_names_the_setting(name: str, meant: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"unknown setting {name!r}.*did you mean {meant!r}"):
        from_mapping({name: 1})


@pytest.mark.parametrize(
    "name",
    [
        "redis_url",
        "worker_pool_size",
        "app",
        "user_timezone",
        "page_size",
        "DEBUG",
        "IMPORTS",
        "DATABASE_URL",
    ],
)
def test_other_names_are_the_users_own(name: str) -> None:
    assert suggest(name) is None
    assert from_mapping({name: "mine"}) == {name: "mine"}


def test_a_forgotten_namespace_is_pointed_out() -> None:
    with pytest.raises(ImproperlyConfigured, match="namespace='CELERY'"):
        from_mapping({"CELERY_TASK_TIME_LIMIT": 5})


# -- the environment and the command line --------------------------------------------------------------


def test_environment_variables() -> None:
    found = from_environment(
        {
            "CELERY_BROKER_URL": "redis://env",
            "CELERY_RESULT_BACKEND": "",
            "CELERY_TASK_ACKS_LATE": "left to the command's options",
            "CELERIAC_TASK_ACKS_LATE": "no",
            "CELERIAC_ACCEPT_CONTENT": "json,yaml",
            "CELERIAC_WORKER_SHUTDOWN_GRACE": "none",
            "CELERIAC_RESULT_EXPIRES": "",
            "CELERIAC_HOME": "/var/lib",
            "PATH": "/bin",
        }
    )
    assert found == {
        "broker_url": "redis://env",
        "task_acks_late": False,
        "accept_content": ("json", "yaml"),
        "worker_shutdown_grace": None,
    }


def test_a_mistake_in_the_environment_names_the_variable() -> None:
    with pytest.raises(ImproperlyConfigured, match="CELERIAC_TASK_TIME_LIMIT"):
        from_environment({"CELERIAC_TASK_TIME_LIMIT": "soon"})
    with pytest.raises(ImproperlyConfigured, match="CELERIAC_TASK_ACK_LATE: did you mean 'task_acks_late'"):
        from_environment({"CELERIAC_TASK_ACK_LATE": "1"})


def test_arguments() -> None:
    arguments = ["worker.concurrency=4", 'task_routes=(json){"a": "b"}', "broker_url=redis://h/?a=b"]
    assert from_arguments(arguments) == {
        "worker_concurrency": 4,
        "task_routes": {"a": "b"},
        "broker_url": "redis://h/?a=b",
    }


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("worker_concurrency", "name=value"),
        ("worker_concurency=4", "did you mean"),
        ("colour=red", "no setting 'colour'"),
        ("task_routes=(json){", "not JSON"),
        ("worker_concurrency=four", "an integer"),
    ],
)
def test_a_mistake_in_an_argument(argument: str, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        from_arguments([argument])


def test_a_module_object_is_read_like_its_name() -> None:
    module = ModuleType("made_up")
    module.task_default_queue = "q"  # type: ignore[attr-defined]
    assert from_object(module) == {"task_default_queue": "q"}
