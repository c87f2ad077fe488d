"""The settings of an application, as its own methods take and read them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celeriac import clock
from celeriac.app import names
from celeriac.app.annotations import prepare
from celeriac.app.conf import Configuration
from celeriac.exceptions import ImproperlyConfigured
from celeriac.serialization import ensure_accept

if TYPE_CHECKING:
    from celeriac.security.signing import Signing


class Configured:
    """What has settings: where they come from, and those that take more than a look into ``conf``."""

    conf: Configuration
    """The settings, read from their source when one is first used."""

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Take settings from a dictionary, an object or module, or the name of one (``"myapp.config"``).

        With ``namespace="CELERY"`` they are named ``CELERY_TASK_ACKS_LATE`` and so on. It is read when a
        setting is first used, or at once with ``force``; ``silent`` lets a missing module count as empty.
        """
        self.conf.use(obj, namespace, silent)
        if force:
            self.conf.load()

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """Take settings from the module named by an environment variable; return whether it is set.

        Raises ``ImproperlyConfigured`` if it is not, unless ``silent``.
        """
        module = os.environ.get(variable_name)
        if not module:
            if silent:
                return False
            raise ImproperlyConfigured(
                f"the environment variable {variable_name} is empty: set it to a configuration module's name"
            )
        self.config_from_object(module, silent=silent, force=force)
        return True

    def config_from_cmdline(self, argv: Iterable[str], namespace: str = "celery") -> None:
        """Take settings from arguments of the form ``name=value``."""
        from celeriac.settings import from_arguments

        self.conf.override(from_arguments(argv))

    def add_defaults(self, fun: Any) -> None:
        """Add settings (a dictionary or a function that returns one) under those set at run time."""
        self.conf.add_defaults(fun)

    def setup_security(
        self,
        allowed_serializers: Iterable[str] | None = None,
        key: str | None = None,
        key_password: str | bytes | None = None,
        cert: str | None = None,
        store: str | None = None,
        digest: str | None = None,
        serializer: str = "json",
        *,
        hmac_key: str | Iterable[str] | None = None,
    ) -> None:
        """Sign messages and check signatures, by certificates or by a shared secret.

        ``key``, ``cert`` and ``store`` are files of an RSA key, its certificate and the trusted certificates
        (a folder or glob pattern), by default the settings ``security_*``. They make the serializer ``auth``,
        as in Celery, which ``task_serializer`` and ``accept_content`` must name; inside it, bodies are
        written by ``serializer`` and those of ``allowed_serializers`` are read too.

        ``hmac_key`` is a secret, or a list of which the first signs and all are accepted: the setting
        ``message_signing_keys``. ``allowed_serializers`` then is ``accept_content``.

        Raises ``ImproperlyConfigured`` for what is missing or cannot be read.
        """
        from celeriac.security import setup_security

        setup_security(
            allowed_serializers, key, key_password, cert, store, digest, serializer, self, hmac_key=hmac_key
        )

    @cached_property
    def signing(self) -> Signing | None:
        """Signs and checks messages and results (``message_signing_keys``); ``None`` without these."""
        keys = self.conf.message_signing_keys
        if not keys:
            return None
        from celeriac.security.signing import Signing

        return Signing(keys, self.conf.message_signing_required)

    @property
    def accept_content(self) -> frozenset[str]:
        """The content types that workers read (``accept_content``)."""
        return ensure_accept(self.conf.accept_content)

    @property
    def timezone(self) -> tzinfo:
        """The zone of schedules and of times in messages: ``timezone``, else UTC or local time."""
        name = self.conf.timezone
        if isinstance(name, tzinfo):
            return name
        if name is None:
            return UTC if self.conf.enable_utc else datetime.now().astimezone().tzinfo or UTC
        return names.zone(name)

    def now(self) -> datetime:
        """The current time in the application's zone."""
        return clock.utcnow().astimezone(self.timezone)

    @property
    def annotations(self) -> list[Any]:
        """The setting ``task_annotations`` as a list of objects that annotate."""
        return prepare(self.conf.task_annotations)
