"""What is measured: every figure of the goals, with its anchor.   docs/bench.md says it in words."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import subprocess
import sys
import time
from functools import partial
from ipaddress import ip_address
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..engine import Engine, Packets, native_is_built, open_engine
from ..sa import SA, Direction, Outer, Profile
from ..verdict import Delivered
from . import family, psp, psp_exchange, steering
from .loops import SLICES, later, rate
from .measure import Row

_SUITE: Final = "aes-gcm-16"
_PACKETS: Final = "packets/s"
_DIRECTIONS: Final = (("seal", "encapsulate"), ("open", "decapsulate"))
_RING: Final = 256  # buffers of 2240 octets: half a MiB, so that no packet is in the first-level cache by chance
_BATCH: Final = 256
_HERE, _THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")
_SAS: Final = 10_000_000


def versions() -> dict[str, str]:
    """Return versions of the native engine and its providers."""
    if not native_is_built():
        return {"native": "not built"}
    from .. import _native

    return {
        "native": _native.version(),
        "providers": ", ".join(_native.providers()),
        "wesper": importlib.metadata.version("wesper"),
    }


def rows(*, quick: bool) -> tuple[list[Row], list[tuple[str, str]]]:
    """Return the rows to measure, and those left out with the reason."""
    found: list[Row] = []
    skipped: list[tuple[str, str]] = []
    if native_is_built():
        from .. import _native

        for provider in _native.providers():
            found += _in_memory(provider, quick)
            found += family.rows(provider, quick=quick)
        if "ipsec-mb" not in _native.providers():
            how = "apt-get install libipsec-mb-dev, then WESPER_IPSEC_MB=1 make build"
            skipped.append(("provider ipsec-mb", how))
        found += _from_python(quick)
        found += steering.rows()
        found += _table(quick)
        found += psp.rows(quick=quick)
        found += psp_exchange.rows()
    else:
        skipped.append(
            ("native engine", "not built: install Rust (rustup, or cargo-web and rustc-web), then make build")
        )
    found += _reference(quick)
    found += psp.portable_rows()
    return found, skipped


def _in_memory(provider: str, quick: bool) -> list[Row]:
    """All of ESP in memory against the provider alone."""
    from .. import _native

    packets = 100_000 if quick else 400_000
    goals = {1400: 0.80 if provider == "ipsec-mb" else 0.90, 64: 0.80}
    found = []
    for key_octets, inner, sas in itertools.product((16, 32), (1400, 64), (1, 1000)):
        slots = max(_RING, sas)
        sealed = inner + 2 + -(inner + 2) % 4  # as long as ESP's: with padding and trailer
        esp = later(partial(_native.EspBench, provider, _SUITE, key_octets, sas, slots, inner))
        bare = later(partial(_native.ProviderBench, provider, _SUITE, key_octets, sas, slots, sealed))
        found += [
            Row(
                f"ESP, AES-{8 * key_octets}-GCM, {provider}",
                f"{word} {inner}, {sas:,} SA{'s' if sas > 1 else ''}",
                _PACKETS,
                rate(esp, direction, packets),
                goals[inner],
                rate(bare, direction, packets),
                provider,
            )
            for direction, word in _DIRECTIONS
        ]
    return found


def _from_python(quick: bool) -> list[Row]:
    """What a Python caller gets: batches against the native loop, single calls against a bare AEAD call."""
    from .. import _native

    batches, calls = (100, 20_000) if quick else (400, 100_000)
    batched, single = "Python, 256 packets a call", "Python, one packet a call"
    found = []
    for inner, (direction, word) in itertools.product((1400, 64), _DIRECTIONS):
        loop = later(partial(_native.EspBench, _native.providers()[0], _SUITE, 32, 1, _BATCH, inner))
        name = f"{word}_many, {inner} octets"
        ours = partial(_batch_rate, inner, direction, batches)
        found.append(Row(batched, name, _PACKETS, ours, 0.70, rate(loop, direction, _BATCH * batches), "native loop"))
    for inner, (direction, word) in itertools.product((1400, 64), _DIRECTIONS):
        name = f"{word}, {inner} octets"
        ours = partial(_single_rate, "native", inner, direction, calls)
        goal = 1.0 if inner == 1400 and direction == "seal" else None
        found.append(Row(single, name, _PACKETS, ours, goal, partial(_aead_rate, inner, direction, calls), "AESGCM"))
    return found


def _table(quick: bool) -> list[Row]:
    """Memory, look-ups and installation of many SAs."""
    from .. import _native

    sas = _SAS // 10 if quick else _SAS
    lookup = later(lambda: _native.LookupBench(sas, 1))
    group = f"{sas:,} idle SAs"
    memory: dict[str, float] = {}

    def weigh() -> float:
        if not memory:
            memory.update(_weigh(sas))
        return memory["octets_each"]

    def weigh_all() -> float:
        weigh()
        return memory["gibibytes"]

    return [
        Row(group, "octets resident each", "octets", weigh, 128, at_most=True),
        Row(group, "GiB resident in all", "GiB", weigh_all, 1.3 * sas / _SAS, at_most=True),
        Row(
            group,
            "look-ups/s at random",
            "look-ups/s",
            lambda: 1e9 / lookup().table_nanoseconds(),
            0.90,
            lambda: 1e9 / lookup().bare_nanoseconds(),
            "bare probe",
        ),
        Row(group, "install_many, SAs/s", "SAs/s", lambda: _install_rate(sas // 10), 1e6),
    ]


def _reference(quick: bool) -> list[Row]:
    packets = 2_000 if quick else 10_000
    return [
        Row(
            "Reference engine",
            f"{word}, 1400 octets",
            _PACKETS,
            partial(_single_rate, "reference", 1400, direction, packets),
            20_000,
        )
        for direction, word in _DIRECTIONS
    ]


def _inner(octets: int) -> bytes:
    """Return an IPv4 packet of so many octets."""
    head = b"\x45\x00" + octets.to_bytes(2, "big") + bytes.fromhex("00004000401100000a0000010a000002")
    return head + bytes(octets - len(head))


def _pair(name: str) -> tuple[Engine, int]:
    """Return an engine with an outbound SA, whose id is returned, and its inbound twin."""
    engine = open_engine(name)
    key, salt = os.urandom(32), os.urandom(4)
    out = Profile(_SUITE, outer=Outer(_HERE, _THERE))
    back = Profile(_SUITE, outer=Outer(_THERE, _HERE))
    sa = engine.install(SA(out, Direction.OUT, 0x1000, key, salt))
    engine.install(SA(back, Direction.IN, 0x1000, key, salt))
    return engine, sa


def _batch_rate(inner: int, direction: str, batches: int) -> float:
    """Return the rate of the fastest of some short slices, as `_rate` does with the native loop."""
    engine, sa = _pair("native")
    packets = Packets.of([_inner(inner)] * _BATCH)
    calls = batches // SLICES
    return _BATCH * calls * 1e9 / min(_batches(engine, sa, packets, direction, calls) for _ in range(SLICES))


def _batches(engine: Engine, sa: int, packets: Packets, direction: str, calls: int) -> int:
    """Return the nanoseconds of so many calls."""
    spent = 0
    for _ in range(calls):
        start = time.perf_counter_ns()
        sealed = engine.encapsulate_many(sa, packets, 0)
        middle = time.perf_counter_ns()
        if direction == "open":
            opened = engine.decapsulate_many(sealed.packets, 0)
            spent += time.perf_counter_ns() - middle
            assert not opened.codes.any()
        else:
            spent += middle - start
    return spent


def _single_rate(name: str, inner: int, direction: str, calls: int) -> float:
    engine, sa = _pair(name)
    packet = _inner(inner)
    seal, open_ = engine.encapsulate, engine.decapsulate
    if direction == "seal":
        start = time.perf_counter_ns()
        for _ in range(calls):
            seal(sa, packet, 0)
        return calls * 1e9 / (time.perf_counter_ns() - start)
    spent = done = 0
    while done < calls:
        verdicts = [seal(sa, packet, 0) for _ in range(_BATCH)]
        sealed = [verdict.packet for verdict in verdicts if isinstance(verdict, Delivered)]
        start = time.perf_counter_ns()
        for one in sealed:
            open_(one, 0)
        spent += time.perf_counter_ns() - start
        done += len(sealed)
    return done * 1e9 / spent


def _aead_rate(inner: int, direction: str, calls: int) -> float:
    aead = AESGCM(os.urandom(32))
    nonce, associated, packet = bytes(12), bytes(8), _inner(inner)
    if direction == "open":
        work, packet = aead.decrypt, aead.encrypt(nonce, packet, associated)
    else:
        work = aead.encrypt
    start = time.perf_counter_ns()
    for _ in range(calls):
        work(nonce, packet, associated)
    return calls * 1e9 / (time.perf_counter_ns() - start)


def _install_rate(sas: int) -> float:
    engine = open_engine("native")
    spis = np.arange(0x1000, 0x1000 + sas, dtype=np.uint32)
    keys = np.zeros((sas, 36), np.uint8)
    keys[:, :4] = spis.view(np.uint8).reshape(-1, 4)
    profile = Profile(_SUITE, outer=Outer(_HERE, _THERE))
    start = time.perf_counter_ns()
    engine.install_many(profile, Direction.IN, spis, keys)
    return sas * 1e9 / (time.perf_counter_ns() - start)


_WEIGH: Final = """
import sys
import numpy as np
from ipaddress import ip_address
import wesper

def resident():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmRSS")) * 1024

sas, chunk = int(sys.argv[1]), 100_000
engine = wesper.open_engine("native")
profile = wesper.Profile("aes-gcm-16", outer=wesper.Outer(ip_address("192.0.2.1"), ip_address("192.0.2.2")))
keys = np.zeros((chunk, 36), np.uint8)
spis = np.random.default_rng(1).permutation(sas).astype(np.uint32) + np.uint32(256)
engine.install_many(profile, wesper.Direction.IN, np.array([2**32 - 1], np.uint32), keys[:1])
before = resident()
for first in range(0, sas, chunk):
    engine.install_many(profile, wesper.Direction.IN, spis[first:first + chunk], keys[:len(spis[first:first + chunk])])
print(resident() - before)
"""


def _weigh(sas: int) -> dict[str, float]:
    """Install so many idle SAs in a fresh process and return what it has grown by."""
    done = subprocess.run([sys.executable, "-c", _WEIGH, str(sas)], capture_output=True, text=True, check=True)
    grown = int(done.stdout)
    return {"octets_each": grown / sas, "gibibytes": grown / 2**30}
