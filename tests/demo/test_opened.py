from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from wesper import psp
from wesper.demo.opened import open_capture_with
from wesper.demo.traffic import MARKER
from wesper.demo.wire import packets
from wesper.engine import open_engine
from wesper.keying import PSPAssociation, PSPKeys, StaticSA
from wesper.pcap import Interface, LinkType, create_capture
from wesper.protocols.ip import checksum
from wesper.sa import (
    SA,
    AddressRange,
    Direction,
    EESPFormat,
    FlowKind,
    FlowPolicy,
    Mode,
    Outer,
    Profile,
    UDPEncapsulation,
    WESPv2Format,
)
from wesper.vectors.ip_packets import ip_packet
from wesper.verdict import Delivered, DropReason
from wesper.wire.numbers import UDP

HERE, THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")
KEYS = StaticSA(
    "aes-gcm-16", 0x1000, bytes(range(16)), b"salt", name="office", direction=Direction.OUT,
    local=AddressRange.parse("192.0.2.1"), remote=AddressRange.parse("192.0.2.2"), encapsulation=UDPEncapsulation(),
)  # fmt: skip


def inner(payload: bytes, protocol: int = 0xFD) -> bytes:
    head = b"\x45\0" + (20 + len(payload)).to_bytes(2, "big") + b"\0\0\0\0\x40" + bytes([protocol])
    ends = ip_address("10.0.0.1").packed + ip_address("10.0.0.2").packed
    return head + checksum(head + b"\0\0" + ends).to_bytes(2, "big") + ends + payload


@pytest.fixture
def wire(tmp_path: Path) -> Path:
    """Return a capture of three packets of the tunnel, two of them with the marker, and one that is not of it."""
    engine = open_engine("reference")
    profile = Profile("aes-gcm-16", outer=Outer(HERE, THERE), encapsulation=UDPEncapsulation())
    sa = engine.install(SA(profile, Direction.OUT, KEYS.spi or 0, KEYS.key, KEYS.salt))
    path = tmp_path / "wire.pcapng"
    with create_capture(path) as writer:
        writer.add_interface(Interface(LinkType.ETHERNET))
        for payload in (MARKER * 3, MARKER * 3, bytes(10)):
            verdict = engine.encapsulate(sa, inner(payload), 0)
            assert isinstance(verdict, Delivered)
            writer.write(bytes(12) + b"\x08\0" + verdict.packet, 0, interface=0)
        writer.write(bytes(12) + b"\x08\0" + inner(b"not of the tunnel"), 0, interface=0)
    return path


@pytest.mark.parametrize("engine", ["reference", pytest.param("native", marks=pytest.mark.needs_native)])
def test_everything_of_the_tunnel_is_opened(wire: Path, tmp_path: Path, engine: str) -> None:
    found = open_capture_with([KEYS], wire, tmp_path / "opened.pcapng", MARKER, engine=engine)
    assert (found.opened, found.marked, found.dropped) == (3, 2, Counter())
    assert list(packets(tmp_path / "opened.pcapng")) == [inner(MARKER * 3)] * 2 + [inner(bytes(10))]
    assert [(each.inner, each.packets) for each in found.growth] == [(30, 1), (20 + 3 * len(MARKER), 2)]
    assert list(found.flows.values()) == [{""}], "both packets are of one flow, and nothing names it"


def test_with_other_keys_nothing_opens(wire: Path, tmp_path: Path) -> None:
    wrong = replace(KEYS, key=bytes(16))
    found = open_capture_with([wrong], wire, tmp_path / "opened.pcapng", MARKER)
    assert (found.opened, found.dropped) == (0, Counter({DropReason.AUTH: 3}))


@pytest.mark.parametrize("engine", ["reference", pytest.param("native", marks=pytest.mark.needs_native)])
def test_psp_is_opened_too(tmp_path: Path, engine: str) -> None:
    cookie = bytes(8)
    profile = psp.Profile(Mode.TUNNEL, cookie=cookie, outer=Outer(HERE, THERE))
    sender = psp.open_engine("reference")
    path = tmp_path / "wire.pcapng"
    with create_capture(path) as writer:
        writer.add_interface(Interface(LinkType.ETHERNET))
        for iv, payload in enumerate((MARKER * 3, bytes(10)), 1):
            made = sender.encapsulate(profile, inner(payload), 0x1000, bytes(16), iv)
            assert isinstance(made, bytes)
            writer.write(bytes(12) + b"\x08\0" + made, 0, interface=0)
        dummy = ip_packet(HERE, THERE, bytes(8), protocol=59)
        made = sender.encapsulate(psp.Profile(), dummy, 0x1000, bytes(16), 3)
        assert isinstance(made, bytes)
        writer.write(bytes(12) + b"\x08\0" + made, 0, interface=0)
    keys = PSPKeys([PSPAssociation(profile, 0x1000, bytes(16))])
    found = open_capture_with(keys, path, tmp_path / "opened.pcapng", MARKER, engine=engine)
    assert (found.opened, found.dummies, found.marked, found.dropped) == (2, 1, 1, Counter())
    assert list(packets(tmp_path / "opened.pcapng")) == [inner(MARKER * 3), inner(bytes(10))]
    for each in found.growth:
        assert (each.ip, each.udp, each.header, each.iv, each.trailer, each.icv) == (20, 8, 16, 8, 0, 16)
        assert each.inner + 20 + 8 + 16 + 8 + 16 == each.outer


FORMATS = {
    "wesp": None,
    "wespv2": WESPv2Format(flow_identifier=FlowPolicy(FlowKind.FIVE_TUPLE)),
    "eesp": EESPFormat(session=FlowPolicy(FlowKind.FIVE_TUPLE)),
}


@pytest.mark.parametrize(("protocol", "header"), [("wesp", 4 + 12), ("wespv2", 4 + 24), ("eesp", 16)])
@pytest.mark.parametrize("engine", ["reference", pytest.param("native", marks=pytest.mark.needs_native)])
def test_flows_are_told_with_the_names_that_headers_give_them(
    tmp_path: Path, engine: str, protocol: str, header: int
) -> None:
    settings = {"encapsulation": UDPEncapsulation(), "protocol": protocol, "format": FORMATS[protocol]}
    sender = open_engine("reference")
    profile = Profile("aes-gcm-16", outer=Outer(HERE, THERE), **settings)
    sa = sender.install(SA(profile, Direction.OUT, KEYS.spi or 0, KEYS.key, KEYS.salt))
    path = tmp_path / "wire.pcapng"
    with create_capture(path) as writer:
        writer.add_interface(Interface(LinkType.ETHERNET))
        for port in (1000, 1001, 1000):
            datagram = port.to_bytes(2, "big") + b"\x13\x89\0\x14\0\0" + MARKER[:12]
            verdict = sender.encapsulate(sa, inner(datagram, UDP), 0)
            assert isinstance(verdict, Delivered)
            writer.write(bytes(12) + b"\x08\0" + verdict.packet, 0, interface=0)
    found = open_capture_with([replace(KEYS, **settings)], path, tmp_path / "opened.pcapng", MARKER, engine=engine)
    assert found.opened == 3
    assert [len(names) for names in found.flows.values()] == [1, 1]
    assert len(set.union(*found.flows.values())) == (1 if protocol == "wesp" else 2)
    for each in found.growth:
        assert each.header == header
        assert each.inner + each.ip + each.udp + each.header + each.iv + each.trailer + each.icv == each.outer
