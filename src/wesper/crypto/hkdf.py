"""HKDF-Expand (RFC 5869 §2.3), for keys that are derived from keys."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


def hkdf_expand(hash_name: str, key: bytes, info: bytes, octets: int) -> bytes:
    """Return so many octets of key material.

    hash_name: sha256, sha384 or sha512.   key: the PRK of RFC 5869.   octets: up to 255 hashes.
    """
    return HKDFExpand(_HASHES[hash_name], octets, info).derive(key)
