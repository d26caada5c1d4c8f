"""IPv6 header and extension headers (RFC 8200 §3, §4)."""

from __future__ import annotations

from .format import Header, bits, octets
from .numbers import ECN_NAMES, PROTOCOL_NAMES


class IPv6(Header, name="ipv6", title="Internet Protocol version 6", source="RFC 8200 §3"):
    """Fixed IPv6 header."""

    version: int = bits(4, "RFC 8200 §3", "IP version", default=6)
    dscp: int = bits(6, "RFC 2474 §3", "differentiated services codepoint", wire_name="tclass.dscp")
    ecn: int = bits(2, "RFC 3168 §5", "explicit congestion notification", names=ECN_NAMES, wire_name="tclass.ecn")
    flow_label: int = bits(20, "RFC 8200 §6, RFC 6437", "labels a flow", form="hex", wire_name="flow")
    payload_length: int = bits(16, "RFC 8200 §3", "all that follows this header", unit="octets", wire_name="plen")
    next_header: int = bits(8, "RFC 8200 §3", "type of the header that follows", names=PROTOCOL_NAMES, wire_name="nxt")
    hop_limit: int = bits(8, "RFC 8200 §3", "hops left", default=64, unit="hops", wire_name="hlim")
    source: bytes = octets("RFC 8200 §3", "source address", size=16, form="address", wire_name="src")
    destination: bytes = octets("RFC 8200 §3", "destination address", size=16, form="address", wire_name="dst")


class IPv6Extension(Header, name="ipv6.ext", title="IPv6 extension header", source="RFC 8200 §4"):
    """Hop-by-hop, routing, destination options or mobility header: all share this frame."""

    next_header: int = bits(8, "RFC 8200 §4", "type of the header that follows", names=PROTOCOL_NAMES, wire_name="nxt")
    length_units: int = bits(8, "RFC 8200 §4", "length without the first 8 octets", unit="x 8 octets", wire_name="len")
    data: bytes = octets("RFC 8200 §4", "options or routing data", length=lambda h: 8 * h.length_units + 6)


class IPv6Fragment(Header, name="ipv6.fraghdr", title="IPv6 fragment header", source="RFC 8200 §4.5"):
    """Fragment header."""

    next_header: int = bits(
        8, "RFC 8200 §4.5", "first header of the fragmentable part", names=PROTOCOL_NAMES, wire_name="nxt"
    )
    reserved: int = bits(8, "RFC 8200 §4.5", "zero, ignored", wire_name="reserved_octet")
    fragment_offset: int = bits(
        13, "RFC 8200 §4.5", "where this fragment belongs", unit="x 8 octets", wire_name="offset"
    )
    reserved_bits: int = bits(2, "RFC 8200 §4.5", "zero, ignored", wire_name="reserved_bits")
    more: int = bits(1, "RFC 8200 §4.5", "more fragments follow")
    identification: int = bits(
        32, "RFC 8200 §4.5", "identifies the fragments of a packet", form="hex", wire_name="ident"
    )
