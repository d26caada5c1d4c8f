"""Many keys without the native engine: the faster of two ways, found by a trial."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..crypto import psp as crypto
from ..crypto import psp_masked

_Way = Callable[[crypto.DeviceKey, "NDArray[np.uint32]", crypto.Version, "NDArray[np.uint8]"], None]

_TRIALS: Final = 5


def derive_many(
    key: crypto.DeviceKey, spis: NDArray[np.uint32], version: crypto.Version, out: NDArray[np.uint8]
) -> None:
    """Write the keys of many SPIs, one a row.   out: (n, key octets), contiguous.

    Few are derived by AES-ECB. For many, AES-XTS is faster where the processor and OpenSSL have wide code for it.
    """
    way = crypto.DeviceKey.derive_many if len(spis) < 2 * crypto.CHUNK else _faster_way()
    way(key, spis, version, out)


@functools.cache
def _faster_way() -> _Way:
    """Return the way that takes less time here.   Tried once a process; costs about a millisecond."""
    key, version = crypto.DeviceKey(os.urandom(crypto.DEVICE_KEY)), crypto.version(0)
    spis = np.arange(2 * crypto.CHUNK, dtype=np.uint32)
    out = np.empty((len(spis), version.key_octets), np.uint8)
    ways: list[_Way] = [crypto.DeviceKey.derive_many, psp_masked.derive_many]
    spent: list[list[int]] = [[], []]
    for _ in range(_TRIALS):
        for way, times in zip(ways, spent, strict=True):
            start = time.perf_counter_ns()
            way(key, spis, version, out)
            times.append(time.perf_counter_ns() - start)
    return ways[int(min(spent[1]) < min(spent[0]))]
