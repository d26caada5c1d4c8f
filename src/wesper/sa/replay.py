"""Anti-replay window and the inference of extended sequence numbers.

Source: RFC 4303 §3.4.3 and appendix A2, RFC 6479.
"""

from __future__ import annotations

from typing import Final

from ..errors import ConfigError

MAX_WINDOW: Final = 1 << 20
DEFAULT_WINDOW: Final = 1024  # RFC 4303 §3.4.3 prefers 64; spread over paths and cores a wider one costs little
# The window that finds the high half where anti-replay is off: as wide as appendix A2 allows.
_INFERENCE_WINDOW: Final = 1 << 31


class ReplayWindow:
    """Which of the newest `size` sequence numbers have been accepted.

    A ring of 64-bit words in RFC 6479's layout: moving the top clears whole words, nothing is shifted.
    size: 32..2^20, a multiple of 32.   top: highest number accepted.
    """

    __slots__ = ("_mask", "_ring", "size", "top")

    def __init__(self, size: int, top: int = 0) -> None:
        if not 32 <= size <= MAX_WINDOW or size % 32:
            raise ConfigError(
                f"replay window of {size}", key="window", expected=f"a multiple of 32 in 32..{MAX_WINDOW}"
            )
        words = 2
        while words * 64 < size + 64:  # one word is being cleared while the window reaches into all others
            words *= 2
        self.size, self.top = size, top
        self._ring, self._mask = [0] * words, words - 1

    def check(self, number: int) -> bool:
        """Whether number is fresh.   Zero never is (RFC 4303 §3.3.3)."""
        if number == 0:
            return False
        if number > self.top:
            return True
        if number + self.size <= self.top:
            return False
        return not self._ring[(number >> 6) & self._mask] >> (number & 63) & 1

    def close(self) -> None:
        """Count all numbers up to the top as accepted; those above it in its own word are not."""
        self._ring = [(1 << 64) - 1] * len(self._ring)
        self._ring[(self.top >> 6) & self._mask] = (1 << (self.top & 63) + 1) - 1

    def accept(self, number: int) -> bool:
        """Mark number as seen and return True, or return False if it is not fresh (any more)."""
        if not self.check(number):
            return False
        if number > self.top:
            old, new = self.top >> 6, number >> 6
            for step in range(min(new - old, len(self._ring))):
                self._ring[(old + 1 + step) & self._mask] = 0
            self.top = number
        self._ring[(number >> 6) & self._mask] |= 1 << (number & 63)
        return True


def infer_sequence(top: int, window: int, low: int) -> int | None:
    """Return the 64-bit number whose low half was received, None if there is none.

    top: highest number accepted.   window: its size; 0 where anti-replay is off.   low: 32 bits.
    Source: RFC 4303 appendix A2.1.
    """
    window = window or _INFERENCE_WINDOW
    high, top_low = top >> 32, top & 0xFFFFFFFF
    edge = (top_low - window + 1) & 0xFFFFFFFF
    if top_low >= window - 1:
        if low < edge:
            high += 1
    elif low >= edge:
        high -= 1
    return high << 32 | low if 0 <= high < 1 << 32 else None
