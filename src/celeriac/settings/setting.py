"""One row of the settings table: its name, type, default, and what becomes of it here."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

from celeriac.exceptions import ImproperlyConfigured
from celeriac.settings.kinds import Kind, Unfit


class Support(enum.StrEnum):
    """What a setting does here."""

    WORKS = "works"
    """It does what it says."""
    SETTLED = "settled"
    """Accepted; the design answers it in another way, which the setting's note says."""
    REFUSED = "refused"
    """An error when set to anything but Celery's default, because what it asks for does not exist here."""


class Setting(NamedTuple):
    """What is known of one setting."""

    name: str
    kind: Kind
    default: Any
    support: Support
    doc: str
    """What it means, with its unit; for settled and refused settings, the sentence shown to the user."""
    optional: bool = False
    """``None`` is a value of its own; elsewhere ``None`` stands for "not set"."""
    celery_default: Any = None
    """Celery 5.7's default; meaningless when ``ours``."""
    ours: bool = False
    """Celery does not have it."""
    why: str = ""
    """Why Celeriac does something else than Celery by default, if it does."""
    secret: bool = False
    """The whole value is masked wherever settings are shown."""

    @property
    def differs(self) -> bool:
        """Our default is not Celery's."""
        return not self.ours and bool(self.default != self.celery_default)

    @property
    def old_name(self) -> str | None:
        """Its name before Celery 4, or ``None`` for our own settings."""
        return None if self.ours else _old_name(self.name)

    def convert(self, value: Any) -> Any:
        """Return ``value`` in the setting's type; text is parsed, a ``timedelta`` becomes seconds.

        ``None`` becomes the default where it has no meaning of its own. Raises ``ImproperlyConfigured``
        naming the setting, the value and what it should be.
        """
        if self.optional and self.kind.none_from(value):
            return None
        if value is None:
            return self.default
        try:
            return self.kind.convert(value)
        except (ValueError, TypeError, OverflowError) as exc:
            shown = "the given value" if self.secret else repr(value)
            reason = f": {exc}" if isinstance(exc, Unfit) else ""
            raise ImproperlyConfigured(
                f"setting {self.name}: {shown} is not {self.kind.name}{reason}"
            ) from None


# -- names before Celery 4 ---------------------------------------------------------------------------

_OLD_PREFIXES = (
    ("beat_", "CELERYBEAT_"),
    ("worker_", "CELERYD_"),
    ("task_", "CELERY_"),
    *((prefix, "CELERY_" + prefix.upper()) for prefix in ("result_", "redis_", "elasticsearch_")),
    *((prefix, "CELERY_" + prefix.upper()) for prefix in ("security_", "event_", "cache_")),
    *((prefix, "CELERY_" + prefix.upper()) for prefix in ("couchbase_", "arangodb_", "mongodb_")),
)
_OLD_EXCEPTIONS = {
    "accept_content": "CELERY_ACCEPT_CONTENT",
    "imports": "CELERY_IMPORTS",
    "include": "CELERY_INCLUDE",
    "timezone": "CELERY_TIMEZONE",
    "result_accept_content": "RESULT_ACCEPT_CONTENT",
    "result_cache_max": "CELERY_MAX_CACHED_RESULTS",
    "result_expires": "CELERY_TASK_RESULT_EXPIRES",
    "database_url": "CELERY_RESULT_DBURI",
    "database_engine_options": "CELERY_RESULT_ENGINE_OPTIONS",
    "database_short_lived_sessions": "CELERY_RESULT_DB_SHORT_LIVED_SESSIONS",
    "database_table_names": "CELERY_RESULT_DB_TABLENAMES",
    "task_compression": "CELERY_MESSAGE_COMPRESSION",
    "task_eager_propagates": "CELERY_EAGER_PROPAGATES_EXCEPTIONS",
    "task_protocol": "CELERY_TASK_PROTOCOL",
    "task_publish_retry": "CELERY_TASK_PUBLISH_RETRY",
    "task_publish_retry_policy": "CELERY_TASK_PUBLISH_RETRY_POLICY",
    "task_send_sent_event": "CELERY_SEND_TASK_SENT_EVENT",
    "task_serializer": "CELERY_TASK_SERIALIZER",
    "task_soft_time_limit": "CELERYD_TASK_SOFT_TIME_LIMIT",
    "task_time_limit": "CELERYD_TASK_TIME_LIMIT",
    "worker_direct": "CELERY_WORKER_DIRECT",
    "worker_disable_rate_limits": "CELERY_DISABLE_RATE_LIMITS",
    "worker_enable_remote_control": "CELERY_ENABLE_REMOTE_CONTROL",
    "worker_lost_wait": "CELERYD_WORKER_LOST_WAIT",
    "worker_redirect_stdouts": "CELERY_REDIRECT_STDOUTS",
    "worker_redirect_stdouts_level": "CELERY_REDIRECT_STDOUTS_LEVEL",
    "worker_send_task_events": "CELERY_SEND_EVENTS",
}


def _old_name(name: str) -> str:
    if name in _OLD_EXCEPTIONS:
        return _OLD_EXCEPTIONS[name]
    for prefix, old_prefix in _OLD_PREFIXES:
        if name.startswith(prefix):
            return old_prefix + name.removeprefix(prefix).upper()
    return name.upper()
