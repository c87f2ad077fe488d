"""The serializer ``auth``: a body signed with an RSA key, checked against trusted X.509 certificates.

The form is Celery's, byte for byte, so its clients and workers take part::

    base64( base64(signer's id) \\0\\1 base64(signature) \\0\\1 content type \\0\\1 encoding \\0\\1 body )

where the signature (PSS, MGF1, longest salt) covers the inner body and nothing else. Because the inner
content type is not signed, only the serializer that was chosen (and ``allowed_serializers``) is read here,
where Celery reads any, pickle included.
"""

from __future__ import annotations

import base64
import glob
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celeriac import serialization
from celeriac.exceptions import ImproperlyConfigured, SecurityError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
except ImportError as error:
    raise ImproperlyConfigured(
        "signing with certificates needs a library: pip install 'celeriac[security]'"
    ) from error

CONTENT_TYPE = "application/data"
_SEPARATOR = b"\x00\x01"


class Authentication:
    """Signs with one key, and trusts the certificates of one store.

    Raises ``ImproperlyConfigured`` for files that hold no such thing, ``SecurityError`` for a certificate of
    the store that has expired or stands there twice.
    """

    def __init__(
        self,
        key: bytes,
        key_password: str | bytes | None,
        cert: bytes,
        store: str,
        digest: str = "sha256",
        serializer: str = "json",
        allowed: Iterable[str] = (),
    ) -> None:
        self._digest = _digest(digest)
        self._key = _private_key(key, key_password)
        self._signer = _identity(_certificate(cert, "the certificate")).encode()
        self._trusted = _trusted(store)
        self._serializer = serializer
        self._allowed = serialization.ensure_accept({serializer, *allowed})

    def register(self) -> None:
        """Make this the serializer ``auth`` of the process."""
        serialization.register("auth", self.encode, self.decode, CONTENT_TYPE, "utf-8")

    def encode(self, value: Any) -> bytes:
        """Serialise and sign ``value``."""
        content_type, encoding, body = serialization.dumps(value, self._serializer)
        signature = self._key.sign(body, _padding(self._digest), self._digest)
        fields = (
            base64.b64encode(self._signer),
            base64.b64encode(signature),
            content_type.encode(),
            encoding.encode(),
            body,
        )
        return base64.b64encode(_SEPARATOR.join(fields))

    def decode(self, data: bytes) -> Any:
        """Check the signature and return the value; raises ``SecurityError`` saying what is wrong with it."""
        signer, signature, content_type, encoding, body = _unpack(data)
        certificate = self._trusted.get(signer)
        if certificate is None:
            raise SecurityError(f"signed by {signer!r}, whose certificate is not in security_cert_store")
        if _has_expired(certificate):
            raise SecurityError(f"signed with a certificate that has expired: {signer!r}")
        try:
            _public_key(certificate).verify(signature, body, _padding(self._digest), self._digest)
        except InvalidSignature:
            raise SecurityError(f"the signature by {signer!r} is wrong: the body was changed") from None
        return serialization.loads(body, content_type, encoding, self._allowed)


def _unpack(data: bytes) -> tuple[str, bytes, str, str, bytes]:
    try:
        signer, signature, content_type, encoding, body = base64.b64decode(data).split(_SEPARATOR, maxsplit=4)
        return (
            base64.b64decode(signer).decode(),
            base64.b64decode(signature),
            content_type.decode(),
            encoding.decode(),
            body,
        )
    except ValueError:
        raise SecurityError("not a signed body") from None


def _padding(digest: hashes.HashAlgorithm) -> padding.PSS:
    return padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.MAX_LENGTH)


def _digest(name: str) -> hashes.HashAlgorithm:
    kind = getattr(hashes, name.upper(), None)
    if not (isinstance(kind, type) and issubclass(kind, hashes.HashAlgorithm)):
        raise ImproperlyConfigured(
            f"security_digest: there is no hash {name!r}; use sha256, sha384 or sha512"
        )
    return kind()


def _private_key(pem: bytes, password: str | bytes | None) -> rsa.RSAPrivateKey:
    secret = password.encode() if isinstance(password, str) else password
    try:
        key = load_pem_private_key(pem, secret)
    except (ValueError, TypeError) as error:
        raise ImproperlyConfigured(f"security_key cannot be read as a private key: {error}") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ImproperlyConfigured("security_key must be an RSA key: Celery's format knows no other")
    return key


def _certificate(pem: bytes, where: str) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise ImproperlyConfigured(f"{where} cannot be read as a certificate: {error}") from None
    if not isinstance(certificate.public_key(), rsa.RSAPublicKey):
        raise ImproperlyConfigured(f"{where} must be of an RSA key: Celery's format knows no other")
    return certificate


def _public_key(certificate: x509.Certificate) -> rsa.RSAPublicKey:
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)  # _certificate lets no other in
    return key


def _identity(certificate: x509.Certificate) -> str:
    """Issuer and serial number, as Celery writes them."""
    issuer = " ".join(str(attribute.value) for attribute in certificate.issuer)
    return f"{issuer} {certificate.serial_number}"


def _has_expired(certificate: x509.Certificate) -> bool:
    return datetime.now(UTC) >= certificate.not_valid_after_utc


def _trusted(pattern: str) -> dict[str, x509.Certificate]:
    paths = sorted(glob.glob(os.path.join(pattern, "*") if os.path.isdir(pattern) else pattern))
    if not paths:
        raise ImproperlyConfigured(f"security_cert_store: there is no file {pattern}")
    found: dict[str, x509.Certificate] = {}
    for path in paths:
        certificate = _certificate(Path(path).read_bytes(), path)
        identity = _identity(certificate)
        if _has_expired(certificate):
            raise SecurityError(f"{path}: the certificate has expired: {identity!r}")
        if identity in found:
            raise SecurityError(f"{path}: a certificate that is in the store already: {identity!r}")
        found[identity] = certificate
    return found
