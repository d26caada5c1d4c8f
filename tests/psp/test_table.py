"""Transmit associations in a table, on both engines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wesper import psp
from wesper.engine import Packets
from wesper.errors import ConfigError
from wesper.psp.table import SECOND
from wesper.verdict import Dropped, DropReason

from .packets import udp

CLOCK = psp.Clock("test", lambda: 1_800_000_000_000_000_000)
PROFILES = (psp.Profile(), psp.Profile(version=1), psp.Profile(version=3, cookie=bytes(8)))


def device(engine_name: str, ivs: str = "clock") -> psp.Device:
    options = psp.Options(hash_key=bytes(16))
    return psp.Device(engine=engine_name, options=options, ivs=ivs, clock=CLOCK, random=lambda octets: bytes(octets))


def table(engine_name: str, **settings: object) -> tuple[psp.TransmitTable, psp.Device]:
    """Return a table and the device that opens what it sends."""
    receiver = device(engine_name)
    ivs = "counter" if settings.get("own_counters") else "clock"
    return psp.TransmitTable(device(engine_name, ivs), PROFILES, **settings), receiver  # type: ignore[arg-type]


def install(subject: psp.TransmitTable, receiver: psp.Device, profile: int = 0, now: int = 0) -> int:
    association = receiver.allocate(PROFILES[profile].version)
    return subject.install(association.spi, association.key, now, profile=profile)


def events(subject: psp.TransmitTable) -> list[tuple[str, int, str]]:
    return [(event.kind.value, event.id, event.limit) for event in iter(subject.next_event, None)]


def test_packets_of_all_profiles_arrive(engine_name: str) -> None:
    subject, receiver = table(engine_name)
    ids = [install(subject, receiver, profile) for profile in (0, 1, 2, 0)]
    assert ids == [0, 1, 2, 3]
    sent = subject.encapsulate_many(np.array([3, 2, 1, 0, 2], np.uint64), Packets.of([udp()] * 5))
    got = receiver.decapsulate_many(sent.packets)
    assert not got.codes.any()
    assert got.spis.tolist() == [4, 3, 2, 1, 3]
    assert got.versions.tolist() == [0, 3, 1, 0, 3]
    assert subject.state(2).packets == 2
    assert (len(subject), repr(subject)) == (4, "<PSP transmit table, 4 associations>")


def test_one_packet(engine_name: str) -> None:
    subject, receiver = table(engine_name)
    sent = subject.encapsulate(install(subject, receiver), udp())
    assert isinstance(sent, bytes)
    assert isinstance(receiver.decapsulate(sent), psp.Opened)
    assert subject.encapsulate(0, b"no packet") == Dropped(DropReason.PSP_OUT_BAD_PACKET)
    state = subject.state(0)
    assert (state.spi, state.packets, state.octets, state.iv) == (1, 1, 15, CLOCK.now())


def test_limits_are_told_once_and_end_the_association(engine_name: str) -> None:
    subject, receiver = table(engine_name, hard=psp.Limits(packets=5, seconds=100))
    busy, idle = install(subject, receiver), install(subject, receiver)
    codes = subject.encapsulate_many(busy, Packets.of([udp()] * 7)).codes.tolist()
    assert codes == [0] * 5 + [DropReason.PSP_OUT_EXPIRED.code] * 2
    assert events(subject) == [("soft_expired", busy, "packets"), ("hard_expired", busy, "packets")]
    assert isinstance(subject.encapsulate(idle, udp(), 79 * SECOND), bytes)
    assert isinstance(subject.encapsulate(idle, udp(), 80 * SECOND), bytes)
    assert events(subject) == [("soft_expired", idle, "seconds")]
    assert subject.encapsulate(idle, udp(), 100 * SECOND) == Dropped(DropReason.PSP_OUT_EXPIRED)
    association = receiver.allocate()
    subject.replace(idle, association.spi, association.key, 100 * SECOND)
    sent = subject.encapsulate(idle, udp(), 101 * SECOND)
    assert isinstance(sent, bytes)
    opened = receiver.decapsulate(sent)
    assert isinstance(opened, psp.Opened)
    assert opened.spi == association.spi
    assert events(subject) == [("hard_expired", idle, "seconds")]


def test_octets_are_those_of_the_kernels_counter(engine_name: str) -> None:
    subject, receiver = table(engine_name, hard=psp.Limits(octets=40), soft=psp.Limits())
    id = install(subject, receiver)
    for _ in range(3):  # 15 octets of UDP each
        assert isinstance(subject.encapsulate(id, udp()), bytes)
    assert subject.state(id).octets == 45
    assert subject.encapsulate(id, udp()) == Dropped(DropReason.PSP_OUT_EXPIRED)
    assert events(subject) == [("hard_expired", id, "octets")]


def test_own_counters_are_dense_and_new_after_a_restart(engine_name: str) -> None:
    marks = psp.MemoryMarks()
    receiver = device(engine_name)
    association = receiver.allocate()
    seen: list[int] = []
    for _ in range(3):
        sender = psp.Device(engine=engine_name, ivs="counter", marks=marks)
        subject = psp.TransmitTable(sender, PROFILES, own_counters=True)
        id = subject.install(association.spi, association.key)
        other = install(subject, receiver)
        for count in (3, 4):
            sent = subject.encapsulate_many(id, Packets.of([udp()] * count))
            ivs = receiver.decapsulate_many(sent.packets).ivs.tolist()
            assert np.all(np.diff(ivs) == 1)
            seen += ivs
        assert isinstance(subject.encapsulate(other, udp()), bytes)
        subject.remove(id)
        again = subject.install(association.spi, association.key)
        sent = subject.encapsulate_many(again, Packets.of([udp()] * 2))
        seen += receiver.decapsulate_many(sent.packets).ivs.tolist()
    assert len(set(seen)) == len(seen) == 27
    assert seen[:7] == list(range(1, 8))


def test_own_counters_want_a_counter(engine_name: str) -> None:
    with pytest.raises(ConfigError, match="own_counters"):
        psp.TransmitTable(device(engine_name), PROFILES, own_counters=True)


def test_what_is_not_there_is_told(engine_name: str) -> None:
    subject, receiver = table(engine_name)
    id = install(subject, receiver)
    subject.remove(id)
    for wrong in (id, id + 1, -1, 1 << 64):
        with pytest.raises(ConfigError, match="id"):
            subject.remove(wrong)
        with pytest.raises(ConfigError, match="id"):
            subject.state(wrong)
        with pytest.raises(ConfigError, match="id"):
            subject.replace(wrong, 1, bytes(16))
        assert subject.encapsulate(wrong, udp()) == Dropped(DropReason.PSP_OUT_NO_KEY)
    assert len(subject) == 0
    assert install(subject, receiver) == id  # the number is free again
    for spi, key, profile, what in (
        (0x80000000, bytes(16), 0, "spi"),
        (1, bytes(32), 0, "key"),
        (1, bytes(16), 1, "key"),
        (1, bytes(16), 3, "profile"),
    ):
        with pytest.raises(ConfigError, match=what):
            subject.install(spi, key, profile=profile)
    with pytest.raises(ConfigError, match="keys"):
        subject.install_many(np.array([1, 2], np.uint32), np.zeros((1, 16), np.uint8))
    with pytest.raises(ConfigError, match="spi"):
        subject.install_many(np.array([1, 0], np.uint32), np.zeros((2, 16), np.uint8))
    with pytest.raises(ConfigError, match="ids"):
        subject.encapsulate_many(np.array([1], np.uint64), Packets.of([udp()] * 2))
    with pytest.raises(ConfigError, match="packets"):
        psp.Limits(packets=0)
    with pytest.raises(ConfigError, match="profiles"):
        psp.TransmitTable(device(engine_name), ())


@pytest.mark.needs_native
def test_a_row_has_64_octets() -> None:
    """As the issue of scale wants it: 10 million associations in 640 MiB."""
    subject, receiver = table("native")
    spis, keys = receiver.allocate_many(100_000)
    ids = subject.install_many(spis, keys)
    assert ids.tolist() == list(range(100_000))
    assert subject._rows._table.octets <= 64 * (100_000 + 4096)  # type: ignore[attr-defined]


@pytest.mark.needs_native
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(("install", "send", "send", "send", "replace", "remove")),
            st.integers(0, 4),
            st.integers(1, 4),
            st.integers(0, 50),
        ),
        max_size=30,
    ),
    own_counters=st.booleans(),
)
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_both_engines_keep_the_same_table(steps: list[tuple[str, int, int, int]], own_counters: bool) -> None:
    hard = psp.Limits(packets=6, octets=100, seconds=60)
    both = [table(name, hard=hard, own_counters=own_counters) for name in ("reference", "native")]
    now = 0
    for step, id, count, pause in steps:
        now += pause * SECOND
        outcomes: list[object] = []
        for subject, receiver in both:
            outcome: object = None
            if step == "install":
                outcome = install(subject, receiver, id % 3, now)
            elif step == "send":
                sent = subject.encapsulate_many(id, Packets.of([udp()] * count), now)
                outcome = [sent.codes.tolist(), list(sent.packets)]
            else:
                association = receiver.allocate(0)
                try:
                    if step == "replace":
                        subject.replace(id, association.spi, association.key, now)
                    else:
                        subject.remove(id)
                except ConfigError as error:
                    outcome = str(error)
            try:
                state: object = subject.state(id)
            except ConfigError as error:
                state = str(error)
            counters = subject._device.engine.counters()
            outcomes.append((outcome, state, events(subject), len(subject), counters))
        assert outcomes[0] == outcomes[1], step
