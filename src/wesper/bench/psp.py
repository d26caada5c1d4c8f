"""PSP's rows: keys derived, packets under keys never expanded before."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from .. import psp
from ..crypto import psp as crypto
from ..engine import Packets
from ..psp import portable
from .loops import SLICES, later, rate
from .measure import Row

_KEY: Final = bytes(range(32))
_KEYS: Final = 1_000_000
_CHUNK: Final = 16_384
_BATCH: Final = 256
_ASSOCIATIONS: Final = 10_000_000
_DIRECTIONS: Final = (("seal", "encapsulate"), ("open", "decapsulate"))


def rows(*, quick: bool) -> list[Row]:
    """Return the rows that need the native engine."""
    associations = _ASSOCIATIONS // 10 if quick else _ASSOCIATIONS
    return [*_keys(), *_packets(quick, associations), *_from_python(quick)]


def portable_rows() -> list[Row]:
    """Return the rows of what runs without it."""
    return [
        Row(
            "PSP keys",
            "derive_keys without the native engine",
            "keys/s",
            _portable_rate,
            0.90,
            _ecb_rate,
            "numpy + AES-ECB",
        )
    ]


def _keys() -> list[Row]:
    from .. import _native

    def bare(per_key: int) -> float:
        return 1e9 / per_key / min(_native.bare_block_nanoseconds(_KEYS // SLICES) for _ in range(SLICES))

    one, two = partial(bare, 1), partial(bare, 2)
    return [
        Row(
            "PSP keys", "derive_keys, 128 bits, one core", "keys/s", partial(_derive_rate, 0, 1), 0.80, one, "bare VAES"
        ),
        Row(
            "PSP keys", "derive_keys, 256 bits, one core", "keys/s", partial(_derive_rate, 1, 1), 0.80, two, "bare VAES"
        ),
        # Near twice: nine tenths of two cores' 0.80.
        Row(
            "PSP keys",
            "derive_keys, 128 bits, two cores",
            "keys/s",
            partial(_derive_rate, 0, 2),
            1.44,
            one,
            "bare VAES",
        ),
        Row("PSP keys", "one key, one call, 99th percentile", "us", _one_key_p99, 100, at_most=True),
    ]


def _derive_rate(version: int, threads: int) -> float:
    """Return keys/s of one call on an array of SPIs, into an array; the fastest of some."""
    spis = np.arange(1, _KEYS + 1, dtype=np.uint32)
    out = np.zeros((_KEYS, crypto.version(version).key_octets), np.uint8)
    return _KEYS * 1e9 / _fastest(lambda: psp.derive_keys(_KEY, spis, version, out=out, threads=threads))


def _one_key_p99() -> float:
    spent = []
    for spi in range(1, 20_001):
        start = time.perf_counter_ns()
        psp.derive_key(_KEY, spi)
        spent.append(time.perf_counter_ns() - start)
    return float(np.percentile(spent, 99)) / 1000


def _portable_rate() -> float:
    key, version = crypto.DeviceKey(_KEY), crypto.version(0)
    spis, out = np.arange(1, _KEYS + 1, dtype=np.uint32), np.zeros((_KEYS, 16), np.uint8)
    return _KEYS * 1e9 / _fastest(lambda: portable.derive_many(key, spis, version, out))


def _ecb_rate() -> float:
    """Return blocks/s of AES-ECB by the `cryptography` package alone, from an array of blocks to another."""
    blocks: Any = np.zeros(16 * _KEYS, np.uint8)
    out: Any = np.zeros(16 * _KEYS + 15, np.uint8)

    def work() -> None:
        encryptor = Cipher(algorithms.AES(_KEY), modes.ECB()).encryptor()
        for first in range(0, 16 * _KEYS, 16 * _CHUNK):
            encryptor.update_into(memoryview(blocks[first : first + 16 * _CHUNK]), memoryview(out[first:]))

    return _KEYS * 1e9 / _fastest(work)


def _packets(quick: bool, associations: int) -> list[Row]:
    """All of PSP under keys never expanded before, against a provider that expands a key for each packet."""
    from .. import _native

    packets = 50_000 if quick else 200_000
    found = []
    for provider, inner, many in itertools.product(_native.providers(), (1400, 64), (_BATCH, associations)):
        ours = later(partial(_native.PspBench, provider, 0, many, _BATCH, inner))
        bare = later(partial(_native.FreshBench, provider, 16, _BATCH, inner))
        for direction, word in _DIRECTIONS:
            found.append(
                Row(
                    f"PSP, AES-128-GCM, {provider}",
                    f"{word} {inner}, {many:,} associations",
                    "packets/s",
                    rate(ours, direction, packets),
                    0.80,
                    rate(bare, direction, packets),
                    f"{provider}, fresh keys",
                )
            )
    return found


def _from_python(quick: bool) -> list[Row]:
    from .. import _native

    packets = 50_000 if quick else 200_000
    found = []
    for inner, (direction, word) in itertools.product((1400, 64), _DIRECTIONS):
        loop = later(partial(_native.PspBench, _native.providers()[0], 0, _BATCH, _BATCH, inner))
        found.append(
            Row(
                "PSP from Python, 256 packets a call",
                f"Device.{word}_many, {inner} octets",
                "packets/s",
                partial(_python_rate, inner, direction),
                0.70,
                rate(loop, direction, packets),
                "native loop",
            )
        )
    return found


def _python_rate(inner: int, direction: str) -> float:
    device = psp.Device(engine="native", rotate_every=None)
    profile = psp.Profile()
    head = b"\x45\x00" + inner.to_bytes(2, "big") + bytes.fromhex("00004000401100000a0000010a000002")
    packets = Packets.of([head + bytes(inner - len(head))] * _BATCH)
    spis, keys = device.allocate_many(_BATCH)
    spent = []
    for _ in range(12 * SLICES):
        start = time.perf_counter_ns()
        sealed = device.encapsulate_many(profile, packets, spis, keys)
        middle = time.perf_counter_ns()
        if direction == "open":
            opened = device.decapsulate_many(sealed.packets)
            spent.append(time.perf_counter_ns() - middle)
            assert not opened.codes.any()
        else:
            spent.append(middle - start)
    return _BATCH * 1e9 / min(sum(spent[at : at + 12]) / 12 for at in range(0, len(spent), 12))


def _fastest(work: Callable[[], object]) -> int:
    """Return the nanoseconds of the fastest of some calls."""
    spent = []
    for _ in range(SLICES):
        start = time.perf_counter_ns()
        work()
        spent.append(time.perf_counter_ns() - start)
    return min(spent)
