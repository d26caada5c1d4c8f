"""Many packets in one call: one contiguous buffer and where each packet begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class Packets:
    """Packets one after another.

    data: (octets,) uint8.   offsets: (n + 1,) uint64: packet i is data[offsets[i]:offsets[i + 1]].
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.uint64]

    def __post_init__(self) -> None:
        good = (
            self.data.dtype == np.uint8
            and self.offsets.dtype == np.uint64
            and self.data.ndim == self.offsets.ndim == 1
            and len(self.offsets) > 0
            and bool(np.all(self.offsets[1:] >= self.offsets[:-1]))
            and int(self.offsets[-1]) <= len(self.data)
        )
        if not good:
            raise ConfigError(
                "packet batch", key="offsets", expected="uint64, rising, n + 1 of them, inside uint8 data"
            )

    @classmethod
    def of(cls, packets: Iterable[bytes]) -> Packets:
        """Join packets."""
        parts = list(packets)
        offsets = np.zeros(len(parts) + 1, np.uint64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.data[int(self.offsets[index]) : int(self.offsets[index + 1])].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, slots=True)
class Results:
    """What became of a batch, packet by packet.

    packets: what came out; of length 0 where dropped.   codes: (n,) uint8: 0 delivered, else DropReason.code.
    sas: (n,) uint64: the SA that did the work.   sequences: (n,) uint64.   flows: (n,) uint64: EESP's Session ID,
    WESPv2's flow identifier, else 0. All three 0 where dropped.
    """

    packets: Packets
    codes: NDArray[np.uint8]
    sas: NDArray[np.uint64]
    sequences: NDArray[np.uint64]
    flows: NDArray[np.uint64]
