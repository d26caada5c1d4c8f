"""Fragments put together again, in bounded memory (RFC 791 §3.2, RFC 8200 §4.5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from ..wire.numbers import DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING
from .ip import IPV4_HEADER, IPV6_HEADER, checksum

MAX_DATAGRAMS = 1024
MAX_OCTETS = 16 << 20
MAX_AGE_NS = 60_000_000_000  # RFC 8200 §4.5: 60 seconds after the first fragment


@dataclass(slots=True)
class _Datagram:
    """One that is not whole yet.   head: of its first fragment, mended.   end: octets of payload, None before the
    last fragment has come.
    """

    started_ns: int
    parts: dict[int, bytes] = field(default_factory=dict)
    head: bytes | None = None
    end: int | None = None
    octets: int = 0


class Reassembler:
    """Puts fragments together as they come.

    Overlapping fragments throw their datagram away (RFC 8200 §4.5); a fragment that came before, octet for octet,
    is ignored.   whole: datagrams made.   given_up: datagrams thrown away: too old, too many at once, overlapping, too
    long.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[bytes, ...], _Datagram] = {}
        self._octets = 0
        self.whole = 0
        self.given_up = 0

    @property
    def unfinished(self) -> int:
        """Datagrams that still lack fragments."""
        return len(self._open)

    def add(self, packet: bytes, now_ns: int) -> bytes | None:
        """Take a packet and return a whole one: itself if it is no fragment, None if more are to come.

        packet: from its IP header, any octets.   now_ns: when it was captured.
        """
        found = _fragment(packet)
        if found is None:
            return packet
        key, head, offset, more, payload = found
        datagram = self._open.get(key)
        if datagram is not None and abs(now_ns - datagram.started_ns) > MAX_AGE_NS:
            self._give_up(key)
            datagram = None
        if datagram is None:
            datagram = self._open[key] = _Datagram(now_ns)
        if not self._take(datagram, head, offset, more, payload):
            self._give_up(key)
            return None
        if datagram.end is None or datagram.head is None or datagram.octets < datagram.end:
            while len(self._open) > MAX_DATAGRAMS or self._octets > MAX_OCTETS:
                self._give_up(next(iter(self._open)))
            return None
        self._close(key)
        self.whole += 1
        body = b"".join(datagram.parts[at] for at in sorted(datagram.parts))
        return _joined(datagram.head, body)

    def _take(self, datagram: _Datagram, head: bytes, offset: int, more: bool, payload: bytes) -> bool:
        """Add a fragment; False if it makes no sense beside the others."""
        end = offset + len(payload)
        if datagram.parts.get(offset) == payload:
            return True
        if not payload or (more and len(payload) % 8) or end + len(head) > 65535:
            return False
        if any(at < end and offset < at + len(part) for at, part in datagram.parts.items()):
            return False
        if not more:
            if datagram.end is not None:
                return False
            datagram.end = end
        datagram.parts[offset] = payload
        if datagram.end is not None and max(at + len(part) for at, part in datagram.parts.items()) > datagram.end:
            return False
        if offset == 0:
            datagram.head = head
        datagram.octets += len(payload)
        self._octets += len(payload)
        return True

    def _give_up(self, key: tuple[bytes, ...]) -> None:
        self._close(key)
        self.given_up += 1

    def _close(self, key: tuple[bytes, ...]) -> None:
        datagram = self._open.pop(key)
        self._octets -= datagram.octets


def _fragment(packet: bytes) -> tuple[tuple[bytes, ...], bytes, int, bool, bytes] | None:
    """Return key, head, offset, more and payload of a fragment; None for what is whole or malformed.

    head: the header of the datagram to be, with its lengths and checksum still to do.
    """
    if len(packet) >= IPV4_HEADER and packet[0] >> 4 == 4:
        flags = packet[6] << 8 | packet[7]
        octets, total = 4 * (packet[0] & 15), packet[2] << 8 | packet[3]
        if not flags & 0x3FFF or not IPV4_HEADER <= octets <= total <= len(packet):
            return None
        head = packet[:6] + struct.pack(">H", flags & 0xC000) + packet[8:octets]
        key = (packet[12:20], packet[9:10], packet[4:6])
        return key, head, 8 * (flags & 0x1FFF), bool(flags & 0x2000), packet[octets:total]
    if len(packet) >= IPV6_HEADER and packet[0] >> 4 == 6:
        return _ipv6_fragment(packet)
    return None


def _ipv6_fragment(packet: bytes) -> tuple[tuple[bytes, ...], bytes, int, bool, bytes] | None:
    total = IPV6_HEADER + (packet[4] << 8 | packet[5])
    if total > len(packet):
        return None
    protocol, at, link = packet[6], IPV6_HEADER, 6
    while protocol in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS) and at + 8 <= total:
        protocol, link, at = packet[at], at, at + 8 * (packet[at + 1] + 1)
    if protocol != FRAGMENT or at + 8 > total:
        return None
    word = packet[at + 2] << 8 | packet[at + 3]
    head = bytearray(packet[:at])
    head[link] = packet[at]
    # RFC 6946: one that is alone (offset 0, nothing to follow) is whole, whatever else has its identification
    key = (packet[8:40], packet[at + 4 : at + 8], b"" if word & 0xFFF9 else b"alone")
    return key, bytes(head), word & 0xFFF8, bool(word & 1), packet[at + 8 : total]


def _joined(head: bytes, body: bytes) -> bytes:
    whole = bytearray(head)
    octets = len(whole) + len(body)
    if whole[0] >> 4 == 6:
        struct.pack_into(">H", whole, 4, octets - IPV6_HEADER)
        return bytes(whole) + body
    struct.pack_into(">H", whole, 2, octets)
    whole[10:12] = b"\0\0"
    struct.pack_into(">H", whole, 10, checksum(bytes(whole)))
    return bytes(whole) + body
