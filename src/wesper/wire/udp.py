"""UDP header (RFC 768) and what RFC 3948 puts behind it."""

from __future__ import annotations

from typing import Final

from .format import Header, bits

NAT_KEEPALIVE: Final = b"\xff"  # RFC 3948 §2.3
NON_ESP_MARKER: Final = bytes(4)  # RFC 3948 §2.2
WESP_IDENTIFIER: Final = bytes((0, 0, 0, 2))  # RFC 5840 §2.1: the reserved SPI 2
IPSEC_NAT_T_PORT: Final = 4500  # RFC 3948 §2.1


class UDP(Header, name="udp", title="User Datagram Protocol", source="RFC 768"):
    """UDP header."""

    source_port: int = bits(16, "RFC 768", "source port", wire_name="srcport")
    destination_port: int = bits(16, "RFC 768", "destination port", wire_name="dstport")
    length: int = bits(16, "RFC 768", "header and payload", unit="octets")
    checksum: int = bits(16, "RFC 768, RFC 3948 §2.1", "zero: none", form="hex")
