"""The stages of a packet's walk: every reason has its place, and the engines ask in that order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address

import pytest

from wesper.engine import open_engine
from wesper.engine.walk import INBOUND, OUTBOUND, as_json, look, walk
from wesper.sa import SA, Direction, Lifetime, Outer, Profile
from wesper.verdict import PSP_REASONS, Delivered, Dropped, DropReason

HERE, THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")
ECHO = bytes.fromhex("4500001c0000400040016ba90a0000010a00000208004f5600013005")
OUT = Profile("aes-gcm-16", outer=Outer(local=HERE, remote=THERE))
IN = Profile("aes-gcm-16", outer=Outer(local=THERE, remote=HERE))
KEYS = {"spi": 0x1000, "key": bytes(range(16)), "salt": b"salt"}


def test_every_reason_ends_a_walk_at_one_stage() -> None:
    ends = Counter(reason for stage in (*INBOUND, *OUTBOUND) for reason in stage.ends)
    assert ends == dict.fromkeys((reason for reason in DropReason if reason not in PSP_REASONS), 1)
    for stages in (INBOUND, OUTBOUND):
        assert len({stage.name for stage in stages}) == len(stages)


def sealed(engine_name: str, packet: bytes = ECHO) -> bytes:
    sender = open_engine(engine_name)
    verdict = sender.encapsulate(sender.install(SA(OUT, Direction.OUT, **KEYS)), packet, 0)
    assert isinstance(verdict, Delivered)
    return verdict.packet


def stage_of(reason: DropReason) -> int:
    return next(place for place, stage in enumerate(INBOUND) if reason in stage.ends)


FAULTS = {
    DropReason.BAD_IP: lambda packet: packet[:2] + b"\xff\xff" + packet[4:],
    DropReason.NOT_FOR_US: lambda packet: packet[:9] + b"\x06" + packet[10:],
    DropReason.FRAGMENT: lambda packet: packet[:6] + b"\x20\x00" + packet[8:],
    DropReason.NO_SA: lambda packet: packet[:20] + b"\xff" + packet[21:],
    DropReason.AUTH: lambda packet: packet[:-1] + bytes([packet[-1] ^ 1]),
}
IN_ORDER = list(FAULTS)


@pytest.mark.parametrize("first", range(len(IN_ORDER)))
def test_of_two_faults_the_engine_names_that_of_the_earlier_stage(engine_name: str, first: int) -> None:
    assert stage_of(IN_ORDER[first]) == sorted(map(stage_of, IN_ORDER))[first]
    for later in (None, *IN_ORDER[first + 1 :]):
        receiver = open_engine(engine_name)
        receiver.install(SA(IN, Direction.IN, **KEYS))
        packet = sealed(engine_name) if later is None else FAULTS[later](sealed(engine_name))
        packet = FAULTS[IN_ORDER[first]](packet)
        verdict = receiver.decapsulate(packet, 0)
        assert isinstance(verdict, Dropped)
        assert verdict.reason is IN_ORDER[first]


def test_the_window_is_asked_before_the_icv_and_the_lifetime_before_the_window(engine_name: str) -> None:
    packet = sealed(engine_name)
    forged = packet[:-1] + bytes([packet[-1] ^ 1])
    receiver = open_engine(engine_name)
    receiver.install(SA(replace(IN, hard=Lifetime(seconds=1)), Direction.IN, **KEYS))
    assert isinstance(receiver.decapsulate(packet, 0), Delivered)
    late = receiver.decapsulate(forged, 0), receiver.decapsulate(packet, 2_000_000_000)
    assert [each.reason for each in late if isinstance(each, Dropped)] == [DropReason.REPLAY, DropReason.EXPIRED]
    assert stage_of(DropReason.EXPIRED) < stage_of(DropReason.REPLAY) < stage_of(DropReason.AUTH)


def test_walk_of_a_dropped_packet_ends_where_the_reason_belongs() -> None:
    steps = walk(Direction.IN, DropReason.REPLAY, {"sa": "office"})
    outcomes = {step.stage.name: step.outcome for step in steps}
    assert outcomes["ip"] == outcomes["sa"] == outcomes["length"] == "passed"
    assert outcomes["replay"] == "dropped"
    assert outcomes["icv"] == outcomes["selectors"] == outcomes["policy"] == "skipped"
    told = {step.stage.name: step.text for step in steps}
    assert told["sa"] == "office"
    assert told["replay"] == f"{DropReason.REPLAY.sentence}, counted as XfrmInStateSeqError"


def test_walk_of_what_is_delivered_passes_everything_but_policy() -> None:
    assert [step.outcome for step in walk(Direction.IN, None)] == ["passed"] * (len(INBOUND) - 1) + ["skipped"]
    assert {step.outcome for step in walk(Direction.OUT, None)} == {"passed"}


def test_what_is_not_esp_goes_from_demultiplexing_to_policy() -> None:
    for steps in (walk(Direction.IN, DropReason.IN_NO_POLICY), walk(Direction.IN, None, bypassed=True)):
        assert [step.stage.name for step in steps if step.outcome != "skipped"] == ["ip", "demultiplex", "policy"]
    bypassed = walk(Direction.OUT, None, bypassed=True)
    assert [step.stage.name for step in bypassed if step.outcome != "skipped"] == ["ip", "policy"]


def test_look_shows_what_stands_in_the_packet() -> None:
    found = look(Direction.IN, sealed("reference"))
    assert found["ip"].startswith("192.0.2.1 → 192.0.2.2, ESP, ")
    assert found["header"] == "SPI 0x00001000, low half of the sequence number 1"
    assert look(Direction.IN, b"\x45") == {}
    assert look(Direction.OUT, ECHO)["ip"] == "10.0.0.1 → 10.0.0.2, ICMP, 28 octets"


def test_json_says_where_it_ended() -> None:
    found = as_json(Direction.IN, ECHO, walk(Direction.IN, DropReason.AUTH))
    assert (found["direction"], found["octets"], found["dropped_at"]) == ("in", 28, "icv")
    assert [step["stage"] for step in found["steps"]] == [stage.name for stage in INBOUND]
    assert as_json(Direction.OUT, ECHO, walk(Direction.OUT, None))["dropped_at"] is None
