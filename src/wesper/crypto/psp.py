"""PSP's versions and its key derivation: AES-256-CMAC in counter mode (NIST SP 800-108), one block a key of 128 bits.

Source: PSP Architecture Specification of April 2022, "Key Derivation".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from ..errors import ConfigError, KeyMaterialError
from .transforms import block_encrypt

DEVICE_KEY: Final = 32  # octets, whatever the length of what is derived
CHUNK: Final = 16384
"""Blocks that fit the second-level cache, and their keys too."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of PSP.   key_octets: of the derived key.   gmac: authentication only, nothing is encrypted."""

    code: int
    name: str
    key_octets: int
    gmac: bool

    @property
    def label(self) -> bytes:
        """What separates this version's keys from the others'; its last octet is SP 800-108's separator.

        The specification prints 0 and 1; for 2 and 3 it lets the version be put into the third octet by OR.
        """
        return bytes((0x50, 0x76, 0x30 | self.code, 0))


VERSIONS: Final[dict[int, Version]] = {
    version.code: version
    for version in (
        Version(0, "aes-gcm-128", 16, gmac=False),
        Version(1, "aes-gcm-256", 32, gmac=False),
        Version(2, "aes-gmac-128", 16, gmac=True),
        Version(3, "aes-gmac-256", 32, gmac=True),
    )
}


def version(code: int) -> Version:
    """Return the version with this code.   Raises ConfigError."""
    found = VERSIONS.get(code)
    if found is None:
        raise ConfigError(f"PSP version {code}", key="version", expected="0..3")
    return found


def input_blocks(spi: int, version: Version) -> list[bytes]:
    """Return what the PRF takes: counter, label, SPI, bits of the whole key; one block for each 16 octets of key."""
    return [
        struct.pack(">I4sII", counter, version.label, spi, 8 * version.key_octets)
        for counter in range(1, version.key_octets // 16 + 1)
    ]


class DeviceKey:
    """A device key with its CMAC subkey made ready.   Has no repr of its own and shows nothing.

    key: 32 octets.   Raises KeyMaterialError.
    """

    __slots__ = ("_key", "_subkey")

    def __init__(self, key: bytes) -> None:
        if len(key) != DEVICE_KEY:
            raise KeyMaterialError(f"{len(key)} octets for a PSP device key", expected=f"{DEVICE_KEY} octets")
        self._key = key
        self._subkey = _double(block_encrypt(key, bytes(16)))

    def derive(self, spi: int, version: Version) -> bytes:
        """Return the key of an SPI: 16 or 32 octets.   Cost: one AES block for each 16 octets."""
        blocks = b"".join(_xor(block, self._subkey) for block in input_blocks(spi, version))
        return self.encryptor(modes.ECB()).update(blocks)

    def encryptor(self, mode: modes.ECB | modes.XTS, second: bytes = b"") -> CipherContext:
        """Return what encrypts under it.   second: another key of the mode's, behind this one."""
        return Cipher(algorithms.AES(self._key + second), mode).encryptor()

    def templates(self, version: Version, rows: int) -> NDArray[np.uint8]:
        """Return what AES takes for so many keys of the SPI 0: (rows, blocks a key, 16)."""
        # CMAC of one whole block: the block XOR the subkey, encrypted. All but the SPI is the same for every key.
        blocks = b"".join(_xor(block, self._subkey) for block in input_blocks(0, version)) * rows
        return np.frombuffer(blocks, np.uint8).copy().reshape(rows, version.key_octets // 16, 16)

    def derive_many(self, spis: NDArray[np.uint32], version: Version, out: NDArray[np.uint8]) -> None:
        """Write the keys of many SPIs, one a row.   out: (n, key octets), contiguous."""
        encryptor = self.encryptor(modes.ECB())
        per_key = version.key_octets // 16
        rows = min(len(spis), CHUNK // per_key)
        blocks = self.templates(version, rows)
        places = blocks.view(">u4")[:, :, 2]
        constant = places[0, 0] if rows else 0  # of the subkey alone
        flat = octets_of(out)
        for first in range(0, len(spis), max(rows, 1)):
            part = spis[first : first + rows]
            numbers = part ^ np.uint32(constant)
            for block in range(per_key):
                places[: len(part), block] = numbers  # turned round on the way
            ready, place = octets_of(blocks[: len(part)]), flat[first * version.key_octets :]
            if len(place) >= len(ready) + 15:  # update_into wants a block more than it fills, less one octet
                encryptor.update_into(ready, place)
            else:
                place[:] = encryptor.update(ready)


def octets_of(array: NDArray[np.uint8]) -> memoryview:
    """Return a contiguous array's octets, not a copy."""
    flat: Any = array.reshape(-1)  # NumPy's stubs do not say that arrays have buffers
    return memoryview(flat)


def _double(block: bytes) -> bytes:
    """Return the block times x in GF(2^128) (SP 800-38B §6.1)."""
    value = int.from_bytes(block, "big") << 1
    if value >> 128:
        value ^= (1 << 128) | 0x87
    return value.to_bytes(16, "big")


def _xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(16, "big")
