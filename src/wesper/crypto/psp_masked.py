"""Many PSP keys by AES-XTS, for which libraries have wide code where they have none for AES alone.

XTS encrypts a block between two XORs with the same mask. The masks come of its second key, which may be known to all:
with a fixed one they are constants. A block that already bears its mask goes in, a key that bears it comes out.
Source: IEEE 1619-2018 §5.3.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import modes
from numpy.typing import NDArray

from .psp import CHUNK, DeviceKey, Version, octets_of
from .transforms import block_encrypt

_MASKING_KEY: Final = bytes(range(0x80, 0xA0))  # no secret: any that is no device key
_TWEAK: Final = bytes(16)


def derive_many(key: DeviceKey, spis: NDArray[np.uint32], version: Version, out: NDArray[np.uint8]) -> None:
    """Write the keys of many SPIs, one a row, as `DeviceKey.derive_many` does.   out: (n, key octets), contiguous."""
    encryptor = key.encryptor(modes.XTS(_TWEAK), _MASKING_KEY)
    per_key = version.key_octets // 16
    rows = CHUNK // per_key
    masks = _masks()
    blocks = key.templates(version, rows)
    blocks ^= masks.reshape(blocks.shape)
    places = blocks.view(">u4")[:, :, 2]
    # What the word of the SPI is XORed with, as a number: the SPI turns round on its way to the place.
    constants = places.astype(np.uint32)
    words, flat, whole = masks.reshape(-1).view(np.uint64), octets_of(out), out.reshape(-1)
    for first in range(0, len(spis), rows):
        part = spis[first : first + rows]
        for block in range(per_key):
            places[: len(part), block] = part ^ constants[: len(part), block]
        ready, start = octets_of(blocks[: len(part)]), first * version.key_octets
        if len(flat) >= start + len(ready) + 15:  # update_into wants a block more than it fills, less one octet
            encryptor.update_into(ready, flat[start:])  # each update is a data unit of its own, under the same tweak
        else:
            flat[start:] = encryptor.update(ready)
        keys = whole[start : start + len(ready)].view(np.uint64)
        np.bitwise_xor(keys, words[: len(keys)], out=keys)


@functools.cache
def _masks() -> NDArray[np.uint8]:
    """Return the masks of a data unit's first blocks, one a row."""
    mask = int.from_bytes(block_encrypt(_MASKING_KEY, _TWEAK), "little")
    masks = []
    for _ in range(CHUNK):
        masks.append(mask.to_bytes(16, "little"))
        mask <<= 1
        if mask >> 128:
            mask ^= (1 << 128) | 0x87
    return np.frombuffer(b"".join(masks), np.uint8).reshape(CHUNK, 16)
