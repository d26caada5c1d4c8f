"""What only the native engine has: threads, providers, shared profiles, memory that NumPy looks at."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wesper import Delivered, Direction, DropReason, Mode, Packets, Profile, UnsupportedError

from . import oracle
from .packets import ipv4
from .pair import OUTER4, OUTER6, Pair, delivered, engine, sa

pytestmark = pytest.mark.needs_native


def test_reference_is_not_needed() -> None:
    code = "import sys, wesper; wesper.open_engine('native'); sys.exit('wesper.engine.reference' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_both_halves_at_once() -> None:
    """One thread protects, one opens, one asks: in the same engine, with the results of one after the other."""
    pair, rounds, each = Pair.of("native"), 150, 64
    host = pair.sender
    into = host.install(sa(pair.receiver_profile, Direction.IN, pair.keys))
    packets = [Packets.of([ipv4(bytes((i % 256, j))) for j in range(each)]) for i in range(rounds)]
    results, opened, errors, done = [], [], list[BaseException](), threading.Event()

    def protect() -> None:
        for batch in packets:
            results.append(host.encapsulate_many(pair.out, batch, 0))

    def unprotect() -> None:
        for i in range(rounds):
            while len(results) <= i:
                pass
            opened.append(host.decapsulate_many(results[i].packets, 0))

    def ask() -> None:
        while not done.is_set():
            host.state(pair.out)
            host.find(np.array([pair.keys.key[0]], np.uint32))
            host.counters()
            host.next_event()

    def guarded(work: threading.Thread) -> threading.Thread:
        run = work.run

        def caught() -> None:
            try:
                run()
            except BaseException as error:
                errors.append(error)
                done.set()

        work.run = caught  # type: ignore[method-assign]
        return work

    asking = guarded(threading.Thread(target=ask))
    working = [guarded(threading.Thread(target=protect)), guarded(threading.Thread(target=unprotect, daemon=True))]
    for thread in [asking, *working]:
        thread.start()
    for thread in working:
        thread.join(60)
    done.set()
    asking.join(60)
    assert errors == []
    assert [list(o.packets) for o in opened] == [list(p) for p in packets]
    assert host.state(into).packets == rounds * each
    assert host.drops() == {}


def test_batches_release_the_gil() -> None:
    """Another thread of Python's runs on while a batch is worked on."""
    pair = Pair.of("native", "aes-ccm-16")
    batch = Packets.of([ipv4(bytes(1400))] * 20_000)
    ticks = [0]
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks[0] += 1
            time.sleep(0.0001)  # lets go of the GIL, so that the other thread is not kept waiting

    switch = sys.getswitchinterval()
    sys.setswitchinterval(60)  # nobody is made to let go of it: who ticks meanwhile has been given it
    thread = threading.Thread(target=tick)
    try:
        thread.start()
        before = ticks[0]
        pair.sender.encapsulate_many(pair.out, batch, 0)
        after = ticks[0]
    finally:
        stop.set()
        sys.setswitchinterval(switch)
        thread.join()
    assert after > before


@pytest.mark.parametrize("suite", oracle.SUITES)
def test_providers(suite: str) -> None:
    """Each makes the same octets and opens the others'."""
    from wesper import _native
    from wesper.engine.native import NativeEngine

    keys = oracle.Keys.of(suite)
    profile = Profile(suite, outer=OUTER4)
    reference = Pair.of("reference", suite)
    expected = reference.protect(ipv4(b"provided"))
    for provider in _native.providers():
        host = NativeEngine(reference.sender.options, provider=provider)
        assert delivered(
            host.encapsulate(host.install(sa(profile, Direction.OUT, keys)), ipv4(b"provided"), 0)
        ).packet == (expected)
        into = host.install(sa(reference.receiver_profile, Direction.IN, keys))
        assert host.decapsulate(expected, 0) == Delivered(ipv4(b"provided"), into, 1)


def test_unknown_provider() -> None:
    from wesper.engine.native import NativeEngine

    with pytest.raises(UnsupportedError, match=r"'abacus'.*aws-lc"):
        NativeEngine(provider="abacus")


def test_equal_profiles_are_shared() -> None:
    """And forgotten some time after their last SA is gone."""
    host, keys = engine("native"), oracle.Keys.of("aes-gcm-16")
    for spi in range(256, 300):
        host.install(sa(Profile("aes-gcm-16", outer=replace(OUTER4)), Direction.IN, keys, spi=spi))
    kept = host._profiles  # type: ignore[attr-defined]
    assert len(kept) == 1
    for mtu in range(1000, 3000):
        host.remove(host.install(sa(Profile("aes-gcm-16", outer=OUTER6, mtu=mtu), Direction.OUT, keys)))
    assert len(kept) < 300
    last = host.install(sa(Profile("aes-gcm-16", Mode.TRANSPORT, mtu=999), Direction.OUT, keys))
    assert host._profile(last) == Profile("aes-gcm-16", Mode.TRANSPORT, mtu=999)
    assert host._profile(256) == Profile("aes-gcm-16", outer=OUTER4)
    assert host._profile(12345) is None


def test_bulk_installation_makes_no_python_objects() -> None:
    host, count = engine("native"), 20_000
    profile = Profile("aes-gcm-16", outer=OUTER4)
    spis, keys = np.arange(256, 256 + count, dtype=np.uint32), np.zeros((count, 36), np.uint8)
    host.install_many(profile, Direction.OUT, spis[:1], keys[:1])
    gc.collect()
    tracemalloc.start()
    try:
        ids = host.install_many(profile, Direction.IN, spis, keys)
        traced, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ids) == count
    assert traced < 20_000, "all that Python knows of is the result"


def test_results_are_arrays_over_the_engines_memory() -> None:
    pair = Pair.of("native")
    results = pair.sender.encapsulate_many(pair.out, Packets.of([ipv4()] * 3), 0)
    numbers = (results.sas, results.sequences, results.flows)
    for array in (results.packets.data, results.packets.offsets, results.codes, *numbers):
        assert array.base is not None
        assert array.flags.writeable
        assert array.flags.aligned
    results.packets.data[:] = 0
    results.codes[:] = 255
    again = pair.sender.encapsulate_many(pair.out, Packets.of([ipv4()] * 3), 0)
    assert again.codes.tolist() == [0, 0, 0]
    data = results.packets.data
    del results, pair
    gc.collect()
    assert data.sum() == 0


def test_memory_is_used_again_but_not_while_it_is_looked_at() -> None:
    """Batches of all sizes, whose arrays live for different times: the octets of each stay what they were."""
    pair = Pair.of("native")
    rng = np.random.default_rng(7)
    held: list[tuple[Packets, list[bytes], list[bytes]]] = []
    addresses = set()
    for _ in range(300):
        inner = [ipv4(rng.bytes(int(rng.integers(0, 1300)))) for _ in range(int(rng.integers(0, 9)))]
        sealed = pair.sender.encapsulate_many(pair.out, Packets.of(inner), 0).packets
        opened = pair.receiver.decapsulate_many(sealed, 0).packets
        addresses.add(opened.data.ctypes.data)
        held.append((sealed, list(sealed), inner))
        held.append((opened, list(opened), inner))
        assert list(opened) == inner
        while len(held) > int(rng.integers(1, 12)):
            packets, octets, inner = held.pop(int(rng.integers(len(held))))
            assert list(packets) == octets
    assert len(addresses) < 60, "most batches were written where an earlier one was"


def test_what_lay_in_used_memory_is_not_handed_out() -> None:
    """Neither behind the last packet nor where one was dropped."""
    pair = Pair.of("native")
    secret = b"left over"
    packets = Packets.of([ipv4(secret * 100)] * 8)
    sealed = pair.sender.encapsulate_many(pair.out, packets, 0)
    opened = pair.receiver.decapsulate_many(sealed.packets, 0)
    where = opened.packets.data.ctypes.data
    del opened
    again = pair.receiver.decapsulate_many(sealed.packets, 0)
    assert again.packets.data.ctypes.data == where
    assert {int(code) for code in again.codes} == {DropReason.REPLAY.code}
    assert again.packets.data.base is not None
    assert len(again.packets.data) == len(bytes(memoryview(again.packets.data.base))) == 0


def test_little_memory_is_kept() -> None:
    """Large batches give theirs back to the system."""
    pair = Pair.of("native")
    batch = Packets.of([ipv4(bytes(1400))] * 20_000)

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    before = resident()
    held = [pair.sender.encapsulate_many(pair.out, batch, 0) for _ in range(5)]
    assert resident() - before > 100 << 20
    held.clear()
    gc.collect()
    assert resident() - before < 32 << 20


@pytest.mark.parametrize(
    "call",
    [
        lambda host: host.encapsulate("1", b"", 0),
        lambda host: host.encapsulate(1, "text", 0),
        lambda host: host.encapsulate(-1, b"", 0),
        lambda host: host.decapsulate(b"", -1),
        lambda host: host.decapsulate(None, 0),
        lambda host: host._encapsulate_many(1, 0, np.zeros(4, np.uint16), np.zeros(1, np.uint64), 0),
        lambda host: host._encapsulate_many(1, 0, np.zeros(8, np.uint8)[::2], np.zeros(1, np.uint64), 0),
        lambda host: host._find(np.zeros(4, np.int64)),
    ],
)
def test_wrong_types_raise(call: object) -> None:
    """Python's own exceptions, and the engine goes on."""
    host = engine("native")
    with pytest.raises((TypeError, OverflowError, BufferError, ValueError)):
        call(host)  # type: ignore[operator]
    assert host.drops() == {}


@pytest.mark.parametrize("offsets", [[], [5], [0, 1 << 63], [4, 0], [0, 5, 3]])
def test_offsets_that_do_not_fit(offsets: list[int]) -> None:
    """`Packets` refuses them; the extension behind it takes them for packets without octets."""
    pair = Pair.of("native")
    results = pair.sender._encapsulate_many(  # type: ignore[attr-defined]
        pair.out, 0, np.zeros(4, np.uint8), np.array(offsets, np.uint64), 0
    )
    assert set(results.codes.tolist()) <= {32}
    assert len(results.packets) == max(len(offsets) - 1, 0)


def test_what_it_runs_on() -> None:
    from wesper import _native

    assert _native.version() == __import__("wesper").__version__
    assert _native.providers()[0] == "aws-lc"
    assert all(isinstance(flag, str) for flag in _native.cpu_flags())


def test_timed_loops_run() -> None:
    from wesper import _native

    bench = _native.ProviderBench("aws-lc", "aes-gcm-16", 16, 2, 8, 64)
    assert bench.nanoseconds("seal", 10) > 0
    assert bench.nanoseconds("open", 10) > 0
    with pytest.raises(ValueError, match="neither seal nor open"):
        bench.nanoseconds("both", 1)
    with pytest.raises(ValueError, match="no suite"):
        _native.ProviderBench("aws-lc", "rot13", 16, 2, 8, 64)
    whole = _native.EspBench("aws-lc", "aes-gcm-16", 16, 2, 8, 64)
    assert whole.nanoseconds("seal", 10) > 0
    assert whole.nanoseconds("open", 10) > 0
    looks = _native.LookupBench(1000, 1)
    assert min(looks.install_nanoseconds(), looks.table_nanoseconds(), looks.bare_nanoseconds()) > 0
    table = _native.TableBench(1000, 1)
    assert len(table) == 1000
    assert table.heap_octets() >= 64_000
    assert _native.expand_nanoseconds("aws-lc", "aes-gcm-16", 16, 10) > 0
