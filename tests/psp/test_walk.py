"""The stages of a PSP packet's walk: every reason has its place, and the engines ask in that order."""

from __future__ import annotations

from collections import Counter

import pytest

from wesper import psp
from wesper.psp.walk import INBOUND, OUTBOUND, look, walk
from wesper.sa import Direction
from wesper.verdict import PSP_REASONS, Dropped, DropReason

from .conftest import open_with_keys
from .packets import udp

PROFILE = psp.Profile(crypt_offset_words=1, checksum=True)
AT = 28  # where the PSP header begins in these packets


def test_every_reason_ends_a_walk_at_one_stage() -> None:
    ends = Counter(reason for stage in (*INBOUND, *OUTBOUND) for reason in stage.ends)
    assert ends == dict.fromkeys([*PSP_REASONS, DropReason.NOT_FOR_US], 1)
    for stages in (INBOUND, OUTBOUND):
        assert len({stage.name for stage in stages}) == len(stages)


def changed(packet: bytes, at: int, octets: bytes) -> bytes:
    return packet[:at] + octets + packet[at + len(octets) :]


FAULTS = {
    DropReason.PSP_BAD_IP: lambda packet: changed(packet, 2, b"\xff\xff"),
    DropReason.NOT_FOR_US: lambda packet: changed(packet, 22, b"\0\7"),
    DropReason.PSP_FRAGMENT: lambda packet: changed(packet, 6, b"\x20\0"),
    DropReason.PSP_BAD_UDP: lambda packet: changed(packet, 24, b"\0\x20"),
    DropReason.PSP_VERSION: lambda packet: changed(changed(packet, AT + 3, b"\x15"), 26, b"\0\0"),
    DropReason.PSP_SPI: lambda packet: changed(changed(packet, AT + 4, bytes(4)), 26, b"\0\0"),
    DropReason.PSP_AUTH: lambda packet: changed(changed(packet, len(packet) - 1, b"?"), 26, b"\0\0"),
}
IN_ORDER = list(FAULTS)


@pytest.mark.parametrize("first", range(len(IN_ORDER)))
def test_of_two_faults_the_engine_names_that_of_the_earlier_stage(engine_name: str, first: int) -> None:
    places = [next(i for i, stage in enumerate(INBOUND) if reason in stage.ends) for reason in IN_ORDER]
    assert places == sorted(places)
    engine = open_with_keys(engine_name)
    sent = engine.encapsulate(PROFILE, udp(4, b"payload"), 1, engine.derive_key(1, 0), 7)
    assert isinstance(sent, bytes)
    for later in (None, *IN_ORDER[first + 1 :]):
        packet = FAULTS[IN_ORDER[first]](sent if later is None else FAULTS[later](sent))
        verdict = engine.decapsulate(packet)
        assert isinstance(verdict, Dropped)
        assert verdict.reason is IN_ORDER[first]
        steps = walk(Direction.IN, verdict.reason, look(Direction.IN, packet))
        ended = [step.stage.name for step in steps if step.outcome == "dropped"]
        assert ended == [INBOUND[places[first]].name]
        assert {step.outcome for step in steps[places[first] + 1 :]} == {"skipped"}


def test_what_a_packet_shows(engine_name: str) -> None:
    engine = open_with_keys(engine_name)
    sent = engine.encapsulate(PROFILE, udp(6, b"payload"), 0x80000001, engine.derive_key(0x80000001, 0), 7)
    assert isinstance(sent, bytes)
    found = look(Direction.IN, sent)
    assert found["header"] == "AES-128-GCM, Next Header UDP, Crypt Offset 4 octets"
    assert found["key"] == "SPI 0x80000001, which is device key 1's; IV 0x0000000000000007"
    assert found["demultiplex"].endswith("to port 1000")
    for octets in range(len(sent)):
        assert isinstance(look(Direction.IN, sent[:octets]), dict)
