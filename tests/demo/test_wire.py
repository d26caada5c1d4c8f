from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from wesper import psp
from wesper.demo.wire import ARP, KEEPALIVE, LABELS, NEIGHBOURS, Shown, kinds_of, look, read
from wesper.engine import open_engine
from wesper.errors import CaptureError
from wesper.pcap import Interface, LinkType, create_capture
from wesper.sa import (
    SA,
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
from wesper.verdict import Delivered

MAC = bytes(12)
ECHO = bytes.fromhex("4500001c0000400040016ba90a0000010a00000208004f5600013005")
SPI, PORT, PSP_PORT = 0x1000, 4500, 1000


def ethernet(packet: bytes) -> bytes:
    return MAC + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def sealed(around: UDPEncapsulation | None, protocol: str = "esp") -> bytes:
    engine = open_engine("reference")
    outer = Outer(ip_address("192.0.2.1"), ip_address("192.0.2.2"))
    profile = Profile("aes-gcm-16", outer=outer, encapsulation=around, protocol=protocol, format=FORMATS.get(protocol))
    sa = engine.install(SA(profile, Direction.OUT, SPI, bytes(16), b"salt"))
    verdict = engine.encapsulate(sa, ECHO, 0)
    assert isinstance(verdict, Delivered)
    return verdict.packet


def ipv4(protocol: int, body: bytes, *, fragment: int = 0) -> bytes:
    total = (20 + len(body)).to_bytes(2, "big")
    return b"\x45\0" + total + b"\0\0" + fragment.to_bytes(2, "big") + bytes([64, protocol]) + bytes(10) + body


def datagram(body: bytes, port: int = PORT) -> bytes:
    return ipv4(17, port.to_bytes(2, "big") * 2 + (8 + len(body)).to_bytes(2, "big") + b"\0\0" + body)


def sealed_by_psp() -> bytes:
    outer = Outer(ip_address("192.0.2.1"), ip_address("192.0.2.2"))
    made = psp.open_engine("reference").encapsulate(
        psp.Profile(Mode.TUNNEL, outer=outer, port=PSP_PORT), ECHO, SPI, bytes(16), 1
    )
    assert isinstance(made, bytes)
    return made


def icmpv6(kind: int) -> bytes:
    return b"\x60\0\0\0\0\x04\x3a\xff" + bytes(32) + bytes([kind, 0, 0, 0])


NAMED = FlowPolicy(FlowKind.FIXED, 77)
FORMATS = {"wespv2": WESPv2Format(flow_identifier=NAMED), "eesp": EESPFormat(session=NAMED)}
FAMILY = ("esp", "wesp", "wespv2", "eesp")
FRAMES = {
    **{LABELS[each]: ethernet(sealed(None, each)) for each in FAMILY},
    **{f"{LABELS[each]} in UDP": ethernet(sealed(UDPEncapsulation(), each)) for each in FAMILY},
    "PSP in UDP": ethernet(sealed_by_psp()),
    KEEPALIVE: ethernet(datagram(b"\xff")),
    ARP: MAC + b"\x08\x06" + bytes(28),
    NEIGHBOURS: ethernet(icmpv6(135)),
    "ICMP echo": ethernet(ECHO),
    "UDP": ethernet(datagram(bytes(20), port=53)),
    "TCP": ethernet(ipv4(6, bytes(20))),
    "IP protocol 200": ethernet(ipv4(200, b"")),
    "IP fragment": ethernet(ipv4(50, bytes(40), fragment=0x2000)),
    "malformed IP": ethernet(b"\x45\0\xff\xff" + bytes(16)),
    "not IP": MAC + b"\x88\xcc" + bytes(40),
    "ICMPv6": ethernet(icmpv6(1)),
}


OF_ANY_TUNNEL = {KEEPALIVE, ARP, NEIGHBOURS}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_is_what_its_octets_say(kind: str) -> None:
    found, shown = look(FRAMES[kind], {SPI})
    assert found == kind
    assert (shown is not None) == any(kind in kinds_of(each) for each in LABELS)


def test_a_packet_shows_its_spi_its_port_and_its_flow() -> None:
    assert look(FRAMES["ESP in UDP"], {SPI})[1] == Shown(SPI, PORT, None)
    assert look(FRAMES["WESP"], {SPI})[1] == Shown(SPI, None, None)
    assert look(FRAMES["WESPv2 in UDP"], {SPI})[1] == Shown(SPI, PORT, 77)
    assert look(FRAMES["EESP"], {SPI})[1] == Shown(SPI, None, 77)
    shown = look(FRAMES["PSP in UDP"], {SPI})[1]
    assert shown is not None
    assert (shown.spi, shown.flow) == (SPI, None)


@pytest.mark.parametrize("body", [bytes(4) + b"IKE goes here", b"abc", b"\0\0\0\2 WE\xc0" + bytes(20)])
def test_what_merely_uses_the_port_is_no_esp(body: bytes) -> None:
    assert look(ethernet(datagram(body)), {SPI})[0] == "UDP"


def test_an_spi_that_is_not_the_tunnels_is_told_apart() -> None:
    for protocol in FAMILY:
        for around in (None, UDPEncapsulation()):
            found = look(ethernet(sealed(around, protocol)), {SPI + 1})
            assert found == (f"{LABELS[protocol]} of an unknown SPI", None)
    assert look(FRAMES["PSP in UDP"], {SPI + 1}) == ("PSP of an unknown SPI", None)


def test_what_breaks_a_rule_that_needs_no_key_is_malformed() -> None:
    damaged = bytearray(FRAMES["PSP in UDP"])
    damaged[14 + 28 + 3] &= 0xFE  # the bit that is always 1
    assert look(bytes(damaged), {SPI}) == ("malformed PSP", None)
    assert look(ethernet(ipv4(50, bytes(3))), {SPI}) == ("malformed ESP", None)
    assert look(ethernet(datagram(b"\0\0\0\2\0\0\0\x7f" + bytes(8))), {SPI}) == ("malformed WESPv2", None)


@pytest.mark.parametrize("protocol", LABELS)
def test_frames_of_other_protocols_are_foreign_to_a_tunnel(tmp_path: Path, protocol: str) -> None:
    seen = read(written(tmp_path, list(FRAMES.values())), b"fox", {SPI})
    own = set(kinds_of(protocol)) & set(FRAMES)
    assert seen.of(protocol) == len(own) > 0
    assert set(seen.foreign(protocol)) == set(FRAMES) - own - OF_ANY_TUNNEL
    assert seen.shown.total() == 9


def written(folder: Path, frames: list[bytes]) -> Path:
    path = folder / "seen.pcapng"
    with create_capture(path) as writer:
        writer.add_interface(Interface(LinkType.ETHERNET))
        for frame in frames:
            writer.write(frame, 0, interface=0)
    return path


def test_every_frame_is_counted_and_searched(tmp_path: Path) -> None:
    frames = [*FRAMES.values(), FRAMES["UDP"][:-5] + b"fox!!"]
    path = written(tmp_path, frames)
    seen = read(path, b"fox", {SPI})
    assert seen.frames.total() == len(frames)
    assert seen.frames["UDP"] == 2
    assert +seen.marked == {"UDP": 1}
    assert seen.octets == sum(map(len, frames))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CaptureError):
        read(path, b"fox", {SPI})
