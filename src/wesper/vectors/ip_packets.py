"""Plain IP packets for cases that bring none."""

from __future__ import annotations

from typing import Final

from ..protocols.ip import IPV4_HEADER, IPV6_HEADER, IPAddress, checksum
from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6

_PROTOCOL: Final = 253  # RFC 3692 §2.1: for experiments, so nobody looks inside


def ip_packet(
    source: IPAddress, destination: IPAddress, payload: bytes, *, protocol: int = _PROTOCOL, ecn: int = 0
) -> bytes:
    """Return an IP packet of the addresses' version.   payload: what stands behind its header."""
    if source.version == 4:
        header = IPv4(
            ecn=ecn,
            total_length=IPV4_HEADER + len(payload),
            protocol=protocol,
            source=source.packed,
            destination=destination.packed,
        )
        header.checksum = checksum(header.build())
        return header.build() + payload
    header6 = IPv6(
        ecn=ecn,
        payload_length=len(payload),
        next_header=protocol,
        source=source.packed,
        destination=destination.packed,
    )
    return header6.build() + payload


def sized_packet(source: IPAddress, destination: IPAddress, octets: int) -> bytes:
    """Return an IP packet of so many octets, at least those of its header."""
    header = IPV4_HEADER if source.version == 4 else IPV6_HEADER
    return ip_packet(source, destination, bytes(octets - header))


def with_ecn(packet: bytes, ecn: int) -> bytes:
    """Return an IP packet with other ECN bits, its checksum redone.   packet: IPv4 without options, or IPv6."""
    if packet[0] >> 4 == 4:
        header = IPv4.parse(packet)
        header.ecn, header.checksum = ecn, 0
        header.checksum = checksum(header.build())
        return header.build() + packet[IPV4_HEADER:]
    header6 = IPv6.parse(packet)
    header6.ecn = ecn
    return header6.build() + packet[IPV6_HEADER:]
