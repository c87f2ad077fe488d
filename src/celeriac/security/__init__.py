"""Signed messages: by certificates, in Celery's form, or by a shared secret.

* :func:`setup_security` with a key, a certificate and a store of trusted certificates registers the
  serializer ``auth``, byte for byte Celery's. It signs the body of a message.
* ``setup_security(hmac_key=...)``, or the setting ``message_signing_keys``, signs messages and results with
  HMAC-SHA256, headers included (:mod:`celeriac.security.signing`). Every client and worker needs the secret.

What each of them covers, and what not, is in docs/security.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.configured import Configured

__all__ = ["disable_untrusted_serializers", "setup_security"]


def setup_security(
    allowed_serializers: Iterable[str] | None = None,
    key: str | None = None,
    key_password: str | bytes | None = None,
    cert: str | None = None,
    store: str | None = None,
    digest: str | None = None,
    serializer: str = "json",
    app: Configured | None = None,
    *,
    hmac_key: str | Iterable[str] | None = None,
) -> None:
    """Have messages signed and signatures checked; see ``Celeriac.setup_security``."""
    if app is None:
        from celeriac.app.state import get_current_app

        app = get_current_app()
    if hmac_key is not None:
        if any((key, key_password, cert, store, digest)):
            raise ImproperlyConfigured(
                "setup_security takes a shared secret (hmac_key) or certificates (key, cert, store), not both"
            )
        return _share_secret(app, hmac_key, allowed_serializers)
    _use_certificates(
        app, tuple(allowed_serializers or ()), key, key_password, cert, store, digest, serializer
    )


def disable_untrusted_serializers(whitelist: Iterable[str] | None = None) -> None:
    """Let the current application read only these formats (default: JSON), messages and results alike."""
    from celeriac.app.state import get_current_app

    get_current_app().conf.update(accept_content=tuple(whitelist or ("json",)), result_accept_content=None)


def _share_secret(
    app: Configured, hmac_key: str | Iterable[str], allowed_serializers: Iterable[str] | None
) -> None:
    from celeriac.security.signing import Signing

    keys = (hmac_key,) if isinstance(hmac_key, str) else tuple(hmac_key)
    Signing(keys)  # raises for keys that cannot be
    app.conf.message_signing_keys = keys
    app.__dict__.pop("signing", None)  # made with the keys of before
    if allowed_serializers is not None:
        app.conf.accept_content = tuple(allowed_serializers)


def _use_certificates(
    app: Configured,
    allowed: tuple[str, ...],
    key: str | None,
    key_password: str | bytes | None,
    cert: str | None,
    store: str | None,
    digest: str | None,
    serializer: str,
) -> None:
    conf = app.conf
    if conf.task_serializer != "auth" or list(conf.accept_content) != ["auth"]:
        raise ImproperlyConfigured(
            "setup_security: signing is of use only if everything is signed and nothing else is read: set "
            'task_serializer = "auth" and accept_content = ["auth"] (and result_serializer = "auth")'
        )
    key, cert, store = key or conf.security_key, cert or conf.security_certificate, store or (
        conf.security_cert_store
    )  # fmt: skip
    if not (key and cert and store):
        raise ImproperlyConfigured(
            "setup_security needs the settings security_key, security_certificate and security_cert_store, "
            "or the arguments key, cert and store: files in PEM form, the last as a folder or a glob pattern"
        )
    from celeriac.security.certificates import Authentication

    Authentication(
        _read(key), key_password or conf.security_key_password, _read(cert), str(store),
        digest or conf.security_digest, serializer, allowed,
    ).register()  # fmt: skip


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImproperlyConfigured(f"setup_security: cannot read {path}: {error.strerror}") from None
