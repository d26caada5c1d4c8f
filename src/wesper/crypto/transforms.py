"""Seal and open with a suite and its keys: thin over the `cryptography` package.

The caller says what is authenticated, since that is the protocol's business (RFC 4303 §3.3.2, RFC 4106 §5); here is
only what the algorithms do with it. A failed check raises `InvalidTag`.
"""

from __future__ import annotations

import hmac
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from .suites import Kind, Suite

__all__ = ["InvalidTag", "Transform", "block_encrypt", "cbc", "hmac_tag", "transform"]


class Transform(Protocol):
    """A suite with its keys.

    iv: 8 octets for counter suites, 16 for CBC, empty for NULL.
    associated: authenticated, not encrypted; with a separate HMAC all that stands before the ciphertext, IV included.
    suffix: what the HMAC takes after the ciphertext and nobody sends: the high half of an extended sequence number
    (RFC 4303 §3.3.2.1). AEADs have none.
    """

    def seal(self, iv: bytes, associated: bytes, plaintext: bytes, suffix: bytes = b"") -> bytes:
        """Return ciphertext and ICV."""
        ...

    def open(self, iv: bytes, associated: bytes, sealed: bytes, suffix: bytes = b"") -> bytes:
        """Return the plaintext.   Raises InvalidTag."""
        ...


def transform(suite: Suite, key: bytes, salt: bytes = b"", auth_key: bytes = b"") -> Transform:
    """Return the suite with these keys.   Raises KeyMaterialError if a length does not fit."""
    suite.check_keys(key, salt, auth_key)
    match suite.kind:
        case Kind.GCM if suite.icv_octets < 16:
            return _CutGCM(key, salt, suite.icv_octets)
        case Kind.GCM:
            return _WholeTag(AESGCM(key), salt)
        case Kind.CCM:
            return _WholeTag(AESCCM(key, tag_length=suite.icv_octets), salt)
        case Kind.CHACHA20_POLY1305:
            return _WholeTag(ChaCha20Poly1305(key), salt)
        case Kind.GMAC:
            return _GMAC(key, salt)
        case Kind.CBC_HMAC | Kind.NULL_HMAC:
            return _EncryptThenMAC(suite, key, auth_key)


def block_encrypt(key: bytes, block: bytes) -> bytes:
    """Encrypt one 16-octet block with AES, nothing around it."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # one block: no mode at work
    return encryptor.update(block)


class _WholeTag:
    """AEADs whose ICV is the whole tag: GCM-16, CCM (its tag length is part of the algorithm), ChaCha20-Poly1305."""

    def __init__(self, aead: AESGCM | AESCCM | ChaCha20Poly1305, salt: bytes) -> None:
        self._seal, self._open, self._salt = aead.encrypt, aead.decrypt, salt

    def seal(self, iv: bytes, associated: bytes, plaintext: bytes, suffix: bytes = b"") -> bytes:
        return self._seal(self._salt + iv, plaintext, associated)

    def open(self, iv: bytes, associated: bytes, sealed: bytes, suffix: bytes = b"") -> bytes:
        return self._open(self._salt + iv, sealed, associated)


class _CutGCM:
    """GCM with an ICV of 8 or 12 octets: the first octets of the tag (RFC 4106 §6)."""

    def __init__(self, key: bytes, salt: bytes, icv_octets: int) -> None:
        self._aead, self._key, self._salt, self._icv = AESGCM(key), key, salt, icv_octets

    def seal(self, iv: bytes, associated: bytes, plaintext: bytes, suffix: bytes = b"") -> bytes:
        return self._aead.encrypt(self._salt + iv, plaintext, associated)[: self._icv - 16]

    def open(self, iv: bytes, associated: bytes, sealed: bytes, suffix: bytes = b"") -> bytes:
        ciphertext, icv = sealed[: -self._icv], sealed[-self._icv :]
        mode = modes.GCM(self._salt + iv, icv, min_tag_length=self._icv)
        decryptor = Cipher(algorithms.AES(self._key), mode).decryptor()
        decryptor.authenticate_additional_data(associated)
        return decryptor.update(ciphertext) + decryptor.finalize()


class _GMAC:
    """GCM with nothing to encrypt: the plaintext joins the associated data (RFC 4543 §3)."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        self._aead, self._salt = AESGCM(key), salt

    def seal(self, iv: bytes, associated: bytes, plaintext: bytes, suffix: bytes = b"") -> bytes:
        return plaintext + self._aead.encrypt(self._salt + iv, b"", associated + plaintext)

    def open(self, iv: bytes, associated: bytes, sealed: bytes, suffix: bytes = b"") -> bytes:
        plaintext, icv = sealed[:-16], sealed[-16:]
        self._aead.decrypt(self._salt + iv, icv, associated + plaintext)
        return plaintext


def cbc(key: bytes, iv: bytes, data: bytes, *, decrypt: bool = False) -> bytes:
    """Return data, whole blocks, through AES-CBC: no integrity, so never an SA by itself (RFC 4303 §3.2)."""
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv))
    worker = cipher.decryptor() if decrypt else cipher.encryptor()
    return worker.update(data) + worker.finalize()


def hmac_tag(suite: Suite, auth_key: bytes, data: bytes) -> bytes:
    """Return the HMAC of data, cut to the suite's ICV (RFC 4868 §2.3)."""
    return hmac.digest(auth_key, data, suite.hash_name)[: suite.icv_octets]


class _EncryptThenMAC:
    """CBC or NULL with a separate HMAC over everything sent (RFC 4303 §3.3.2.1)."""

    def __init__(self, suite: Suite, key: bytes, auth_key: bytes) -> None:
        self._key, self._icv = key, suite.icv_octets
        self._mac = hmac.new(auth_key, digestmod=suite.hash_name)

    def _tag(self, *parts: bytes) -> bytes:
        mac = self._mac.copy()
        for part in parts:
            mac.update(part)
        return mac.digest()[: self._icv]

    def seal(self, iv: bytes, associated: bytes, plaintext: bytes, suffix: bytes = b"") -> bytes:
        ciphertext = cbc(self._key, iv, plaintext) if self._key else plaintext
        return ciphertext + self._tag(associated, ciphertext, suffix)

    def open(self, iv: bytes, associated: bytes, sealed: bytes, suffix: bytes = b"") -> bytes:
        ciphertext, icv = sealed[: -self._icv], sealed[-self._icv :]
        if not hmac.compare_digest(self._tag(associated, ciphertext, suffix), icv):
            raise InvalidTag
        return cbc(self._key, iv, ciphertext, decrypt=True) if self._key else ciphertext
