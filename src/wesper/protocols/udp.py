"""ESP in UDP: the header, the demultiplexer of port 4500, keepalives (RFC 3948)."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from ..verdict import DropReason
from ..wire.numbers import UDP as UDP_PROTOCOL
from ..wire.udp import IPSEC_NAT_T_PORT, NAT_KEEPALIVE, NON_ESP_MARKER, UDP, WESP_IDENTIFIER
from .ip import checksum, pseudo_header

HEADER = 8


@dataclass(frozen=True, slots=True)
class UDPEncapsulation:
    """UDP around an SA's packets.

    local_port, remote_port: as this host sees them.
    checksum: compute it; None: not over IPv4 (RFC 3948 §2.1 wants 0 there), computed over IPv6.
    """

    local_port: int = IPSEC_NAT_T_PORT
    remote_port: int = IPSEC_NAT_T_PORT
    checksum: bool | None = None

    def __post_init__(self) -> None:
        for key, port in (("local_port", self.local_port), ("remote_port", self.remote_port)):
            if not 0 <= port <= 0xFFFF:
                raise ConfigError(f"port {port}", key=f"encapsulation.{key}", expected="0..65535")


def encapsulate(encapsulation: UDPEncapsulation, source: bytes, destination: bytes, body: bytes) -> bytes:
    """Return UDP header and body.   source, destination: addresses of the IP header around it, 4 or 16 octets."""
    octets = HEADER + len(body)
    header = UDP(encapsulation.local_port, encapsulation.remote_port, octets, 0)
    computed = encapsulation.checksum if encapsulation.checksum is not None else len(source) == 16
    if computed:
        total = checksum(pseudo_header(source, destination, UDP_PROTOCOL, octets) + header.build() + body)
        header.checksum = total or 0xFFFF  # RFC 768: zero would mean none
    return header.build() + body


def ports(payload: bytes) -> tuple[int, int] | None:
    """Return source and destination port of a UDP datagram, None if it is shorter than its header."""
    if len(payload) < HEADER:
        return None
    return (payload[0] << 8) | payload[1], (payload[2] << 8) | payload[3]


def content(payload: bytes) -> bytes | DropReason:
    """Return the ESP or EESP packet in a datagram, or why there is none.

    payload: as `carried` takes it.
    """
    found = carried(payload)
    if isinstance(found, DropReason):
        return found
    marker, body = found
    return DropReason.NOT_FOR_US if marker else body


def carried(payload: bytes) -> tuple[bytes, bytes] | DropReason:
    """Return what an IPsec datagram carries, the marker in front of it apart, or why it is no protocol of ours.

    payload: from the UDP header to the end of the IP packet; the UDP length may be less and counts.
    marker: WESP's identifier, or nothing.
    Source: RFC 3948 §2, §2.2, §2.3; RFC 5840 §2.1.
    """
    octets = (payload[4] << 8) | payload[5]
    if not HEADER <= octets <= len(payload):
        return DropReason.BAD_IP
    body = payload[HEADER:octets]
    if body == NAT_KEEPALIVE:
        return DropReason.KEEPALIVE
    if len(body) < 4:
        return DropReason.TRUNCATED_HEADER
    if body[:4] == NON_ESP_MARKER:
        return DropReason.NOT_FOR_US
    if body[:4] == WESP_IDENTIFIER:
        return WESP_IDENTIFIER, body[4:]
    return b"", body
