"""Cutting IP packets into fragments (RFC 791 §3.2, RFC 8200 §4.5)."""

from __future__ import annotations

import struct

from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6Fragment
from ..wire.numbers import FRAGMENT
from .ip import IPV4_HEADER, Datagram, checksum

_FRAGMENT_HEADER = 8


def fragment(datagram: Datagram, mtu: int, identification: int = 0) -> list[bytes] | None:
    """Return the packet in pieces of at most mtu octets, in order; the packet itself if it fits.

    None: not to be cut. IPv4 packets with DF set; mtu has no room for 8 octets of payload; a fragment that reaches
    beyond the 65,535 octets that a datagram can have.
    identification: for IPv6, 32 bits; IPv4 packets have theirs.
    """
    if len(datagram.packet) <= mtu:
        return [datagram.packet]
    if isinstance(datagram.header, IPv4):
        return None if datagram.header.df else _ipv4(datagram, datagram.header, mtu)
    return _ipv6(datagram, mtu, identification)


def _ipv4(datagram: Datagram, header: IPv4, mtu: int) -> list[bytes] | None:
    payload = datagram.packet[datagram.payload :]
    if datagram.offset + len(payload) > 65535:
        return None
    first_head = datagram.packet[: datagram.payload]
    # Options that are not to be copied stand in the first fragment only (RFC 791 §3.1, copied flag).
    copied = _copied_options(header.options)
    other_head = first_head[:IPV4_HEADER] + copied
    pieces, at = [], 0
    while at < len(payload):
        head = bytearray(first_head if at == 0 else other_head)
        room = mtu - len(head)
        if room < 8:
            return None
        part = payload[at : at + room]
        last = at + len(part) == len(payload)
        if not last:
            part = part[: room // 8 * 8]
        head[0] = 0x40 | len(head) // 4
        more = header.mf or not last
        struct.pack_into(
            ">HHH",
            head,
            2,
            len(head) + len(part),
            header.identification,
            (int(more) << 13) | (header.fragment_offset + at // 8),
        )
        head[10:12] = b"\0\0"
        struct.pack_into(">H", head, 10, checksum(bytes(head)))
        pieces.append(bytes(head) + part)
        at += len(part)
    return pieces


def _copied_options(options: bytes) -> bytes:
    kept, at = b"", 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            break
        if options[at] & 0x80:
            kept += options[at : at + size]
        at += size
    return kept + bytes(-len(kept) % 4)


def _ipv6(datagram: Datagram, mtu: int, identification: int) -> list[bytes] | None:
    head = bytearray(datagram.packet[: datagram.payload])
    payload = datagram.packet[datagram.payload :]
    step = (mtu - len(head) - _FRAGMENT_HEADER) // 8 * 8
    if step <= 0 or datagram.fragment:
        return None
    head[datagram.link] = FRAGMENT
    pieces = []
    for at in range(0, len(payload), step):
        part = payload[at : at + step]
        more = at + step < len(payload)
        extension = IPv6Fragment(
            next_header=datagram.protocol, fragment_offset=at // 8, more=int(more), identification=identification
        ).build()
        struct.pack_into(">H", head, 4, len(head) - 40 + len(extension) + len(part))
        pieces.append(bytes(head) + extension + part)
    return pieces
