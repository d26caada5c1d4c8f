"""IPv4 header (RFC 791 §3.1; DSCP RFC 2474 §3; ECN RFC 3168 §5)."""

from __future__ import annotations

from .format import Header, bits, octets
from .numbers import ECN_NAMES, PROTOCOL_NAMES


class IPv4(Header, name="ip", title="Internet Protocol version 4", source="RFC 791 §3.1"):
    """IPv4 header with its options.   checksum is as found or given: wire computes nothing."""

    version: int = bits(4, "RFC 791 §3.1", "IP version", default=4)
    header_words: int = bits(
        4, "RFC 791 §3.1", "header length in 32-bit words", default=5, unit="words", wire_name="hdr_len"
    )
    dscp: int = bits(6, "RFC 2474 §3", "differentiated services codepoint", wire_name="dsfield.dscp")
    ecn: int = bits(2, "RFC 3168 §5", "explicit congestion notification", names=ECN_NAMES, wire_name="dsfield.ecn")
    total_length: int = bits(16, "RFC 791 §3.1", "header and payload", unit="octets", wire_name="len")
    identification: int = bits(
        16, "RFC 791 §3.1, RFC 6864 §4", "identifies the fragments of a datagram", form="hex", wire_name="id"
    )
    reserved: int = bits(1, "RFC 791 §3.1", "must be zero", wire_name="flags.rb")
    df: int = bits(1, "RFC 791 §3.1", "do not fragment", wire_name="flags.df")
    mf: int = bits(1, "RFC 791 §3.1", "more fragments follow", wire_name="flags.mf")
    fragment_offset: int = bits(
        13, "RFC 791 §3.1", "where this fragment belongs", unit="x 8 octets", wire_name="frag_offset"
    )
    ttl: int = bits(8, "RFC 791 §3.1", "time to live", default=64, unit="hops")
    protocol: int = bits(8, "RFC 791 §3.1", "next-layer protocol", names=PROTOCOL_NAMES, wire_name="proto")
    checksum: int = bits(16, "RFC 791 §3.1", "ones' complement sum of the header", form="hex")
    source: bytes = octets("RFC 791 §3.1", "source address", size=4, form="address", wire_name="src")
    destination: bytes = octets("RFC 791 §3.1", "destination address", size=4, form="address", wire_name="dst")
    options: bytes = octets("RFC 791 §3.1", "options", length=lambda h: 4 * h.header_words - 20)
