"""Transport, tunnel and BEET mode: what goes inside, and the IP header around it.

`enclose` takes an IP packet apart for an SA, `release` puts it together again.
Source: RFC 4303 §3.1, RFC 4301 §5.1.2, RFC 7402 appendix B.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from ..verdict import DropReason
from ..wire.esp import BEETPseudoHeader
from ..wire.format import TruncatedHeader
from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6
from ..wire.numbers import AGGFRAG, BEET_PSEUDO_HEADER, IPV4, IPV6, NO_NEXT_HEADER, TCP, UDP
from . import ecn
from .ip import IPV4_HEADER, IPV6_HEADER, Datagram, IPAddress, adjust_checksum, checksum, packed

_NOP = b"\x01"  # RFC 791 §3.1: no operation


class Mode(enum.Enum):
    """How an SA carries packets."""

    TRANSPORT = "transport"
    TUNNEL = "tunnel"
    BEET = "beet"
    IPTFS = "iptfs"  # an AGGFRAG payload (RFC 9347), which goes in and comes out as it is


class DF(enum.Enum):
    """Where the outer IPv4 header's DF bit comes from (RFC 4301 §8.1).   An IPv6 inner packet counts as DF set."""

    COPY = "copy"
    SET = "set"
    CLEAR = "clear"


@dataclass(frozen=True, slots=True)
class Outer:
    """The outer header of tunnel and BEET mode.

    local, remote: this end and the other. BEET mode takes nothing else from here: its other fields are the inner
    packet's.
    hop_limit: 1..255.
    dscp: None copies the inner one.
    copy_ecn: RFC 6040 normal mode; False sends Not-ECT.
    flow_label: None copies an IPv6 inner packet's, 0 for IPv4.
    identification: None makes it from the sequence number where DF is clear, 0 where it is set (RFC 6864 §4.1).
    take_dscp: the inner packet gets the outer DSCP on arrival.
    """

    local: IPAddress
    remote: IPAddress
    hop_limit: int = 64
    df: DF = DF.COPY
    dscp: int | None = None
    copy_ecn: bool = True
    flow_label: int | None = None
    identification: int | None = None
    take_dscp: bool = False


@dataclass(frozen=True, slots=True)
class Inner:
    """Fixed inner addresses.

    The pair of a BEET SA (RFC 7402 §B.1.1), or that of a transport SA before NAT (RFC 3948 §3.1.2).
    """

    local: IPAddress
    remote: IPAddress


@dataclass(slots=True)
class Enclosed:
    """A packet taken apart.

    next_header, payload: what is protected.
    head: IP header to come in front.   link: octet of head that names what follows.
    """

    next_header: int
    payload: bytes
    head: bytearray
    link: int

    @property
    def addresses(self) -> tuple[bytes, bytes]:
        """Source and destination in head."""
        if self.head[0] >> 4 == 4:
            return bytes(self.head[12:16]), bytes(self.head[16:20])
        return bytes(self.head[8:24]), bytes(self.head[24:40])

    def finish(self, protocol: int, body: bytes) -> bytes:
        """Return the packet: head, its lengths and checksum redone, around body."""
        return _finish(self.head, self.link, protocol, body)


def outer_identification(sequence: int, spi: int, sub_sa: int = 0) -> int:
    """Return the IPv4 identification of a packet that may be fragmented.

    No repeat for 65,536 packets of an SA, or of a Sub SA (RFC 6864 §4.2); Sub SAs begin far from each other.
    """
    return (sequence + (spi ^ (spi >> 16)) + sub_sa * 0x9E37) & 0xFFFF


def enclose(
    mode: Mode, datagram: Datagram, outer: Outer | None, inner: Inner | None, identification: int
) -> Enclosed | DropReason:
    """Take a packet apart for an SA of this mode.

    identification: for an outer header that may be fragmented.
    Drops: OUT_MODE: fragments outside tunnel mode, addresses that are not the BEET pair.
    """
    if mode is Mode.TUNNEL:
        assert outer is not None
        return _tunnel(datagram, outer, identification)
    if datagram.fragment:
        return DropReason.OUT_MODE  # RFC 4303 §3.3.4: whole datagrams only
    if mode is Mode.TRANSPORT:
        head = bytearray(datagram.packet[: datagram.payload])
        return Enclosed(datagram.protocol, datagram.packet[datagram.payload :], head, datagram.link)
    assert outer is not None
    assert inner is not None
    return _beet_out(datagram, outer, inner)


def enclose_octets(next_header: int, payload: bytes, outer: Outer, identification: int) -> Enclosed:
    """Put an outer header in front of what is no IP packet: a dummy (RFC 4303 §2.6), an AGGFRAG payload."""
    enclosed = _tunnel(None, outer, identification)
    enclosed.next_header, enclosed.payload = next_header, payload
    return enclosed


def _tunnel(datagram: Datagram | None, outer: Outer, identification: int) -> Enclosed:
    if datagram is None:
        header: IPv4 | IPv6 | None = None
        next_header, payload, dscp, codepoint, inner_df = NO_NEXT_HEADER, b"", 0, ecn.NOT_ECT, False
    else:
        header, payload = datagram.header, datagram.packet
        next_header = IPV4 if datagram.version == 4 else IPV6
        dscp, codepoint, inner_df = header.dscp, header.ecn, datagram.dont_fragment
    dscp = dscp if outer.dscp is None else outer.dscp
    codepoint = codepoint if outer.copy_ecn else ecn.NOT_ECT
    if outer.local.version == 4:
        df = inner_df if outer.df is DF.COPY else outer.df is DF.SET
        if outer.identification is not None:
            identification = outer.identification
        elif df:
            identification = 0
        built = IPv4(
            dscp=dscp,
            ecn=codepoint,
            identification=identification,
            df=int(df),
            ttl=outer.hop_limit,
            source=packed(outer.local),
            destination=packed(outer.remote),
        )
        return Enclosed(next_header, payload, bytearray(built.build()), 9)
    label = outer.flow_label
    if label is None:
        label = header.flow_label if isinstance(header, IPv6) else 0
    built6 = IPv6(
        dscp=dscp,
        ecn=codepoint,
        flow_label=label,
        hop_limit=outer.hop_limit,
        source=packed(outer.local),
        destination=packed(outer.remote),
    )
    return Enclosed(next_header, payload, bytearray(built6.build()), 6)


def _beet_out(datagram: Datagram, outer: Outer, inner: Inner) -> Enclosed | DropReason:
    """RFC 7402 §B.1.5: swap the IP header; fields other than addresses are the original's."""
    header = datagram.header
    if header.source != packed(inner.local) or header.destination != packed(inner.remote):
        return DropReason.OUT_MODE
    source, destination = packed(outer.local), packed(outer.remote)
    if isinstance(header, IPv6) and outer.local.version == 6:
        head = bytearray(datagram.packet[: datagram.payload])
        head[8:40] = source + destination
        return Enclosed(datagram.protocol, datagram.packet[datagram.payload :], head, datagram.link)
    if isinstance(header, IPv6):
        # Families differ: extension headers go inside, since IPv4 has no place for them.
        next_header, payload = header.next_header, datagram.packet[IPV6_HEADER:]
    else:
        next_header, payload = header.protocol, datagram.packet[datagram.payload :]
        if header.options:
            options = header.options
            padding = 4 if len(options) % 8 == 0 else 0  # the pseudo header is 4 + padding + options, a multiple of 8
            pseudo = BEETPseudoHeader(
                next_header=next_header,
                length_units=(4 + padding + len(options)) // 8 - 1,
                pad_length=padding,
                options=_NOP * padding + options,
            )
            next_header, payload = BEET_PSEUDO_HEADER, pseudo.build() + payload
    head, link = _translated(header, source, destination)
    return Enclosed(next_header, payload, head, link)


def release(
    mode: Mode,
    datagram: Datagram,
    at: int,
    link: int,
    next_header: int,
    payload: bytes,
    outer: Outer | None,
    inner: Inner | None,
) -> tuple[bytes | DropReason, ecn.Alarm]:
    """Put the inner packet together.

    datagram: as received; the protected part, or the UDP header before it, began at `at` and link named it.
    next_header, payload: authentic, out of it.
    Drops: BAD_INNER, ECN_DROP.
    """
    if mode is Mode.IPTFS:
        return (payload if next_header == AGGFRAG else DropReason.BAD_INNER), ecn.Alarm.NONE
    if mode is Mode.TUNNEL:
        assert outer is not None
        return _tunnel_in(datagram, next_header, payload, outer)
    if mode is Mode.TRANSPORT:
        head = bytearray(datagram.packet[:at])
        if inner is not None:
            payload = _undo_nat(datagram, next_header, payload, inner)
        return _fits(head, link, next_header, payload), ecn.Alarm.NONE
    assert inner is not None
    return _beet_in(datagram, at, link, next_header, payload, inner), ecn.Alarm.NONE


def inner_length(next_header: int, payload: bytes) -> int | None:
    """Return the length that the inner packet of a tunnel tells, None if it does not fit Next Header or payload."""
    octets = len(payload)
    if next_header == IPV4:
        if octets < IPV4_HEADER or payload[0] >> 4 != 4:
            return None
        total = (payload[2] << 8) | payload[3]
        return total if IPV4_HEADER <= 4 * (payload[0] & 15) <= total <= octets else None
    if next_header == IPV6:
        if octets < IPV6_HEADER or payload[0] >> 4 != 6:
            return None
        total = IPV6_HEADER + ((payload[4] << 8) | payload[5])
        return total if total <= octets else None
    return None


def _tunnel_in(
    datagram: Datagram, next_header: int, payload: bytes, outer: Outer
) -> tuple[bytes | DropReason, ecn.Alarm]:
    total = inner_length(next_header, payload)
    if total is None:
        return DropReason.BAD_INNER, ecn.Alarm.NONE
    packet = payload[:total]  # RFC 4303 §2.7: what is longer is TFC padding
    version = packet[0] >> 4
    old = packet[1] if version == 4 else ((packet[0] << 4) | (packet[1] >> 4)) & 0xFF
    codepoint, alarm = ecn.decapsulate(old & 3, datagram.header.ecn)
    if codepoint is None:
        return DropReason.ECN_DROP, alarm
    new = (old & 0xFC) | codepoint
    if outer.take_dscp:
        new = (datagram.header.dscp << 2) | codepoint
    if new == old:
        return packet, alarm
    changed = bytearray(packet)
    if version == 4:
        changed[1] = new
        found = (packet[10] << 8) | packet[11]
        struct.pack_into(">H", changed, 10, adjust_checksum(found, packet[:2], bytes(changed[:2])))
    else:
        changed[0] = 0x60 | (new >> 4)
        changed[1] = ((new & 15) << 4) | (packet[1] & 15)
    return bytes(changed), alarm


def _beet_in(
    datagram: Datagram, at: int, link: int, next_header: int, payload: bytes, inner: Inner
) -> bytes | DropReason:
    """RFC 7402 §B.1.6: the received header goes; the new one has the SA's addresses and its other fields."""
    header = datagram.header
    source, destination = packed(inner.remote), packed(inner.local)
    options = b""
    if next_header == BEET_PSEUDO_HEADER:
        try:
            pseudo = BEETPseudoHeader.parse(payload)
        except TruncatedHeader:
            return DropReason.BAD_INNER
        options = pseudo.options[pseudo.pad_length :]
        if len(source) != 4 or pseudo.pad_length not in (0, 4) or len(options) > 40 or len(options) % 4:
            return DropReason.BAD_INNER
        next_header, payload = pseudo.next_header, payload[len(pseudo) :]
    if isinstance(header, IPv6) and len(source) == 16:
        head = bytearray(datagram.packet[:at])
        head[8:40] = source + destination
        return _fits(head, link, next_header, payload)
    head, link = _translated(header, source, destination, options)
    return _fits(head, link, next_header, payload)


def _translated(header: IPv4 | IPv6, source: bytes, destination: bytes, options: bytes = b"") -> tuple[bytearray, int]:
    """Return a header of the addresses' family with the fields that header has in common with it, and its link."""
    hops = header.ttl if isinstance(header, IPv4) else header.hop_limit
    if len(source) == 4:
        # net/ipv4/xfrm4_mode_beet.c and RFC 7402 §B.1.5: from IPv6, DF is set and the identification is 0.
        identification, df = (header.identification, header.df) if isinstance(header, IPv4) else (0, 1)
        built = IPv4(
            header_words=5 + len(options) // 4,
            dscp=header.dscp,
            ecn=header.ecn,
            identification=identification,
            df=df,
            ttl=hops,
            source=source,
            destination=destination,
            options=options,
        )
        return bytearray(built.build()), 9
    label = header.flow_label if isinstance(header, IPv6) else 0
    built6 = IPv6(
        dscp=header.dscp, ecn=header.ecn, flow_label=label, hop_limit=hops, source=source, destination=destination
    )
    return bytearray(built6.build()), 6


def _undo_nat(datagram: Datagram, next_header: int, payload: bytes, original: Inner) -> bytes:
    """RFC 3948 §3.1.2: the sender's TCP or UDP checksum was made with the addresses before NAT."""
    place = {TCP: 16, UDP: 6}.get(next_header)
    if place is None or len(payload) < place + 2:
        return payload
    old = (payload[place] << 8) | payload[place + 1]
    if next_header == UDP and old == 0:
        return payload
    removed = packed(original.remote) + packed(original.local)
    new = adjust_checksum(old, removed, datagram.header.source + datagram.header.destination)
    if next_header == UDP and new == 0:
        new = 0xFFFF
    return payload[:place] + struct.pack(">H", new) + payload[place + 2 :]


def _fits(head: bytearray, link: int, protocol: int, body: bytes) -> bytes | DropReason:
    if len(head) + len(body) > 65535:
        return DropReason.BAD_INNER
    return _finish(head, link, protocol, body)


def _finish(head: bytearray, link: int, protocol: int, body: bytes) -> bytes:
    head[link] = protocol
    octets = len(head) + len(body)
    if head[0] >> 4 == 4:
        struct.pack_into(">H", head, 2, octets)
        head[10:12] = b"\0\0"
        struct.pack_into(">H", head, 10, checksum(bytes(head)))
    else:
        struct.pack_into(">H", head, 4, octets - IPV6_HEADER)
    return bytes(head) + body
