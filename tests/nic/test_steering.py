"""Sockets of one port, chosen by this kernel with the programs that are written from the declarations."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from wesper.errors import ConfigError, UnsupportedError
from wesper.nic import SteeringPlan, attach, flow_plans, program
from wesper.wire.eesp import EESP
from wesper.wire.layouts import LAYOUTS
from wesper.wire.udp import WESP_IDENTIFIER
from wesper.wire.wesp import WESP
from wesper.wire.wespv2 import FlowIdentifierOption, WESPv2

FLOWS = 10_000


@pytest.fixture
def group() -> Iterator[list[socket.socket]]:
    """Two sockets on one port."""
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for _ in range(2):
            one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(("127.0.0.1", sockets[0].getsockname()[1] if sockets else 0))
            one.setblocking(False)
            sockets.append(one)
        yield sockets


def sent(group: list[socket.socket], datagrams: list[bytes]) -> list[int]:
    """Send datagrams; return for each which socket of the group has it."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(group[0].getsockname())
        for datagram in datagrams:
            sender.send(datagram)
            got = []
            for number, one in enumerate(group):
                try:
                    got.append((number, one.recv(2048)))
                except BlockingIOError:
                    continue
            assert [each[1] for each in got] == [datagram]
            found.append(got[0][0])
    return found


def eesp(session: int, spi: int = 0x3000) -> bytes:
    return EESP(session_id=session, spi=spi, sequence_number=bytes(8), iv=bytes(8)).build() + bytes(40)


def wespv2(flow: bytes) -> bytes:
    option = FlowIdentifierOption(length=len(flow), identifier=flow).build()
    option += bytes(-len(option) % 4)
    header = WESPv2(next_header=59, hdrlen=20 + len(option), optlen=len(option), options=option)
    return WESP_IDENTIFIER + header.build() + struct.pack(">II", 0x2000, 1) + bytes(48)


@pytest.mark.parametrize("stride", [1, 7, 256])
def test_sessions_of_one_sa_spread_evenly(group: list[socket.socket], stride: int) -> None:
    attach(group, SteeringPlan.of(LAYOUTS["eesp"], "eesp.session_id"))
    where = sent(group, [eesp(number * stride & 0xFFFF) for number in range(1000)])
    assert max(Counter(where).values()) <= 550


def test_ten_thousand_flows_spread_evenly_and_stay(group: list[socket.socket]) -> None:
    attach(group, SteeringPlan.of(LAYOUTS["wespv2"], "wespv2.flow.identifier"))
    flows = [struct.pack(">Q", number * 0x9E3779B97F4A7C15 & (1 << 64) - 1) for number in range(FLOWS)]
    where = sent(group, [wespv2(flow) for flow in flows])
    assert max(Counter(where).values()) <= 0.55 * FLOWS
    assert sent(group, [wespv2(flow) for flow in flows[:500]]) == where[:500]


@pytest.mark.parametrize("octets", [4, 6, 8])
def test_identifiers_of_every_length_count_by_their_end(group: list[socket.socket], octets: int) -> None:
    attach(group, SteeringPlan.of(LAYOUTS["wespv2"], "wespv2.flow.identifier"))
    where = sent(group, [wespv2(number.to_bytes(octets, "big")) for number in range(400)])
    assert max(Counter(where).values()) <= 220


def test_what_is_no_flow_of_the_protocol_stays_together(group: list[socket.socket]) -> None:
    attach(group, SteeringPlan.of(LAYOUTS["wespv2"], "wespv2.flow.identifier"))
    esp = [struct.pack(">II", 0x1234, number) + bytes(60) for number in range(100)]
    assert len(set(sent(group, esp))) == 1
    unnamed = [WESP_IDENTIFIER + WESPv2(next_header=59, hdrlen=20).build() + bytes(3) + bytes((n,)) for n in range(99)]
    assert len(set(sent(group, unnamed))) == 1
    version_0 = [WESP_IDENTIFIER + bytes(4) + bytes([27, 8]) + n.to_bytes(8, "big") + bytes(40) for n in range(100)]
    assert len(set(sent(group, version_0))) == 1


def test_esp_spreads_by_its_spi(group: list[socket.socket]) -> None:
    attach(group, SteeringPlan.of(LAYOUTS["esp"], "esp.spi"))
    where = sent(group, [struct.pack(">II", 256 + number, 1) + bytes(60) for number in range(1000)])
    assert max(Counter(where).values()) <= 550


@pytest.mark.parametrize("padding", [0, 1])
def test_wesp_spreads_by_the_spi_behind_its_padding(group: list[socket.socket], padding: int) -> None:
    attach(group, SteeringPlan.of(LAYOUTS["wesp"], "esp.spi"))
    head = WESP_IDENTIFIER + WESP(encrypted=1, padding_present=padding, padding=bytes(4 * padding)).build()
    where = sent(group, [head + struct.pack(">II", 256 + number, 1) + bytes(60) for number in range(1000)])
    assert max(Counter(where).values()) <= 550
    assert len(set(sent(group, [head + struct.pack(">II", 256, number) + bytes(60) for number in range(100)]))) == 1


@pytest.mark.parametrize("options", [0, 4, 60])
def test_wespv2_spreads_by_the_spi_behind_its_options(group: list[socket.socket], options: int) -> None:
    attach(group, SteeringPlan.of(LAYOUTS["wespv2"], "esp.spi"))
    head = WESP_IDENTIFIER + WESPv2(next_header=59, hdrlen=20, optlen=options, options=bytes(options)).build()
    where = sent(group, [head + struct.pack(">II", 256 + number, 1) + bytes(60) for number in range(1000)])
    assert max(Counter(where).values()) <= 550
    assert len(set(sent(group, [head + struct.pack(">II", 256, number) + bytes(60) for number in range(100)]))) == 1


def test_short_datagrams_arrive(group: list[socket.socket]) -> None:
    attach(group, SteeringPlan.of(LAYOUTS["eesp"], "eesp.session_id"))
    assert len(sent(group, [b"\xff", b"", b"\x80\0", eesp(1)[:3]])) == 4


def test_only_fields_that_can_be_found_steer() -> None:
    with pytest.raises(UnsupportedError, match="behind options, whose length is in opt_len"):
        SteeringPlan.of(LAYOUTS["eesp"], "eesp.iv")
    with pytest.raises(UnsupportedError, match="32 or, at a fixed place, 64 whole bits"):
        SteeringPlan.of(LAYOUTS["eesp"], "eesp.sequence")
    with pytest.raises(ConfigError, match=r"eesp\.nothing"):
        SteeringPlan.of(LAYOUTS["eesp"], "eesp.nothing")
    with pytest.raises(UnsupportedError, match="whole bits"):
        SteeringPlan.of(LAYOUTS["eesp"], "eesp.ver")
    with pytest.raises(ConfigError, match="sockets"):
        program(SteeringPlan.of(LAYOUTS["psp"], "psp.spi"), 0)


def test_every_jump_lands_in_the_program() -> None:
    for layout, field in (("wespv2", "wespv2.flow.identifier"), ("eesp", "eesp.session_id"), ("psp", "psp.iv")):
        made = program([*flow_plans(), SteeringPlan.of(LAYOUTS[layout], field)], 7)
        for at, (code, true, false, _) in enumerate(made):
            assert code != 0x15 or (at + 1 + true < len(made) and at + 1 + false < len(made))
        assert made[-1][0] == 0x16
