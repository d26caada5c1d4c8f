"""Replay rules: Falcon's time window and an exact bitmap, in both engines alike; and a device that asks them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper import psp
from wesper.engine import Packets
from wesper.errors import ConfigError
from wesper.psp import Guard, Replay
from wesper.psp.guard import ReferenceGuard, open_guard
from wesper.verdict import Dropped, DropReason

from .packets import udp

SECOND = 1_000_000_000
ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]


@pytest.fixture(params=ENGINES)
def guard(request: pytest.FixtureRequest) -> Guard:
    return open_guard(request.param, 100)


def test_who_is_not_watched_is_not_looked_at(guard: Guard) -> None:
    assert all(guard.accept(7, 5) for _ in range(3))
    assert guard.state(7) is None


def test_time_window_takes_what_is_not_older_than_the_margin(guard: Guard) -> None:
    guard.watch(7, Replay.TIME_WINDOW, margin_ns=SECOND)
    now = 1_700_000_000 * SECOND
    assert guard.accept(7, now)
    assert guard.accept(7, now - SECOND)  # the margin is in
    assert not guard.accept(7, now - SECOND - 1)
    assert guard.accept(7, now)  # a copy inside the window passes: that is Falcon's rule
    assert guard.accept(7, now + 5 * SECOND)
    assert not guard.accept(7, now)
    assert guard.state(7) == psp.GuardState(Replay.TIME_WINDOW, now + 5 * SECOND, 4, 2)


def test_time_window_goes_around_with_the_clock(guard: Guard) -> None:
    guard.watch(7, Replay.TIME_WINDOW, margin_ns=SECOND, newest=(1 << 64) - 5)
    assert guard.accept(7, 3)
    assert guard.accept(7, (1 << 64) - 5)
    assert not guard.accept(7, (1 << 64) - 2 * SECOND)


def test_exact_takes_each_iv_once(guard: Guard) -> None:
    guard.watch(7, Replay.EXACT, window=64)
    assert [guard.accept(7, iv) for iv in (1, 2, 2, 70, 6, 7, 69, 70, 0)] == [
        True, True, False, True, False, True, True, False, False,
    ]  # fmt: skip
    assert guard.state(7) == psp.GuardState(Replay.EXACT, 70, 5, 4)


def test_rules_can_change_and_go(guard: Guard) -> None:
    guard.watch(7, Replay.EXACT)
    assert guard.accept(7, 1)
    assert not guard.accept(7, 1)
    guard.watch(7, Replay.EXACT)  # a new beginning
    assert guard.accept(7, 1)
    guard.watch(7, Replay.NONE)
    assert len(guard) == 0
    guard.watch(7, Replay.EXACT)
    guard.watch(0x80000007, Replay.EXACT)
    guard.forget_slot(0)
    assert guard.state(7) is None
    assert guard.state(0x80000007) is not None


def test_memory_is_bounded_and_settings_are_checked(guard: Guard) -> None:
    for spi in range(1, 101):
        guard.watch(spi, Replay.TIME_WINDOW)
    with pytest.raises(ConfigError, match="100 associations are watched"):
        guard.watch(101, Replay.EXACT)
    for bad in ({"window": 33}, {"window": 1 << 21}, {"margin_ns": 0}, {"margin_ns": 1 << 63}, {"newest": -1}):
        with pytest.raises(ConfigError):
            guard.watch(1, Replay.EXACT, **bad)
    with pytest.raises(ConfigError, match="SPI"):
        guard.watch(0x80000000, Replay.EXACT)


@pytest.mark.needs_native
@given(st.data())
def test_both_engines_answer_alike(data: st.DataObject) -> None:
    guards = [open_guard(name) for name in ("reference", "native")]
    base = data.draw(st.sampled_from([0, 1000, 1 << 63, (1 << 64) - 50]))
    for spi in (1, 2):
        rule = data.draw(st.sampled_from([Replay.TIME_WINDOW, Replay.EXACT]))
        for each in guards:
            each.watch(spi, rule, margin_ns=40, window=32, newest=base)
    steps = data.draw(st.lists(st.tuples(st.integers(1, 3), st.integers(-100, 200)), max_size=60))
    spis = np.array([spi for spi, _ in steps], np.uint32)
    ivs = np.array([(base + step) % (1 << 64) for _, step in steps], np.uint64)
    codes = np.array(
        data.draw(st.lists(st.sampled_from([0, 75, 76]), min_size=len(steps), max_size=len(steps))), np.uint8
    )
    first, second = (each.accept_many(spis, ivs, codes) for each in guards)
    assert first.tolist() == second.tolist()
    for spi in (1, 2):
        assert guards[0].state(spi) == guards[1].state(spi)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_device_drops_what_its_guard_refuses(engine: str) -> None:
    receiver, sender = psp.Device(engine=engine), psp.Device(engine=engine, ivs="counter")
    guarded, free = receiver.allocate(), receiver.allocate()
    receiver.guard.watch(guarded.spi, Replay.EXACT)
    packets = [
        sender.encapsulate(psp.Profile(), udp(), association.spi, association.key) for association in (guarded, free)
    ]
    assert all(isinstance(packet, bytes) for packet in packets)
    for _ in range(2):
        assert isinstance(receiver.decapsulate(packets[1]), psp.Opened)  # type: ignore[arg-type]
    assert isinstance(receiver.decapsulate(packets[0]), psp.Opened)  # type: ignore[arg-type]
    assert receiver.decapsulate(packets[0]) == Dropped(DropReason.PSP_REPLAY)  # type: ignore[arg-type]
    batch = receiver.decapsulate_many(Packets.of([*packets, *packets]))  # type: ignore[list-item]
    replay = DropReason.PSP_REPLAY.code
    assert batch.codes.tolist() == [replay, 0, replay, 0]
    assert [len(packet) for packet in batch.packets] == [0, len(udp()), 0, len(udp())]
    assert receiver.counters()["rx_replay"] == 3
    assert receiver.counters()["rx_packets"] == 8  # they were authentic
    receiver.rotate()
    receiver.rotate()
    assert len(receiver.guard) == 0  # the SPI will be another association's


def test_forged_packets_move_nothing() -> None:
    receiver, sender = psp.Device(engine="reference"), psp.Device(engine="reference")
    association = receiver.allocate()
    receiver.guard.watch(association.spi, Replay.TIME_WINDOW)
    packet = sender.encapsulate(psp.Profile(), udp(), association.spi, association.key)
    assert isinstance(packet, bytes)
    forged = bytearray(packet)
    forged[36] ^= 0x40  # the IV's first octet: far ahead
    assert receiver.decapsulate(bytes(forged)) == Dropped(DropReason.PSP_AUTH)
    state = receiver.guard.state(association.spi)
    assert state is not None
    assert (state.newest, state.replayed) == (0, 0)
    assert isinstance(receiver.decapsulate(packet), psp.Opened)


def test_a_guard_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError):
        ReferenceGuard(0)
