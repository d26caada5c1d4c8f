"""Who a host is to its peers: a certificate, and the fingerprint by which others know it.

Source: RFC 5280. A fingerprint is SHA-256 over the certificate's DER, as `openssl x509 -fingerprint -sha256` has it.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import ConfigError

DAYS: Final = 3650
_FINGERPRINT: Final = 32  # octets


def make(name: str, folder: Path, *, days: int = DAYS) -> tuple[Path, Path, bytes]:
    """Make a self-signed certificate and its key; return both files and the fingerprint.

    name: 1..64 characters, of the files and in the certificate.   The key's file is for its owner alone (mode 0600).
    Raises ConfigError for a name that is none, FileExistsError rather than overwrite anything, OSError.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(f"name {name!r}", key="name", expected="letters, digits, dots and dashes, 64 at most")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)  # clocks differ
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    folder.mkdir(parents=True, exist_ok=True)
    certificate_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    if certificate_file.exists():
        raise FileExistsError(17, "there is an identity of that name", str(certificate_file))
    _write_new(key_file, private, 0o600)
    _write_new(certificate_file, public, 0o644)
    return certificate_file, key_file, fingerprint(certificate.public_bytes(serialization.Encoding.DER))


def fingerprint(der: bytes) -> bytes:
    """Return the 32 octets that a certificate is known by."""
    return hashlib.sha256(der).digest()


def written(print_: bytes) -> str:
    """Return a fingerprint as people read it: octets in hexadecimal, colons between."""
    return print_.hex(":")


def parse_fingerprint(text: str) -> bytes:
    """Return the octets of a fingerprint, with or without colons.   Raises ConfigError."""
    try:
        found = bytes.fromhex(text.strip().removeprefix("sha256:").replace(":", ""))
    except ValueError:
        found = b""
    if len(found) != _FINGERPRINT:
        raise ConfigError(
            f"fingerprint of {len(text)} characters",
            key="fingerprint",
            expected="SHA-256 of the peer's certificate: 64 hexadecimal digits, colons between them or not",
        )
    return found


def read_certificate(path: Path) -> bytes:
    """Return a certificate file's DER.   Raises ConfigError, OSError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(serialization.Encoding.DER)
    except ValueError:
        raise ConfigError(
            "no certificate", path=str(path), expected="a certificate in PEM, as `wesper psp identity` makes it"
        ) from None


def name_of(der: bytes) -> str:
    """Return the name in a certificate, "" if it has none that can be shown."""
    names = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if names else ""
    return name if name.isprintable() else ""


def _write_new(path: Path, octets: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(octets)
