"""The packets inside: UDP datagrams that a host makes itself, and what it must know of its kernel's TCP segments.

Source: RFC 768, RFC 791, RFC 8200, RFC 9293 (TCP).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ..protocols.ip import IPV4_HEADER, IPV6_HEADER, checksum, pseudo_header
from ..wire.numbers import TCP, UDP

UDP_HEADER: Final = 8
FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10
_TCP_HEADER: Final = 20
_HOPS: Final = 64
_PORTS = struct.Struct(">HH")


class Ends(NamedTuple):
    """Whom an inner packet is of, and where its transport header begins.   Addresses: 4 or 16 octets."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int
    at: int


def ends(packet: bytes) -> Ends | None:
    """Return the ends of a TCP or UDP packet; None for all else, for fragments, and for what is cut short.

    IPv6 extension headers are all else: neither a host's own datagrams nor its kernel's segments have any.
    """
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= IPV4_HEADER:
        at, protocol = 4 * (packet[0] & 15), packet[9]
        if at < IPV4_HEADER or packet[6] & 0x3F or packet[7]:
            return None
        source, destination = packet[12:16], packet[16:20]
    elif version == 6 and len(packet) >= IPV6_HEADER:
        at, protocol = IPV6_HEADER, packet[6]
        source, destination = packet[8:24], packet[24:40]
    else:
        return None
    least = {TCP: _TCP_HEADER, UDP: UDP_HEADER}.get(protocol)
    if least is None or len(packet) < at + least:
        return None
    source_port, destination_port = _PORTS.unpack_from(packet, at)
    return Ends(source, destination, protocol, source_port, destination_port, at)


def datagram(source: bytes, destination: bytes, source_port: int, destination_port: int, payload: bytes) -> bytes:
    """Return a UDP packet, with its checksum.   payload: up to 65507 octets over IPv4, 65527 over IPv6."""
    octets = UDP_HEADER + len(payload)
    ports = _PORTS.pack(source_port, destination_port)
    pseudo = pseudo_header(source, destination, UDP, octets)
    found = checksum(pseudo + ports + octets.to_bytes(2, "big") + bytes(2) + payload)
    header = ports + struct.pack(">HH", octets, found or 0xFFFF)  # RFC 768: zero would mean none
    return _ip_header(source, destination, UDP, octets) + header + payload


def datagram_payload(packet: bytes, found: Ends) -> bytes | None:
    """Return what a UDP packet carries; None if its length or its checksum is wrong."""
    octets = int.from_bytes(packet[found.at + 4 : found.at + 6], "big")
    if octets != len(packet) - found.at:
        return None
    has_checksum = any(packet[found.at + 6 : found.at + 8])
    if not has_checksum and len(found.source) == 16:  # RFC 8200 §8.1
        return None
    if has_checksum:
        pseudo = pseudo_header(found.source, found.destination, UDP, octets)
        if checksum(pseudo + packet[found.at :]):
            return None
    return packet[found.at + UDP_HEADER :]


class Segment(NamedTuple):
    """What a TCP segment says of its connection's life.   next: the sequence number behind it."""

    flags: int
    sequence: int
    next: int
    acknowledgment: int


def segment(packet: bytes, at: int) -> Segment:
    """Read a TCP segment.   at: where its header begins, with 20 octets at least behind it."""
    sequence, acknowledgment = struct.unpack_from(">II", packet, at + 4)
    flags = packet[at + 13]
    octets = max(len(packet) - at - 4 * (packet[at + 12] >> 4), 0)
    behind = octets + bool(flags & SYN) + bool(flags & FIN)
    return Segment(flags, sequence, (sequence + behind) & 0xFFFFFFFF, acknowledgment)


def reset(source: bytes, destination: bytes, source_port: int, destination_port: int, sequence: int, ack: int) -> bytes:
    """Return a TCP packet that resets destination's connection.

    sequence: exactly what destination expects next (RFC 5961 §3.2).   ack: what it has sent, for one in SYN-SENT.
    """
    header = struct.pack(">HHIIBBHHH", source_port, destination_port, sequence, ack, 5 << 4, RST | ACK, 0, 0, 0)
    found = checksum(pseudo_header(source, destination, TCP, len(header)) + header)
    header = header[:16] + found.to_bytes(2, "big") + header[18:]
    return _ip_header(source, destination, TCP, len(header)) + header


def _ip_header(source: bytes, destination: bytes, protocol: int, octets: int) -> bytes:
    if len(source) == 16:
        return struct.pack(">IHBB", 6 << 28, octets, protocol, _HOPS) + source + destination
    # DF and Identification 0 (RFC 6864 §4.1): what does not fit is told to whoever sends it.
    header = struct.pack(">BBHHHBBH", 0x45, 0, IPV4_HEADER + octets, 0, 0x4000, _HOPS, protocol, 0)
    found = checksum(header + source + destination)
    return header[:10] + found.to_bytes(2, "big") + source + destination
