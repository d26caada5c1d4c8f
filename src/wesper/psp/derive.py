"""Key derivation by itself: one SPI, or millions in a call."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from ..crypto import psp as crypto
from ..engine import native_is_built
from ..errors import ConfigError, KeyMaterialError
from . import portable


def derive_key(device_key: bytes, spi: int, version: int = 0) -> bytes:
    """Return one PSP key (AES-256-CMAC in counter mode): 16 or 32 octets.

    device_key: 32 octets, the one that the top bit of spi selects.   spi: 0..2^32-1, host order.   version: 0..3.
    Raises KeyMaterialError, ConfigError.
    Source: PSP Architecture Specification, "Key Derivation".

    >>> key = bytes.fromhex("34448a064292601b11a0978f56a2d34cf3fc35ede1a6bc04f8db3e5243a2b0ca")
    >>> derive_key(key, 0x12345678).hex()
    '96c22dc799198090b74b70ae468e4e30'
    """
    used = crypto.version(version)
    _check_device_key(device_key)
    if not 0 <= spi < 1 << 32:
        raise ConfigError(f"SPI {spi:#x}", key="spi", expected="0..0xffffffff")
    if native_is_built():
        from .native import derive_key as native

        return native(device_key, spi, used)
    return crypto.DeviceKey(device_key).derive(spi, used)


def derive_keys(
    device_key: bytes,
    spis: NDArray[np.uint32],
    version: int = 0,
    *,
    out: NDArray[np.uint8] | None = None,
    threads: int | None = None,
) -> NDArray[np.uint8]:
    """Return the keys of many SPIs, one a row: (n, 16 or 32) uint8.

    spis: (n,) uint32.   out: array to fill and return: fresh memory costs more than the keys.
    threads: None: as many as there are cores, where there is enough to do for each; the GIL is released.
    Cost: about 1 ns for each 16 octets of key and core with VAES.
    Raises KeyMaterialError, ConfigError.
    """
    used = crypto.version(version)
    _check_device_key(device_key)
    if spis.ndim != 1 or spis.dtype != np.uint32:
        raise ConfigError(f"{spis.dtype} {spis.shape}", key="spis", expected="uint32, one dimension")
    shape = (len(spis), used.key_octets)
    if out is None:
        out = np.empty(shape, np.uint8)
    elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous or not out.flags.writeable:
        raise ConfigError(f"{out.dtype} {out.shape}", key="out", expected=f"uint8 {shape}, contiguous and writable")
    spis = np.ascontiguousarray(spis)
    if native_is_built():
        from .native import derive_keys as native

        native(device_key, spis, used, out, threads or os.cpu_count() or 1)
    else:
        portable.derive_many(crypto.DeviceKey(device_key), spis, used, out)
    return out


def _check_device_key(device_key: bytes) -> None:
    if len(device_key) != crypto.DEVICE_KEY:
        raise KeyMaterialError(f"{len(device_key)} octets for a PSP device key", expected=f"{crypto.DEVICE_KEY} octets")
