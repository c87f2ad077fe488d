"""The serializer ``auth``: what is signed, what is refused, and how a wrong set-up is told."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import serialization
from celeriac.exceptions import ContentDisallowed, ImproperlyConfigured, SecurityError
from celeriac.security.certificates import CONTENT_TYPE, Authentication
from tests import certificates
from tests.unit.helpers import body, make_app, message

SIGNED = {"task_serializer": "auth", "accept_content": ["auth"], "result_serializer": "auth"}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """The serializer is registered in the process; other tests must not find it."""
    yield
    serialization._by_name.pop("auth", None)
    serialization._by_type.pop(CONTENT_TYPE, None)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return certificates.make(tmp_path_factory.mktemp("pki"), "shop")


def make(files: dict[str, str], **options: Any) -> Authentication:
    key, cert = Path(files["security_key"]), Path(files["security_certificate"])
    options = {"key_password": None, "store": files["security_cert_store"], **options}
    return Authentication(key.read_bytes(), cert=cert.read_bytes(), **options)


def fields(signed: bytes) -> list[bytes]:
    return base64.b64decode(signed).split(b"\0\1", 4)


def packed(*parts: bytes) -> bytes:
    return base64.b64encode(b"\0\1".join(parts))


def test_messages_and_results_are_signed_and_read(files: dict[str, str]) -> None:
    app = make_app(**SIGNED, **files)
    app.setup_security()

    @app.task(shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(2, 3)
    sent = message(app)
    assert (sent.content_type, sent.content_encoding) == ("application/data", "utf-8")
    assert body(sent)[0] == [2, 3]
    payload = app.results.encode({"status": "SUCCESS", "result": 5})
    assert fields(payload)[4] == b'{"status":"SUCCESS","result":5}'
    assert app.results.decode(payload)["result"] == 5


def test_a_changed_body_is_refused(files: dict[str, str]) -> None:
    auth = make(files)
    *head, inner = fields(auth.encode({"amount": 1}))
    with pytest.raises(SecurityError, match=r"signature by 'shop .*' is wrong"):
        auth.decode(packed(*head, inner.replace(b"1", b"9")))


def test_an_unknown_signer_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    stranger = make(certificates.make(tmp_path, "stranger"))
    with pytest.raises(SecurityError, match="not in security_cert_store"):
        make(files).decode(stranger.encode(1))


def test_a_certificate_that_expired_meanwhile_is_refused(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = make(files)
    signed = auth.encode(1)
    monkeypatch.setattr("celeriac.security.certificates._has_expired", lambda _: True)
    with pytest.raises(SecurityError, match="has expired"):
        auth.decode(signed)


def test_the_unsigned_content_type_does_not_lead_to_pickle(files: dict[str, str]) -> None:
    auth = make(files)
    ran: list[int] = []

    class Evil:
        def __reduce__(self) -> Any:
            return (ran.append, (1,))

    # Somebody who may sign JSON text of his choice, relabelled: the signature covers the body alone.
    signer, signature, _, _, inner = fields(auth.encode("x"))
    with pytest.raises(ContentDisallowed):
        auth.decode(packed(signer, signature, b"application/x-python-serialize", b"binary", inner))
    with pytest.raises(SecurityError):
        auth.decode(packed(signer, signature, b"application/json", b"utf-8", pickle.dumps(Evil())))
    assert not ran


@pytest.mark.parametrize("data", [b"", b"plain", base64.b64encode(b"a\0\1b"), b"\xff\xff"])
def test_what_is_not_signed_at_all_is_refused(files: dict[str, str], data: bytes) -> None:
    with pytest.raises(SecurityError, match="not a signed body"):
        make(files).decode(data)


def test_other_formats_inside_have_to_be_allowed(files: dict[str, str]) -> None:
    signed = make(files, serializer="yaml").encode([1])
    with pytest.raises(ContentDisallowed):
        make(files).decode(signed)
    assert make(files, allowed=["yaml"]).decode(signed) == [1]


def test_a_key_with_a_password(tmp_path: Path) -> None:
    files = certificates.make(tmp_path, "locked", password=b"open sesame")
    assert make(files, key_password="open sesame").decode(make(files, key_password=b"open sesame").encode(1))
    with pytest.raises(ImproperlyConfigured, match="security_key cannot be read"):
        make(files)


def test_an_expired_certificate_in_the_store_is_named(tmp_path: Path) -> None:
    files = certificates.make(tmp_path, "old", days=-1)
    with pytest.raises(SecurityError, match=r"old\.pem: the certificate has expired"):
        make(files)


def test_signing_without_checking_is_refused_at_set_up(files: dict[str, str]) -> None:
    with pytest.raises(ImproperlyConfigured, match='accept_content = \\["auth"\\]'):
        make_app(task_serializer="auth", accept_content=["auth", "json"], **files).setup_security()
    with pytest.raises(ImproperlyConfigured, match="security_cert_store"):
        make_app(**SIGNED).setup_security()
    with pytest.raises(ImproperlyConfigured, match=r"cannot read .*nowhere"):
        make_app(**SIGNED, **{**files, "security_key": "/nowhere"}).setup_security()
    with pytest.raises(ImproperlyConfigured, match="no hash 'md6'"):
        make(files, digest="md6")
