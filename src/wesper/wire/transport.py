"""Heads of the transport protocols that selectors and dissection look at."""

from __future__ import annotations

from .format import Header, bits, octets


class TCP(Header, name="tcp", title="Transmission Control Protocol", source="RFC 9293 §3.1"):
    """TCP header with its options."""

    source_port: int = bits(16, "RFC 9293 §3.1", "source port", wire_name="srcport")
    destination_port: int = bits(16, "RFC 9293 §3.1", "destination port", wire_name="dstport")
    sequence: int = bits(32, "RFC 9293 §3.1", "sequence number of the first octet", wire_name="seq_raw")
    acknowledgment: int = bits(32, "RFC 9293 §3.1", "next octet expected", wire_name="ack_raw")
    header_words: int = bits(
        4, "RFC 9293 §3.1", "header length in 32-bit words", default=5, unit="words", wire_name="hdr_len"
    )
    reserved: int = bits(4, "RFC 9293 §3.1", "zero", wire_name="flags.res")
    flags: int = bits(8, "RFC 9293 §3.1, RFC 3168 §6.1", "CWR ECE URG ACK PSH RST SYN FIN", form="hex")
    window: int = bits(16, "RFC 9293 §3.1", "receive window, unscaled", wire_name="window_size_value")
    checksum: int = bits(16, "RFC 9293 §3.1", "over pseudo header and segment", form="hex")
    urgent: int = bits(16, "RFC 9293 §3.1", "urgent pointer", wire_name="urgent_pointer")
    options: bytes = octets("RFC 9293 §3.1", "options", length=lambda h: 4 * h.header_words - 20)


class ICMP(Header, name="icmp", title="Internet Control Message Protocol", source="RFC 792"):
    """First eight octets, the same in ICMPv6 (RFC 4443 §2.1)."""

    type: int = bits(8, "RFC 792, RFC 4443 §2.1", "message type")
    code: int = bits(8, "RFC 792, RFC 4443 §2.1", "message code")
    checksum: int = bits(16, "RFC 792, RFC 4443 §2.3", "ones' complement sum", form="hex")
    rest: int = bits(32, "RFC 792, RFC 4443", "identifier and sequence number, or MTU", form="hex")
