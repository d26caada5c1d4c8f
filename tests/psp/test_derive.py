"""Key derivation by itself: known answers, CMAC by another library, arrays and threads."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given
from hypothesis import strategies as st

from wesper import psp
from wesper.crypto import psp as crypto
from wesper.crypto import psp_masked
from wesper.crypto.siphash import siphash
from wesper.errors import ConfigError, KeyMaterialError
from wesper.psp import portable as portable_way

KEY = bytes(range(32))


@given(key=st.binary(min_size=32, max_size=32), spi=st.integers(0, 0xFFFFFFFF), version=st.integers(0, 3))
def test_it_is_cmac_in_counter_mode(key: bytes, spi: int, version: int) -> None:
    used = crypto.version(version)
    derived = b""
    for block in crypto.input_blocks(spi, used):
        mac = CMAC(algorithms.AES(key))
        mac.update(block)
        derived += mac.finalize()
    assert psp.derive_key(key, spi, version) == derived
    assert crypto.DeviceKey(key).derive(spi, used) == derived


@pytest.mark.parametrize("version", range(4))
@pytest.mark.parametrize("count", [0, 1, 31, 33, 16384, 16385, 40_000])
def test_arrays(version: int, count: int) -> None:
    spis = np.arange(7, 7 + count, dtype=np.uint32)[::-1]
    used = crypto.version(version)
    rows = psp.derive_keys(KEY, spis, version)
    assert rows.shape == (count, used.key_octets)
    portable = np.empty_like(rows)
    crypto.DeviceKey(KEY).derive_many(spis, used, portable)
    assert rows.tobytes() == portable.tobytes()
    masked = np.empty(count * used.key_octets + 1, np.uint8)[1:].reshape(rows.shape)  # not where numbers like to be
    psp_masked.derive_many(crypto.DeviceKey(KEY), spis, used, masked)
    assert rows.tobytes() == masked.tobytes()
    portable_way.derive_many(crypto.DeviceKey(KEY), spis, used, portable)
    assert rows.tobytes() == portable.tobytes()
    for index in {0, count // 2, count - 1} if count else ():
        assert rows[index].tobytes() == psp.derive_key(KEY, int(spis[index]), version)


def test_out_and_threads() -> None:
    spis = np.arange(1, 300_001, dtype=np.uint32)
    out = np.empty((300_000, 16), np.uint8)
    assert psp.derive_keys(KEY, spis, out=out, threads=2) is out
    assert out.tobytes() == psp.derive_keys(KEY, spis, threads=1).tobytes()


def test_what_is_wrong_is_told() -> None:
    spis = np.array([1], np.uint32)
    with pytest.raises(KeyMaterialError, match="16 octets for a PSP device key"):
        psp.derive_keys(bytes(16), spis)
    with pytest.raises(KeyMaterialError, match="16 octets"):
        psp.derive_key(bytes(16), 1)
    with pytest.raises(ConfigError, match="PSP version 9"):
        psp.derive_key(KEY, 1, 9)
    with pytest.raises(ConfigError, match="SPI 0x100000000"):
        psp.derive_key(KEY, 1 << 32)
    with pytest.raises(ConfigError, match="spis"):
        psp.derive_keys(KEY, spis.astype(np.uint64))  # type: ignore[arg-type]
    for out in (np.empty((1, 32), np.uint8), np.empty((1, 16), np.uint16), np.empty((1, 32), np.uint8)[:, ::2]):
        with pytest.raises(ConfigError, match="out"):
            psp.derive_keys(KEY, spis, out=out)  # type: ignore[arg-type]
    frozen = np.empty((1, 16), np.uint8)
    frozen.flags.writeable = False
    with pytest.raises(ConfigError, match="writable"):
        psp.derive_keys(KEY, spis, out=frozen)


def test_siphash_is_pythons_own() -> None:
    """Of CPython 3.11 and later, whose key is all zeros with this seed (Python/bootstrap_hash.c)."""
    octets = bytes(range(0xF0, 0xFD))
    code = f"import sys; print(sys.hash_info.algorithm, hash({octets!r}) % 2**64)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True
    )
    algorithm, value = done.stdout.split()
    assert algorithm == "siphash13"
    assert siphash(bytes(16), octets) == int(value)
    with pytest.raises(KeyMaterialError):
        siphash(b"short", b"")


GROWTH = """
import numpy as np
from wesper import psp
from wesper.engine import Packets

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) * 1024

device = psp.Device(rotate_every=None)
profile, packet = psp.Profile(), bytes.fromhex("4500001c0000000040118e95c0000201c633640700010002000800 00")

def round_of(count):
    spis, keys = device.allocate_many(count)
    sent = device.encapsulate_many(profile, Packets.of([packet] * count), spis, keys)
    assert not device.decapsulate_many(sent.packets).codes.any()

for _ in range(20):
    round_of(1000)
before = resident()
for _ in range(300):
    round_of(1000)
print(resident() - before)
"""


@pytest.mark.needs_native
def test_the_receivers_memory_does_not_know_how_many_associations_there_are() -> None:
    """300,000 associations, made, used and opened: the process grows by no more than 1 MiB."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 1 << 20
