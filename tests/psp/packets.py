"""IP packets to protect."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from wesper.protocols.ip import checksum
from wesper.vectors.ip_packets import ip_packet
from wesper.wire.ipv4 import IPv4

A4, B4 = ip_address("192.0.2.1"), ip_address("198.51.100.7")
A6, B6 = ip_address("2001:db8::1"), ip_address("2001:db8:1::7")
HOSTS = {4: (A4, B4), 6: (A6, B6)}
TCP, UDP = 6, 17


def udp(version: int = 4, payload: bytes = b"payload", source: int = 40001, destination: int = 53) -> bytes:
    """Return a UDP packet."""
    segment = struct.pack(">HHHH", source, destination, 8 + len(payload), 0) + payload
    return ip_packet(*HOSTS[version], segment, protocol=UDP)


def rebuilt(packet: bytes, **fields: int) -> bytes:
    """Return an IPv4 packet with other header fields and a right checksum."""
    header = IPv4.parse(packet)
    for name, value in fields.items():
        setattr(header, name, value)
    header.checksum = 0
    header.checksum = checksum(header.build())
    return header.build() + packet[len(header) :]
