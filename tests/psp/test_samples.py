"""Packets with the S bit leave records: when, by which way, how long under way."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from wesper import psp
from wesper.engine import Packets
from wesper.psp.clock import Clock
from wesper.psp.samples import PLAUSIBLE_NS, Samples
from wesper.verdict import DropReason

from .packets import HOSTS, udp

ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]
PROFILE = psp.Profile(sample=True, cookie=bytes(7) + b"\x2a")


class Time:
    """A clock that says what it is told."""

    def __init__(self, now: int) -> None:
        self.now = now

    def clock(self) -> Clock:
        return Clock("test", lambda: self.now)


def devices(engine: str, late: int = 250_000) -> tuple[psp.Device, psp.Device, Time, Time]:
    """Return a receiver whose clock is so much ahead of the sender's."""
    here, there = Time(1_700_000_000_000_000_000 + late), Time(1_700_000_000_000_000_000)
    return psp.Device(engine=engine, clock=here.clock()), psp.Device(engine=engine, clock=there.clock()), here, there


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("version", [4, 6])
def test_a_record_says_when_where_and_how_late(engine: str, version: int) -> None:
    receiver, sender, _, _ = devices(engine)
    association = receiver.allocate(1)
    packet = udp(version)
    made = sender.encapsulate(replace(PROFILE, version=1), packet, association.spi, association.key)
    assert isinstance(made, bytes)
    opened = receiver.decapsulate(made)
    assert isinstance(opened, psp.Opened)
    assert opened.packet == packet
    sample = receiver.samples.newest()[0]
    source, destination = HOSTS[version]
    assert (sample.source, sample.destination) == (source, destination)
    at = 20 if version == 4 else 40
    assert sample.source_port == int.from_bytes(made[at : at + 2], "big")
    assert (sample.destination_port, sample.octets, sample.spi, sample.version) == (1000, len(made), association.spi, 1)
    assert (sample.cookie, sample.dropped, sample.latency_ns) == (42, False, 250_000)
    assert sample.iv == 1_700_000_000_000_000_000
    assert sample.as_json()["cookie"] == "000000000000002a"


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_to_be_thrown_away_is_sampled_first(engine: str) -> None:
    receiver, sender, _, _ = devices(engine)
    association = receiver.allocate()
    profile = psp.Profile(sample=True, drop=True)
    made = [sender.encapsulate(profile, udp(), association.spi, association.key) for _ in range(3)]
    assert isinstance(receiver.decapsulate(made[0]), psp.SampledDrop)  # type: ignore[arg-type]
    batch = receiver.decapsulate_many(Packets.of(made[1:]))  # type: ignore[arg-type]
    assert batch.codes.tolist() == [DropReason.PSP_SAMPLED.code] * 2
    assert [sample.dropped for sample in receiver.samples.newest()] == [True] * 3
    assert [sample.cookie for sample in receiver.samples.newest()] == [None] * 3
    assert receiver.counters()["rx_sampled"] == 3


@pytest.mark.parametrize("engine", ENGINES)
def test_batches_leave_the_same_records(engine: str) -> None:
    receiver, sender, _, _ = devices(engine)
    association = receiver.allocate()
    plain = sender.encapsulate(psp.Profile(), udp(), association.spi, association.key)
    sampled = sender.encapsulate(PROFILE, udp(), association.spi, association.key)
    receiver.decapsulate_many(Packets.of([plain, sampled, plain]))  # type: ignore[list-item]
    receiver.decapsulate(sampled)  # type: ignore[arg-type]
    one, two = receiver.samples.newest()
    assert replace(one, time_ns=0) == replace(two, time_ns=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_forged_packets_leave_none(engine: str) -> None:
    receiver, sender, _, _ = devices(engine)
    association = receiver.allocate()
    plain = sender.encapsulate(psp.Profile(), udp(), association.spi, association.key)
    assert isinstance(plain, bytes)
    forged = bytearray(plain)
    forged[31] |= 0x80  # S, set on the way
    receiver.decapsulate(bytes(forged))
    receiver.decapsulate_many(Packets.of([bytes(forged)]))
    assert receiver.samples.seen == 0


def test_an_iv_that_is_no_time_has_no_latency() -> None:
    receiver, _, _, _ = devices("reference")
    sender = psp.Device(engine="reference", ivs="counter")
    association = receiver.allocate()
    receiver.decapsulate(sender.encapsulate(PROFILE, udp(), association.spi, association.key))  # type: ignore[arg-type]
    assert receiver.samples.newest()[0].latency_ns is None
    late = Time(PLAUSIBLE_NS + 5)
    samples = Samples(clock=late.clock())
    samples.note(carried(), 1, 0, 0, None, dropped=False)
    samples.note(carried(), 1, 6, 0, None, dropped=False)
    samples.note(carried(), 1, PLAUSIBLE_NS + 25, 0, None, dropped=False)  # clocks a little apart
    assert [each.latency_ns for each in samples.newest()] == [None, PLAUSIBLE_NS - 1, -20]


def test_the_newest_stay() -> None:
    samples = Samples(3, clock=Time(0).clock(), wall=iter(range(100)).__next__)
    for number in range(10):
        samples.note(carried(), 1, number, 0, None, dropped=False)
    assert [sample.time_ns for sample in samples.newest()] == [7, 8, 9]
    assert [sample.time_ns for sample in samples.newest(2)] == [8, 9]
    shown = samples.as_json(1)
    assert (shown["seen"], len(shown["newest"])) == (10, 1)
    samples.note(b"no packet", 1, 0, 0, None, dropped=False)
    assert samples.seen == 10


def test_a_clock_that_can_not_be_read_is_no_clock() -> None:
    def broken() -> int:
        raise OSError

    samples = Samples(clock=Clock("broken", broken))
    samples.note(carried(), 1, 5, 0, None, dropped=False)
    assert samples.newest()[0].latency_ns is None


def carried() -> bytes:
    """Return a packet of UDP to port 1000."""
    sender = psp.Device(engine="reference")
    made = sender.encapsulate(psp.Profile(), udp(), 1, bytes(16))
    assert isinstance(made, bytes)
    assert ip_address(made[12:16]) == HOSTS[4][0]
    return made
