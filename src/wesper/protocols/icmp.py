"""ICMP and ICMPv6 errors about packet size and policy: made for the protected side, read from the other.

One is made for the other side: about an option of WESPv2 that asks for it.
Source: RFC 792, RFC 1191 §4, RFC 1812 §4.3.2, RFC 4443 §3.1, §3.2, §3.4, RFC 4301 §5.1.1 and §8.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6
from ..wire.numbers import ICMP, ICMPV6
from ..wire.transport import ICMP as ICMPHeader
from .ip import IPV4_HEADER, IPV6_HEADER, Datagram, IPAddress, checksum, packed, parse, pseudo_header

IPV4_MINIMUM_MTU = 576  # RFC 4301 §8.2: below it nothing an ICMP message says is believed
IPV6_MINIMUM_MTU = 1280  # RFC 8200 §5
MOST_QUOTED = IPV6_MINIMUM_MTU - IPV6_HEADER - ICMPHeader.SIZE  # octets of a packet, RFC 4443 §2.4 (c)

_ICMP_ERRORS = (3, 4, 5, 11, 12)  # RFC 1122 §3.2.2
_ICMPV6_REDIRECT = 137  # RFC 4443 §2.4 (e.2); errors are those below 128


def packet_too_big(packet: bytes, mtu: int, source: IPAddress) -> bytes | None:
    """Return the ICMP error that tells packet's sender the largest size, None if it must not get one.

    packet: as it came from the protected side.   mtu: inner MTU.
    source: address of this host that speaks, of packet's IP version.
    Source: RFC 1191 §4 (type 3, code 4), RFC 4443 §3.2 (type 2, code 0).
    """
    return _error(packet, source, (3, 4, mtu & 0xFFFF), (2, 0, mtu))


def prohibited(packet: bytes, source: IPAddress) -> bytes | None:
    """Return the ICMP error for a packet that policy refuses (RFC 4301 §5.1.1: type 3 code 13, type 1 code 1)."""
    if packet[:1] >= b"\x60" and packet[24:25] == b"\xff":
        return None  # RFC 4443 §2.4 (e.3): of packets to a group only their size may be told
    return _error(packet, source, (3, 13, 0), (1, 1, 0))


def unknown_option(packet: bytes, pointer: int, source: IPAddress) -> bytes | None:
    """Return the ICMP error about an option whose type asks for it, None if its sender must not get one.

    packet: as it came from the unprotected side, perhaps cut behind `MOST_QUOTED` octets, and has proven authentic:
    nobody else is told what is known here.
    pointer: octets from the outer IP header to the option's type; both as the event UNKNOWN_OPTION has them.
    source: address of this host that speaks, of packet's IP version.   How often is the caller's to limit.
    Source: draft-klassert-ipsecme-wespv2-01 §2.2.2, RFC 4443 §3.4 (type 4, code 2), RFC 792 (type 12, code 0).
    """
    action = packet[pointer] >> 6 if 0 <= pointer < len(packet) else 0
    six = packet[:1] >= b"\x60"
    to_group = packet[24:25] == b"\xff" if six else packet[16:17] >= b"\xe0"
    # 10 also answers what went to a group (RFC 4443 §2.4 (e.3)), but not over IPv4 (RFC 1812 §4.3.2.7).
    if action not in (2, 3) or (action == 3 and to_group) or (not six and pointer > 0xFF):
        return None
    told = int.from_bytes(packet[4:6], "big") + IPV6_HEADER if six else int.from_bytes(packet[2:4], "big")
    if len(packet) >= MOST_QUOTED:
        packet = packet.ljust(told, b"\0")  # what was cut off is not quoted
    return _error(packet, source, (12, 0, pointer << 24), (4, 2, pointer))


def _error(packet: bytes, source: IPAddress, v4: tuple[int, int, int], v6: tuple[int, int, int]) -> bytes | None:
    datagram = parse(packet)
    if datagram is None or datagram.version != source.version or not _may_answer(datagram):
        return None
    speaker, asker = packed(source), datagram.header.source
    if datagram.version == 4:
        quoted = datagram.packet[: 576 - IPV4_HEADER - ICMPHeader.SIZE]  # RFC 1812 §4.3.2.3
        message = _message(*v4, quoted, b"")
        header = IPv4(total_length=IPV4_HEADER + len(message), protocol=ICMP, source=speaker, destination=asker)
        header.checksum = checksum(header.build())
        return header.build() + message
    quoted = datagram.packet[:MOST_QUOTED]
    message = _message(*v6, quoted, pseudo_header(speaker, asker, ICMPV6, ICMPHeader.SIZE + len(quoted)))
    return IPv6(payload_length=len(message), next_header=ICMPV6, source=speaker, destination=asker).build() + message


def _message(kind: int, code: int, rest: int, quoted: bytes, pseudo: bytes) -> bytes:
    header = ICMPHeader(kind, code, 0, rest)
    header.checksum = checksum(pseudo + header.build() + quoted)
    return header.build() + quoted


def _may_answer(datagram: Datagram) -> bool:
    """Whether the sender may get an error: not about errors and later fragments, and only if it is one host.

    Source: RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e).
    """
    source, destination = datagram.header.source, datagram.header.destination
    if datagram.offset or not any(source):
        return False
    kind = datagram.packet[datagram.upper_at] if datagram.upper_at < len(datagram.packet) else 0
    if datagram.version == 4:
        is_host = source[0] < 224 and source[0] != 127 and destination[0] < 224
        return is_host and not (datagram.upper == ICMP and kind in _ICMP_ERRORS)
    is_error = datagram.upper == ICMPV6 and (kind < 128 or kind == _ICMPV6_REDIRECT)
    return source[0] != 0xFF and not is_error


@dataclass(frozen=True, slots=True)
class TooBig:
    """What an unauthenticated message claims.

    mtu: octets; 0: an old router that does not say.   quoted: the packet of ours it speaks of, perhaps cut.
    """

    mtu: int
    quoted: bytes


def read_too_big(packet: bytes) -> TooBig | None:
    """Return the claim of a "fragmentation needed" or "packet too big" message.

    None if packet is no such message or its checksum is wrong.
    """
    datagram = parse(packet)
    if datagram is None or datagram.fragment:
        return None
    message = datagram.packet[datagram.upper_at :]
    if len(message) < ICMPHeader.SIZE:
        return None
    kind, code, _, rest = struct.unpack_from(">BBHI", message)
    header = datagram.header
    if datagram.version == 4 and datagram.upper == ICMP and (kind, code) == (3, 4):
        pseudo, mtu = b"", rest & 0xFFFF
    elif datagram.version == 6 and datagram.upper == ICMPV6 and (kind, code) == (2, 0):
        pseudo, mtu = pseudo_header(header.source, header.destination, ICMPV6, len(message)), rest
    else:
        return None
    if checksum(pseudo + message) != 0:
        return None
    return TooBig(mtu, message[ICMPHeader.SIZE :])


def quoted_packet(quoted: bytes) -> tuple[bytes, int, bytes] | None:
    """Return destination, protocol and what follows the IP header of a quoted packet, whose end may be missing.

    None if its header is cut. IPv6 extension headers are not walked.
    """
    if len(quoted) >= IPV4_HEADER and quoted[0] >> 4 == 4:
        return quoted[16:20], quoted[9], quoted[4 * (quoted[0] & 15) :]
    if len(quoted) >= IPV6_HEADER and quoted[0] >> 4 == 6:
        return quoted[24:40], quoted[6], quoted[IPV6_HEADER:]
    return None
