"""ICMP errors for the protected side: what they say, and who never gets one."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from struct import pack, unpack_from

import pytest

from wesper.protocols.icmp import packet_too_big, prohibited

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
