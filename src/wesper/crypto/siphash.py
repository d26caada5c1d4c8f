"""SipHash-1-3: a short keyed hash, for flows and not for authentication.

Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012).
"""

from __future__ import annotations

from typing import Final

from ..errors import KeyMaterialError

KEY: Final = 16  # octets
_MASK: Final = 0xFFFFFFFFFFFFFFFF


def siphash(key: bytes, data: bytes) -> int:
    """Return the 64-bit hash of data.   key: 16 octets.   Raises KeyMaterialError."""
    if len(key) != KEY:
        raise KeyMaterialError(f"{len(key)} octets for SipHash", expected=f"{KEY} octets")
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    state = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    whole = len(data) // 8 * 8
    # The last word has the length modulo 256 in its highest octet.
    padded = data + bytes(7 - (len(data) - whole)) + bytes((len(data) & 0xFF,))
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        state[3] ^= word
        _round(state)
        state[0] ^= word
    state[2] ^= 0xFF
    for _ in range(3):
        _round(state)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _round(state: list[int]) -> None:
    a, b, c, d = state
    a = (a + b) & _MASK
    b = _rotated(b, 13) ^ a
    a = _rotated(a, 32)
    c = (c + d) & _MASK
    d = _rotated(d, 16) ^ c
    a = (a + d) & _MASK
    d = _rotated(d, 21) ^ a
    c = (c + b) & _MASK
    b = _rotated(b, 17) ^ c
    c = _rotated(c, 32)
    state[:] = a, b, c, d


def _rotated(word: int, by: int) -> int:
    return ((word << by) | (word >> (64 - by))) & _MASK
