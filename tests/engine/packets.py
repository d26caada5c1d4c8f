"""IP packets put together octet by octet, independent of wesper's own builders."""

from __future__ import annotations

from ipaddress import ip_address
from struct import pack

A4, B4 = ip_address("10.1.0.1"), ip_address("10.2.0.2")
A6, B6 = ip_address("2001:db8:a::1"), ip_address("2001:db8:b::2")
LEFT4, RIGHT4 = ip_address("192.0.2.1"), ip_address("198.51.100.2")
LEFT6, RIGHT6 = ip_address("2001:db8:1::1"), ip_address("2001:db8:2::2")

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58


def sum16(data: bytes) -> int:
    """Internet checksum, word by word (RFC 1071 §4.1)."""
    total = sum((data + b"\0" * (len(data) % 2))[i] << (8 if i % 2 == 0 else 0) for i in range(len(data)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ipv4(
    payload: bytes = b"",
    protocol: int = 253,
    *,
    source: str | object = A4,
    destination: str | object = B4,
    tos: int = 0,
    identification: int = 0x1234,
    df: bool = False,
    mf: bool = False,
    offset: int = 0,
    ttl: int = 63,
    options: bytes = b"",
) -> bytes:
    """An IPv4 packet.   offset: octets."""
    assert len(options) % 4 == 0
    assert offset % 8 == 0
    octets = 20 + len(options)
    head = pack(
        ">BBHHHBBH4s4s",
        0x40 | octets // 4,
        tos,
        octets + len(payload),
        identification,
        df << 14 | mf << 13 | offset // 8,
        ttl,
        protocol,
        0,
        ip_address(str(source)).packed,
        ip_address(str(destination)).packed,
    )
    head += options
    return head[:10] + pack(">H", sum16(head)) + head[12:] + payload


def ipv6(
    payload: bytes = b"",
    protocol: int = 253,
    *,
    source: str | object = A6,
    destination: str | object = B6,
    traffic_class: int = 0,
    flow_label: int = 0,
    hop_limit: int = 63,
) -> bytes:
    """An IPv6 packet.   payload: extension headers too; protocol: number of the first of them."""
    return (
        pack(">IHBB", 6 << 28 | traffic_class << 20 | flow_label, len(payload), protocol, hop_limit)
        + ip_address(str(source)).packed
        + ip_address(str(destination)).packed
        + payload
    )


def extension(next_header: int, units: int = 0, fill: int = 1) -> bytes:
    """A hop-by-hop, routing or destination options header: PadN options as a rule."""
    octets = 8 * units + 6
    return bytes((next_header, units, fill, octets - 2)) + bytes(octets - 2)


def routing(next_header: int) -> bytes:
    """A routing header with no segments left."""
    return bytes((next_header, 0, 3, 0)) + bytes(4)


def fragment_header(next_header: int, offset: int, more: bool, identification: int = 0xCAFE) -> bytes:
    return pack(">BBHI", next_header, 0, offset | more, identification)


def pseudo(source: object, destination: object, protocol: int, octets: int) -> bytes:
    ends = ip_address(str(source)).packed + ip_address(str(destination)).packed
    return ends + (pack(">BBH", 0, protocol, octets) if len(ends) == 8 else pack(">IxxxB", octets, protocol))


def udp(
    data: bytes = b"data",
    sport: int = 1000,
    dport: int = 2000,
    *,
    ends: tuple[object, object] | None = None,
    octets: int | None = None,
) -> bytes:
    """A UDP datagram; its checksum is computed if ends are given, else 0."""
    length = 8 + len(data) if octets is None else octets
    head = pack(">HHHH", sport, dport, length, 0)
    if ends is None:
        return head + data
    return head[:6] + pack(">H", sum16(pseudo(*ends, UDP, length) + head + data) or 0xFFFF) + data


def tcp(data: bytes = b"data", sport: int = 1000, dport: int = 2000, *, ends: tuple[object, object]) -> bytes:
    head = pack(">HHIIBBHHH", sport, dport, 7, 8, 0x50, 0x18, 512, 0, 0)
    found = sum16(pseudo(*ends, TCP, len(head) + len(data)) + head + data)
    return head[:16] + pack(">H", found) + head[18:] + data


def icmp(kind: int, code: int, data: bytes = b"\0\0\0\0ping", *, ends: tuple[object, object] | None = None) -> bytes:
    """An ICMP message; ICMPv6 if ends are given, which its checksum covers.   data: from octet 4 on."""
    head = pack(">BBH", kind, code, 0)
    front = b"" if ends is None else pseudo(*ends, ICMPV6, 4 + len(data))
    return head[:2] + pack(">H", sum16(front + head + data)) + data


def patched(packet: bytes, at: int, octets: bytes) -> bytes:
    """The packet with octets written at `at`, and an IPv4 header's checksum redone."""
    new = packet[:at] + octets + packet[at + len(octets) :]
    if new[0] >> 4 != 4:
        return new
    size = 4 * (new[0] & 15)
    head = new[:10] + b"\0\0" + new[12:size]
    return head[:10] + pack(">H", sum16(head)) + head[12:] + new[size:]
