"""ESP sealed by hand: a second writing of RFC 4303 on the `cryptography` package's primitives alone.

Tests compare the engines with it, so nothing here comes from wesper: neither its suite table nor its transforms.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from struct import pack

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305


@dataclass(frozen=True)
class Sizes:
    """A suite in octets.   iv: as sent."""

    cipher: str
    salt: int
    iv: int
    icv: int
    keys: tuple[int, ...] = (16, 24, 32)
    auth_key: int = 0

    @property
    def block(self) -> int:
        return 16 if self.cipher == "cbc" else 4

    @property
    def implicit(self) -> bool:
        return self.iv == 0 and self.cipher != "null"


# RFC 4106 §3-8, 4309, 4543, 7634, 8750, 3602, 2410, 4868: once more, from the documents.
SUITES: dict[str, Sizes] = {
    "aes-gcm-16": Sizes("gcm", 4, 8, 16),
    "aes-gcm-12": Sizes("gcm", 4, 8, 12),
    "aes-gcm-8": Sizes("gcm", 4, 8, 8),
    "aes-gcm-16-iiv": Sizes("gcm", 4, 0, 16),
    "chacha20-poly1305": Sizes("chacha", 4, 8, 16, (32,)),
    "chacha20-poly1305-iiv": Sizes("chacha", 4, 0, 16, (32,)),
    "aes-gmac": Sizes("gmac", 4, 8, 16),
    "aes-ccm-8": Sizes("ccm", 3, 8, 8),
    "aes-ccm-12": Sizes("ccm", 3, 8, 12),
    "aes-ccm-16": Sizes("ccm", 3, 8, 16),
    "aes-ccm-8-iiv": Sizes("ccm", 3, 0, 8),
    "aes-cbc+hmac-sha2-256-128": Sizes("cbc", 0, 16, 16, auth_key=32),
    "aes-cbc+hmac-sha2-384-192": Sizes("cbc", 0, 16, 24, auth_key=48),
    "aes-cbc+hmac-sha2-512-256": Sizes("cbc", 0, 16, 32, auth_key=64),
    "null+hmac-sha2-256-128": Sizes("null", 0, 0, 16, (0,), 32),
    "null+hmac-sha2-384-192": Sizes("null", 0, 0, 24, (0,), 48),
    "null+hmac-sha2-512-256": Sizes("null", 0, 0, 32, (0,), 64),
}
_HASH = {32: hashlib.sha256, 48: hashlib.sha384, 64: hashlib.sha512}

ALL_SUITES = [(name, octets) for name, sizes in SUITES.items() for octets in sizes.keys]
SUITE_IDS = [f"{name}/{8 * octets}" for name, octets in ALL_SUITES]


@dataclass(frozen=True)
class Keys:
    """Key material of a suite."""

    suite: str
    key: bytes
    salt: bytes
    auth_key: bytes

    @classmethod
    def of(cls, suite: str, octets: int | None = None) -> Keys:
        """Recognisable octets of the right lengths."""
        sizes = SUITES[suite]
        material = hashlib.shake_256(suite.encode()).digest(256)
        octets = sizes.keys[-1] if octets is None else octets
        return cls(suite, material[:octets], material[100 : 100 + sizes.salt], material[150 : 150 + sizes.auth_key])


def trailer(suite: str, payload: bytes, next_header: int, extra_padding: int = 0) -> bytes:
    """Payload with padding 1, 2, 3, ..., Pad Length and Next Header (RFC 4303 §2.4-2.6)."""
    pad = -(len(payload) + 2) % SUITES[suite].block + extra_padding
    return payload + bytes(range(1, pad + 1)) + bytes((pad, next_header))


def seal_plaintext(
    keys: Keys, spi: int, sequence: int, esn: bool, iv: bytes, plaintext: bytes, *, front: bytes = b"", clear: int = 0
) -> bytes:
    """The ESP packet around a plaintext with its trailer.

    sequence: 64 bits.   iv: ignored where it is implicit.
    front: authenticated in front of ESP and not in what is returned.   clear: octets of plaintext not encrypted; for
    both see the drafts' tables of what is authenticated (WESPv2 §2.4).
    """
    sizes = SUITES[keys.suite]
    low, high = sequence & 0xFFFFFFFF, sequence >> 32
    if sizes.implicit:
        iv = pack(">II", high if esn else 0, low)
    sent = iv[: sizes.iv]
    header = pack(">II", spi, low) + sent
    shown, hidden = plaintext[:clear], plaintext[clear:]
    if sizes.cipher in ("cbc", "null"):
        ciphertext = hidden
        if sizes.cipher == "cbc":
            encryptor = Cipher(algorithms.AES(keys.key), modes.CBC(iv)).encryptor()
            ciphertext = encryptor.update(hidden) + encryptor.finalize()
        covered = front + header + shown + ciphertext + (pack(">I", high) if esn else b"")
        return header + shown + ciphertext + hmac.digest(keys.auth_key, covered, _HASH[sizes.auth_key])[: sizes.icv]
    aad = front + (pack(">III", spi, high, low) if esn else pack(">II", spi, low))
    if sizes.cipher == "gmac":
        aad += iv
    return header + shown + aead(keys, iv, aad + shown, hidden)


def aead(keys: Keys, iv: bytes, aad: bytes, plaintext: bytes) -> bytes:
    """Ciphertext and ICV of a suite without a separate MAC."""
    sizes, nonce = SUITES[keys.suite], keys.salt + iv
    if sizes.cipher == "gcm":
        return AESGCM(keys.key).encrypt(nonce, plaintext, aad)[: len(plaintext) + sizes.icv]
    if sizes.cipher == "ccm":
        return AESCCM(keys.key, sizes.icv).encrypt(nonce, plaintext, aad)
    if sizes.cipher == "chacha":
        return ChaCha20Poly1305(keys.key).encrypt(nonce, plaintext, aad)
    return plaintext + AESGCM(keys.key).encrypt(nonce, b"", aad + plaintext)


def seal(
    keys: Keys, spi: int, sequence: int, esn: bool, iv: bytes, payload: bytes, next_header: int, extra_padding: int = 0
) -> bytes:
    """The ESP packet around a payload."""
    return seal_plaintext(keys, spi, sequence, esn, iv, trailer(keys.suite, payload, next_header, extra_padding))


def own_iv(keys: Keys, sequence: int, iv_key: bytes, sa: int) -> bytes:
    """The IV that an engine makes: the counter, or for CBC the encrypted counter of an SA."""
    sizes = SUITES[keys.suite]
    if sizes.cipher != "cbc":
        return pack(">Q", sequence) if sizes.cipher != "null" else b""
    encryptor = Cipher(algorithms.AES(iv_key), modes.ECB()).encryptor()
    return encryptor.update(pack(">QQ", sa, sequence)) + encryptor.finalize()
