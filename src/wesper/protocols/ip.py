"""The IP layer around the protocols: reading datagrams, walking header chains, checksums, flows.

Lengths found in a packet are never trusted: whatever does not add up makes `parse` answer None.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6
from ..wire.numbers import (
    DCCP,
    DESTINATION_OPTIONS,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    MOBILITY,
    ROUTING,
    SCTP,
    TCP,
    UDP,
    UDP_LITE,
)

IPAddress = IPv4Address | IPv6Address

IPV4_HEADER = 20
IPV6_HEADER = 40

WITH_PORTS = frozenset((TCP, UDP, SCTP, DCCP, UDP_LITE))


@dataclass(frozen=True, slots=True)
class Datagram:
    """An IP packet whose lengths add up.

    header: IPv4 or the fixed IPv6 header.   packet: cut to the length that the header tells.
    protocol, payload, link: the first header that is for the destination alone, where it begins, and where the octet
    lies that names it. It stands behind IPv4 options, or behind hop-by-hop, routing and fragment headers and those
    destination options that a routing header follows. Transport mode protects from here on (RFC 4303 §3.1.1).
    upper, upper_at, upper_link: the same for the upper layer, past all IPv6 extension headers.
    fragment: offset not zero, or more to follow.   offset: octets in front of this fragment's payload.
    """

    header: IPv4 | IPv6
    packet: bytes
    protocol: int
    payload: int
    link: int
    upper: int
    upper_at: int
    upper_link: int
    fragment: bool = False
    offset: int = 0

    @property
    def version(self) -> int:
        return self.header.version

    @property
    def dont_fragment(self) -> bool:
        """IPv6 is never fragmented on its way (RFC 8200 §5)."""
        return not isinstance(self.header, IPv4) or bool(self.header.df)


def parse(packet: bytes) -> Datagram | None:
    """Read one IP packet; octets behind it are cut.   None if it is not IP or its lengths contradict each other.

    Source: RFC 791 §3.1, RFC 8200 §3 and §4.
    """
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return _parse_ipv4(packet)
    if version == 6:
        return _parse_ipv6(packet)
    return None


def _parse_ipv4(packet: bytes) -> Datagram | None:
    if len(packet) < IPV4_HEADER:
        return None
    payload = 4 * (packet[0] & 15)
    total = (packet[2] << 8) | packet[3]
    if not IPV4_HEADER <= payload <= total <= len(packet):
        return None
    header = IPv4.parse(packet)
    whole = packet if total == len(packet) else packet[:total]
    fragment = bool(header.mf or header.fragment_offset)
    protocol = header.protocol
    return Datagram(header, whole, protocol, payload, 9, protocol, payload, 9, fragment, 8 * header.fragment_offset)


def _parse_ipv6(packet: bytes) -> Datagram | None:
    if len(packet) < IPV6_HEADER:
        return None
    header = IPv6.parse(packet)
    total = IPV6_HEADER + header.payload_length
    if total > len(packet):
        return None
    whole = packet if total == len(packet) else packet[:total]
    protocol, at, link = header.next_header, IPV6_HEADER, 6
    fragment, offset = False, 0
    # Destination options belong to the payload unless a routing header follows them (RFC 8200 §4.1): remember
    # where the first of a run stands, and go back there if none came.
    pending: tuple[int, int, int] | None = None
    while protocol in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS) and offset == 0:
        if at + 8 > total:
            break  # the chain is cut: what is left is payload
        size = 8 if protocol == FRAGMENT else 8 * (whole[at + 1] + 1)
        if at + size > total:
            break
        if protocol == FRAGMENT:
            word = (whole[at + 2] << 8) | whole[at + 3]
            offset = word & 0xFFF8
            fragment = fragment or bool(word & 0xFFF9)
        if protocol == DESTINATION_OPTIONS:
            pending = pending or (protocol, at, link)
        elif protocol == ROUTING:
            pending = None
        protocol, at, link = whole[at], at + size, at
    first, first_at, first_link = pending or (protocol, at, link)
    return Datagram(header, whole, first, first_at, first_link, protocol, at, link, fragment, offset)


def checksum(data: bytes) -> int:
    """Return the Internet checksum of data (RFC 1071): the number to put into the field that is zero in data."""
    if len(data) & 1:
        data += b"\0"
    # 2^16 = 1 modulo 2^16 - 1, so the ones' complement sum of 16-bit words is the whole number modulo 65535.
    value = int.from_bytes(data, "big")
    return 0xFFFF - value % 0xFFFF if value % 0xFFFF else (0 if value else 0xFFFF)


def adjust_checksum(old: int, removed: bytes, added: bytes) -> int:
    """Return the checksum after octets in its sum were replaced (RFC 1624 §3).   removed, added: of even length."""
    total = (0xFFFF - old - int.from_bytes(removed, "big") + int.from_bytes(added, "big")) % 0xFFFF
    return 0xFFFF - total if total else 0


def pseudo_header(source: bytes, destination: bytes, protocol: int, octets: int) -> bytes:
    """Return what the upper layers' checksums take from the IP header (RFC 768, RFC 8200 §8.1)."""
    if len(source) == 4:
        return source + destination + struct.pack(">BBH", 0, protocol, octets)
    return source + destination + struct.pack(">IxxxB", octets, protocol)


@dataclass(frozen=True, slots=True)
class Flow:
    """What selectors look at (RFC 4301 §4.4.1.1).

    first, second: ports, or ICMP type and code. None, OPAQUE, where the packet does not show them: its protocol has
    none, or it is a fragment and not the first.
    """

    version: int
    source: int
    destination: int
    protocol: int
    first: int | None
    second: int | None
    dscp: int


def flow(datagram: Datagram) -> Flow:
    """Return the flow that a packet belongs to."""
    protocol, at, packet = datagram.upper, datagram.upper_at, datagram.packet
    first = second = None
    if datagram.offset == 0:
        if protocol in WITH_PORTS and at + 4 <= len(packet):
            first, second = struct.unpack_from(">HH", packet, at)
        elif protocol in (ICMP, ICMPV6) and at + 2 <= len(packet):
            first, second = packet[at], packet[at + 1]
        elif protocol == MOBILITY and at + 3 <= len(packet):
            first, second = packet[at + 2], 0
    header = datagram.header
    return Flow(
        header.version,
        int.from_bytes(header.source, "big"),
        int.from_bytes(header.destination, "big"),
        protocol,
        first,
        second,
        header.dscp,
    )


def is_multicast(address: bytes) -> bool:
    """Whether these 4 or 16 octets are a multicast address (RFC 1112 §4, RFC 4291 §2.7)."""
    return address[0] == 0xFF if len(address) == 16 else address[0] >> 4 == 14


@lru_cache(maxsize=4096)
def packed(address: IPAddress) -> bytes:
    """Return the address's octets."""
    return address.packed


def address(octets: bytes) -> IPAddress:
    """Return the address that these 4 or 16 octets are."""
    return ip_address(octets)
