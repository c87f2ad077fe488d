"""Keys and certificates for tests, made on the spot."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID


def make(folder: Path, name: str, *, password: bytes | None = None, days: float = 1.0) -> dict[str, str]:
    """Write ``<name>.key`` and ``store/<name>.pem``; return the settings that name them."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=7))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    store = folder / "store"
    store.mkdir(exist_ok=True)
    cipher = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    key_file, certificate_file = folder / f"{name}.key", store / f"{name}.pem"
    key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, cipher))
    certificate_file.write_bytes(certificate.public_bytes(pem))
    return {
        "security_key": str(key_file),
        "security_certificate": str(certificate_file),
        "security_cert_store": str(store),
    }


class Authority:
    """An authority that signs certificates for TLS, its files in ``folder``."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(self._name, self._key.public_key(), x509.BasicConstraints(True, None))
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, host: str = "127.0.0.1") -> dict[str, str]:
        """Write key and certificate for a host; return their files as ``keyfile`` and ``certfile``."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(
            subject,
            key.public_key(),
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName(name)]),
        )
        pem = serialization.Encoding.PEM
        files = {"keyfile": self.folder / f"{name}.key", "certfile": self.folder / f"{name}.crt"}
        plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        files["keyfile"].write_bytes(key.private_bytes(pem, *plain))
        files["certfile"].write_bytes(certificate.public_bytes(pem))
        return {option: str(path) for option, path in files.items()}

    def _signed(
        self, subject: x509.Name, key: rsa.RSAPublicKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical=False)
        builder = builder.not_valid_before(now - timedelta(days=7)).not_valid_after(now + timedelta(days=1))
        return builder.sign(self._key, hashes.SHA256())
