"""ICMP errors for the protected side: what they say, and who never gets one."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from struct import pack, unpack_from

import pytest

from wesper.engine import EventKind, Options, open_engine
from wesper.protocols.icmp import packet_too_big, prohibited, unknown_option
from wesper.sa import SA, Direction, Option, Outer, Profile, UDPEncapsulation, WESPv2Format
from wesper.verdict import Delivered, Dropped, DropReason

HERE4, HERE6 = IPv4Address("192.0.2.9"), IPv6Address("2001:db8::9")
SENDER4, SENDER6 = IPv4Address("10.1.0.1"), IPv6Address("fd00::1")


def ipv4(
    protocol: int, payload: bytes, source: str = "10.1.0.1", destination: str = "10.2.0.2", word: int = 0
) -> bytes:
    ends = IPv4Address(source).packed + IPv4Address(destination).packed
    return pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, word, 64, protocol, 0) + ends + payload


def ipv6(next_header: int, payload: bytes, source: str = "fd00::1", destination: str = "fd00::2") -> bytes:
    ends = IPv6Address(source).packed + IPv6Address(destination).packed
    return pack(">IHBB", 0x60000000, len(payload), next_header, 64) + ends + payload


def sum16(octets: bytes) -> int:
    """The ones' complement sum, word by word (RFC 1071 §1); 0xffff where a checksum inside is right."""
    total = sum(unpack_from(f">{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_ipv4_too_big() -> None:
    """Type 3, code 4, the MTU in the last 16 bits (RFC 1191 §4); 576 octets at most (RFC 1812 §4.3.2.3)."""
    packet = ipv4(17, bytes(1500))
    error = packet_too_big(packet, 1400, HERE4)
    assert error is not None
    assert error[9] == 1
    assert error[12:20] == HERE4.packed + SENDER4.packed
    assert unpack_from(">BB2xHH", error, 20) == (3, 4, 0, 1400)
    assert error[28:] == packet[:548]
    assert unpack_from(">H", error, 2) == (576,)
    assert sum16(error[:20]) == sum16(error[20:]) == 0xFFFF


def test_ipv6_too_big() -> None:
    """Type 2, code 0, the MTU in 32 bits (RFC 4443 §3.2); 1280 octets at most (§2.4 c)."""
    packet = ipv6(17, bytes(1500))
    error = packet_too_big(packet, 1400, HERE6)
    assert error is not None
    assert error[6] == 58
    assert error[8:40] == HERE6.packed + SENDER6.packed
    assert unpack_from(">BB2xI", error, 40) == (2, 0, 1400)
    assert error[48:] == packet[:1232]
    assert len(error) == 1280
    assert sum16(error[8:40] + pack(">II", len(error) - 40, 58) + error[40:]) == 0xFFFF


def test_prohibited() -> None:
    """RFC 4301 §5.1.1: type 3, code 13; type 1, code 1."""
    for error, at, expected in (
        (prohibited(ipv4(17, bytes(8)), HERE4), 20, (3, 13, 0)),
        (prohibited(ipv6(17, bytes(8)), HERE6), 40, (1, 1, 0)),
    ):
        assert error is not None
        assert unpack_from(">BB2xI", error, at) == expected


@pytest.mark.parametrize("kind", [0, 8, 13])
def test_icmp_that_is_no_error_gets_an_answer(kind: int) -> None:
    assert packet_too_big(ipv4(1, bytes((kind, 0)) + bytes(6)), 1400, HERE4) is not None


@pytest.mark.parametrize(
    "packet",
    [
        *(ipv4(1, bytes((kind, 0)) + bytes(6)) for kind in (3, 4, 5, 11, 12)),
        ipv4(17, bytes(8), word=5),
        ipv4(17, bytes(8), source="0.0.0.0"),
        ipv4(17, bytes(8), source="127.0.0.1"),
        ipv4(17, bytes(8), source="224.0.0.1"),
        ipv4(17, bytes(8), destination="224.0.0.1"),
        b"",
        ipv4(17, bytes(8))[:-1],
        ipv6(17, bytes(8)),
    ],
)
def test_no_answer(packet: bytes) -> None:
    """RFC 1812 §4.3.2.7: not about errors, later fragments, to or about what is not one host."""
    assert packet_too_big(packet, 1400, HERE4) is None


@pytest.mark.parametrize(
    "packet",
    [
        *(ipv6(58, bytes((kind, 0)) + bytes(6)) for kind in (1, 2, 127, 137)),
        ipv6(60, bytes((58, 0)) + bytes(6) + bytes((1, 0)) + bytes(6)),
        ipv6(44, bytes((17, 0, 0, 8)) + bytes(4) + bytes(8)),
        ipv6(17, bytes(8), source="::"),
        ipv6(17, bytes(8), source="ff02::1"),
        ipv4(17, bytes(8)),
    ],
)
def test_no_answer_over_ipv6(packet: bytes) -> None:
    """RFC 4443 §2.4 (e)."""
    assert packet_too_big(packet, 1400, HERE6) is None


def test_multicast_over_ipv6() -> None:
    """RFC 4443 §2.4 (e.3): of these errors only "packet too big" answers what went to a group."""
    packet = ipv6(17, bytes(1500), destination="ff0e::1")
    assert packet_too_big(packet, 1400, HERE6) is not None
    assert prohibited(packet, HERE6) is None


# RFC 8200 §4.2: what the two highest bits of a type ask for.
SKIP, DROP, ALWAYS, NOT_FOR_GROUPS = 0x1C, 0x5C, 0x9C, 0xDC


def with_option(kind: int, version: int, destination: str = "") -> tuple[bytes, int]:
    """Return a packet with an option somewhere, and where."""
    body = bytes((59, 20, 0, 0x44, kind, 2, 1, 2)) + bytes(40)
    if version == 4:
        return ipv4(141, body, destination=destination or "10.2.0.2"), 24
    return ipv6(141, body, destination=destination or "fd00::2"), 44


def test_unknown_option_over_ipv4() -> None:
    """Type 12, code 0, the pointer in the first of four octets (RFC 792)."""
    packet, pointer = with_option(ALWAYS, 4)
    error = unknown_option(packet, pointer, HERE4)
    assert error is not None
    assert error[12:20] == HERE4.packed + SENDER4.packed
    assert unpack_from(">BB2xBBH", error, 20) == (12, 0, 24, 0, 0)
    assert error[28:] == packet
    assert sum16(error[:20]) == sum16(error[20:]) == 0xFFFF


def test_unknown_option_over_ipv6() -> None:
    """Type 4, code 2, the pointer in all four octets (RFC 4443 §3.4)."""
    packet, pointer = with_option(NOT_FOR_GROUPS, 6)
    error = unknown_option(packet, pointer, HERE6)
    assert error is not None
    assert error[8:40] == HERE6.packed + SENDER6.packed
    assert unpack_from(">BB2xI", error, 40) == (4, 2, 44)
    assert error[48:] == packet
    assert sum16(error[8:40] + pack(">II", len(error) - 40, 58) + error[40:]) == 0xFFFF


@pytest.mark.parametrize("version", [4, 6])
def test_an_unknown_option_of_a_packet_that_was_cut(version: int) -> None:
    """An event keeps as much as a message quotes; less than that is no packet."""
    body, here = bytes((59, 20, 0, 0x44, ALWAYS, 2, 1, 2)) + bytes(range(256)) * 20, HERE4 if version == 4 else HERE6
    whole, at = (ipv4(141, body), 20) if version == 4 else (ipv6(141, body), 40)
    error = unknown_option(whole, at + 4, here)
    assert error is not None
    assert len(error) == (576 if version == 4 else 1280)
    assert unknown_option(whole[:1232], at + 4, here) == error
    assert unknown_option(whole[:1231], at + 4, here) is None


@pytest.mark.parametrize(
    ("kind", "version", "destination", "answered"),
    [
        (SKIP, 6, "", False),
        (DROP, 6, "", False),
        (SKIP, 4, "", False),
        (DROP, 4, "", False),
        (ALWAYS, 6, "ff0e::1", True),
        (NOT_FOR_GROUPS, 6, "ff0e::1", False),
        (ALWAYS, 4, "224.0.0.9", False),
        (NOT_FOR_GROUPS, 4, "224.0.0.9", False),
    ],
)
def test_who_is_told_of_an_unknown_option(kind: int, version: int, destination: str, answered: bool) -> None:
    packet, pointer = with_option(kind, version, destination)
    assert (unknown_option(packet, pointer, HERE4 if version == 4 else HERE6) is not None) is answered


@pytest.mark.parametrize("pointer", [-1, 1 << 16, 300])
def test_a_pointer_that_cannot_be(pointer: int) -> None:
    long = ipv4(141, bytes((ALWAYS,)) * 400)
    assert unknown_option(long, pointer, HERE4) is None
    assert unknown_option(b"", 0, HERE4) is None


@pytest.mark.parametrize("engine", ["reference", pytest.param("native", marks=pytest.mark.needs_native)])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("udp", [False, True])
def test_what_an_engine_tells_becomes_the_message(engine: str, version: int, udp: bool) -> None:
    """The event's pointer is the message's; a packet that is not authentic causes neither."""
    here, there = (SENDER4, IPv4Address("10.2.0.2")) if version == 4 else (SENDER6, IPv6Address("fd00::2"))
    around = UDPEncapsulation() if udp else None
    sends = WESPv2Format(options=(Option(0x1C, b"\0"), Option(ALWAYS, b"\1\2")))
    keys = {"spi": 0x2000, "key": bytes(16), "salt": bytes(4)}
    sender, receiver = open_engine("reference"), open_engine(engine, Options(events=8))
    out = Profile("aes-gcm-16", outer=Outer(here, there), encapsulation=around, protocol="wespv2", format=sends)
    back = Profile("aes-gcm-16", outer=Outer(there, here), encapsulation=around, protocol="wespv2")
    sa = sender.install(SA(out, Direction.OUT, **keys))
    receiver.install(SA(back, Direction.IN, **keys))
    sent = sender.encapsulate(sa, ipv4(17, bytes(8)), 0)
    assert isinstance(sent, Delivered)
    forged = receiver.decapsulate(sent.packet[:-1] + bytes((sent.packet[-1] ^ 1,)), 0)
    assert isinstance(forged, Dropped)
    assert forged.reason is DropReason.AUTH
    assert receiver.next_event() is None
    verdict = receiver.decapsulate(sent.packet, 0)
    assert isinstance(verdict, Dropped)
    assert verdict.reason is DropReason.UNKNOWN_OPTION
    event = receiver.next_event()
    assert event is not None
    assert (event.kind, event.source) == (EventKind.UNKNOWN_OPTION, here.packed)
    assert sent.packet[event.pointer] == ALWAYS
    assert event.packet == sent.packet
    error = unknown_option(event.packet, event.pointer, HERE4 if version == 4 else HERE6)
    assert error is not None
    at = 20 if version == 4 else 40
    assert error[at : at + 2] == (b"\x0c\0" if version == 4 else b"\4\2")
    assert (error[at + 4] if version == 4 else error[at + 7]) == event.pointer
    assert error[at + 8 :] == sent.packet
