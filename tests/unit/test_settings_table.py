"""The table knows every setting of Celery's: its default, type and old name, and what it does here."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest

from celeriac.exceptions import ImproperlyConfigured
from celeriac.settings import SETTINGS, Settings, Support
from celeriac.settings.page import markdown

HERE = Path(__file__).parent
CELERY: dict[str, dict[str, Any]] = json.loads(
    (HERE.parent / "data" / "celery_settings.json").read_text(encoding="utf-8")
)["settings"]


def celery_default(name: str) -> Any:
    value = eval(CELERY[name]["default"], {"datetime": datetime, "inf": float("inf")})
    return value.total_seconds() if isinstance(value, datetime.timedelta) else value


def test_every_setting_of_celery_is_in_the_table() -> None:
    assert len(CELERY) == 207
    assert set(CELERY) <= set(SETTINGS)


@pytest.mark.parametrize("name", CELERY)
def test_a_row_agrees_with_celery(name: str) -> None:
    row = SETTINGS[name]
    assert not row.ours
    assert row.celery_default == celery_default(name)
    assert row.old_name == CELERY[name]["old"]


@pytest.mark.parametrize("row", SETTINGS.values(), ids=lambda row: row.name)
def test_defaults_are_of_their_own_type(row: Any) -> None:
    assert row.convert(row.default) == row.default
    if not row.ours and row.celery_default is not None:
        assert row.convert(row.celery_default) == row.celery_default


@pytest.mark.parametrize("row", SETTINGS.values(), ids=lambda row: row.name)
def test_a_row_explains_itself_in_sentences(row: Any) -> None:
    assert row.doc.endswith(".")
    assert row.doc[0].isupper()
    if row.differs:
        assert row.why.endswith(".")
    if row.support is not Support.WORKS:
        assert not row.differs, "a setting that does nothing here needs Celery's default"


def test_values_of_celerys_types_are_accepted() -> None:
    samples: dict[str, Any] = {
        "bool": True,
        "int": 3,
        "float": 1.5,
        "dict": {},
        "tuple": ("a",),
        "list": ["json"],
        "string": "1",
        "str": "gzip",
        "bytes": b"x",
    }
    with_own_words = {
        "task_default_queue_type": "quorum",
        "task_create_missing_queue_type": "quorum",
        "broker_native_delayed_delivery_queue_type": "classic",
        "worker_pool_start_method": "spawn",
        "timezone": "UTC",
    }
    for name, facts in CELERY.items():
        sample = with_own_words.get(name, samples.get(facts["type"]))
        SETTINGS[name].convert(sample)


def test_names_that_read_like_secrets_are_marked_or_known_to_be_harmless() -> None:
    harmless = {
        "task_default_routing_key",
        "task_annotations",
        "redis_socket_keepalive",
        "security_digest",
        "cosmosdbsql_database_name",
        "redis_backend_credential_provider",
    }
    pattern = re.compile("api|token|key|secret|pass|signature|credential", re.IGNORECASE)
    unmarked = {row.name for row in SETTINGS.values() if pattern.search(row.name) and not row.secret}
    assert unmarked <= harmless | {"cassandra_keyspace"}


def test_no_setting_is_called_like_a_method_of_the_configuration() -> None:
    assert not set(SETTINGS) & set(dir(Settings))


def test_the_documentation_page_is_up_to_date() -> None:
    page = HERE.parents[1] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == markdown(), (
        "run: python -m celeriac.settings.page > docs/settings.md"
    )


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("task_acks_late", "off", False),
        ("task_acks_late", 1, True),
        ("task_acks_late", None, True),
        ("task_time_limit", "1.5", 1.5),
        ("task_time_limit", "60", 60),
        ("task_time_limit", "none", None),
        ("task_time_limit", 0, None),
        ("task_time_limit", datetime.timedelta(minutes=2), 120.0),
        ("result_expires", datetime.timedelta(hours=1), 3600.0),
        ("result_expires", None, None),
        ("worker_shutdown_grace", "None", None),
        ("worker_prefetch_multiplier", "AUTO", "auto"),
        ("worker_prefetch_multiplier", "1", 1),
        ("worker_concurrency", "0", None),
        ("accept_content", "json, pickle", ("json", "pickle")),
        ("accept_content", '["json"]', ("json",)),
        ("accept_content", {"json"}, ("json",)),
        ("imports", "proj.tasks", ("proj.tasks",)),
        ("task_routes", '{"a": "b"}', {"a": "b"}),
        ("task_routes", "proj.route", "proj.route"),
        ("broker_url", ["redis://a", "redis://b"], "redis://a;redis://b"),
        ("broker_transport_options", '{"sep": "x"}', {"sep": "x"}),
        ("broker_use_ssl", "true", True),
        ("broker_use_ssl", {"ssl_cert_reqs": "none"}, {"ssl_cert_reqs": "none"}),
        ("task_default_delivery_mode", "transient", 1),
        ("task_default_rate_limit", "10/m", "10/m"),
        ("timezone", datetime.UTC, datetime.UTC),
        ("worker_heartbeat_file", Path("/run/beat"), "/run/beat"),
    ],
)
def test_values_are_converted(name: str, given: Any, value: Any) -> None:
    converted = SETTINGS[name].convert(given)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("task_acks_late", "maybe", "a boolean"),
        ("task_acks_late", [], "a boolean"),
        ("task_time_limit", -1, "negative"),
        ("task_time_limit", True, "a number of seconds"),
        ("task_time_limit", float("nan"), "a number of seconds"),
        ("worker_concurrency", "four", "an integer"),
        ("worker_concurrency", 1.5, "an integer"),
        ("worker_concurrency", float("inf"), "an integer"),
        ("worker_prefetch_max", 0, "below 1"),
        ("accept_content", {"json": 1}, "a list of names"),
        ("beat_schedule", [1], "a dictionary"),
        ("broker_transport_options", "{", "a dictionary"),
        ("broker_delay", "shop", "'store' or 'celery'"),
        ("task_default_rate_limit", "10/d", "10/m"),
        ("timezone", "Europe/Atlantis", "tzdata"),
        ("timezone", "../etc/passwd", "time zone"),
        ("task_default_delivery_mode", 3, "persistent"),
        ("broker_url", 6379, "a URL"),
        ("task_default_queue", 5, "text"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(name: str, given: Any, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"setting {name}: .*{re.escape(said)}"):
        SETTINGS[name].convert(given)


def test_an_error_does_not_show_a_secret() -> None:
    with pytest.raises(ImproperlyConfigured) as error:
        SETTINGS["security_key_password"].convert(["hunter2"])
    assert "hunter2" not in str(error.value)


def test_every_setting_that_works_is_read_somewhere() -> None:
    """A setting that is parsed and ignored would be worse than an error."""
    package = HERE.parent.parent / "src" / "celeriac"
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for path in package.rglob("*.py")
        if "settings" not in path.relative_to(package).parts
    )
    unread = [
        name
        for name, setting in SETTINGS.items()
        if setting.support is Support.WORKS and not re.search(rf"\b{name}\b", code)
    ]
    assert unread == []
