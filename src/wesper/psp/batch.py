"""What becomes of many packets in one call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..engine import Packets


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch that was encapsulated.

    packets: from the outer IP header; of length 0 where refused.   codes: (n,) uint8: 0 sent, else DropReason.code.
    """

    packets: Packets
    codes: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Received:
    """A batch that was decapsulated.

    packets: inner ones; of length 0 where dropped, but for PSP_SAMPLED, whose octets are the sampler's.
    codes: (n,) uint8: 0 delivered, else DropReason.code.
    spis: (n,) uint32, ivs: (n,) uint64, cookies: (n,) uint64, flags: (n,) uint8: of authentic packets, else 0. A flag
    octet is the header's fourth: S, D, version, V, 1; cookies are numbers in network order, 0 without V.
    """

    packets: Packets
    codes: NDArray[np.uint8]
    spis: NDArray[np.uint32]
    ivs: NDArray[np.uint64]
    cookies: NDArray[np.uint64]
    flags: NDArray[np.uint8]

    @property
    def sampled(self) -> NDArray[np.bool_]:
        """Which packets have the S bit."""
        return self.flags >= np.uint8(0x80)

    @property
    def versions(self) -> NDArray[np.uint8]:
        """The versions; only authentic packets have one."""
        return (self.flags >> np.uint8(2)) & np.uint8(15)
