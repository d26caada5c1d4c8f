from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from wesper import psp
from wesper.demo.wire import (
    ARP,
    ESP_IN_IP,
    ESP_IN_UDP,
    KEEPALIVE,
    NEIGHBOURS,
    OF_A_TUNNEL,
    PSP,
    UNKNOWN_PSP,
    UNKNOWN_SPI,
    kind_of,
    read,
)
from wesper.engine import open_engine
from wesper.errors import CaptureError
from wesper.pcap import Interface, LinkType, create_capture
from wesper.sa import SA, Direction, Mode, Outer, Profile, UDPEncapsulation
from wesper.verdict import Delivered

MAC = bytes(12)
ECHO = bytes.fromhex("4500001c0000400040016ba90a0000010a00000208004f5600013005")
SPI, PORT, PSP_PORT = 0x1000, 4500, 1000


def ethernet(packet: bytes) -> bytes:
    return MAC + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def sealed(around: UDPEncapsulation | None) -> bytes:
    engine = open_engine("reference")
    outer = Outer(ip_address("192.0.2.1"), ip_address("192.0.2.2"))
    profile = Profile("aes-gcm-16", outer=outer, encapsulation=around)
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


FRAMES = {
    ESP_IN_UDP: ethernet(sealed(UDPEncapsulation())),
    ESP_IN_IP: ethernet(sealed(None)),
    PSP: ethernet(sealed_by_psp()),
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


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_is_what_its_octets_say(kind: str) -> None:
    assert kind_of(FRAMES[kind], {PORT}, {SPI}, {PSP_PORT}) == kind
    assert (kind in OF_A_TUNNEL) == (kind in (ESP_IN_UDP, ESP_IN_IP, PSP, KEEPALIVE, ARP, NEIGHBOURS))


@pytest.mark.parametrize("body", [bytes(4) + b"IKE goes here", b"\0\0\0\2 WESP", b"abc"])
def test_what_merely_uses_the_port_is_no_esp(body: bytes) -> None:
    assert kind_of(ethernet(datagram(body)), {PORT}, {SPI}) == "UDP"


def test_an_spi_that_is_not_the_tunnels_is_told_apart() -> None:
    for around in (None, UDPEncapsulation()):
        assert kind_of(ethernet(sealed(around)), {PORT}, {SPI + 1}) == UNKNOWN_SPI
    assert kind_of(FRAMES[PSP], {PORT}, {SPI + 1}, {PSP_PORT}) == UNKNOWN_PSP
    assert kind_of(FRAMES[PSP], {PORT}, {SPI}) == kind_of(FRAMES[PSP], {PORT}, {SPI}, {PSP_PORT + 1}) == "UDP"
    damaged = bytearray(FRAMES[PSP])
    damaged[14 + 28 + 3] &= 0xFE  # the bit that is always 1
    assert kind_of(bytes(damaged), {PORT}, {SPI}, {PSP_PORT}) == "UDP"
    assert OF_A_TUNNEL.isdisjoint((UNKNOWN_SPI, UNKNOWN_PSP))


def test_every_frame_is_counted_and_searched(tmp_path: Path) -> None:
    path = tmp_path / "seen.pcapng"
    frames = [*FRAMES.values(), FRAMES["UDP"][:-5] + b"fox!!"]
    with create_capture(path) as writer:
        writer.add_interface(Interface(LinkType.ETHERNET))
        for frame in frames:
            writer.write(frame, 0, interface=0)
    seen = read(path, b"fox", {PORT}, {SPI}, {PSP_PORT})
    assert seen.frames.total() == len(frames)
    assert seen.frames["UDP"] == 2
    assert +seen.marked == {"UDP": 1}
    assert seen.octets == sum(map(len, frames))
    assert (seen.esp(), seen.psp()) == (2, 1)
    assert set(seen.foreign()) == set(FRAMES) - OF_A_TUNNEL
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CaptureError):
        read(path, b"fox", {PORT}, {SPI})
