"""Protocols, sans-I/O: octets in, octets out; sequence numbers, keys and time are arguments."""

from typing import Final

from ..wire.eesp import IP_PROTOCOL as EESP_PROTOCOL
from ..wire.numbers import ESP, WESP
from ..wire.wesp import VERSION
from ..wire.wespv2 import VERSION as VERSION_2
from . import eesp, esp, options, wesp, wespv2
from .encapsulation import Arrived, Encapsulation, Format, Opened, Outgoing

PROTOCOLS: Final[dict[str, Encapsulation]] = {
    module.PROTOCOL.name: module.PROTOCOL for module in (esp, wesp, wespv2, eesp)
}

# By the version in a WESP header (RFC 5840 §2, draft-klassert-ipsecme-wespv2-01 §2.1).
WESP_VERSIONS: Final[dict[int, Encapsulation]] = {VERSION: wesp.PROTOCOL, VERSION_2: wespv2.PROTOCOL}


_EESP_BEGINS: Final = 0x80  # draft-ietf-ipsecme-eesp-03 §2.2.1: the bit that is 1, version 0, reserved bits 0


def by_ip_protocol(number: int, body: bytes) -> Encapsulation | None:
    """Return the protocol that a packet says it is, where no SA is known.   number: in the IP header."""
    if number == WESP:
        return WESP_VERSIONS.get(body[3] >> 6) if len(body) > 3 else wesp.PROTOCOL
    return {ESP: esp.PROTOCOL, EESP_PROTOCOL: eesp.PROTOCOL}.get(number)


def in_udp(marker: bytes, body: bytes) -> Encapsulation | None:
    """Return the protocol that a datagram of port 4500 looks like, where no SA is known.

    marker, body: as `udp.carried` returns them.
    """
    if marker:
        return WESP_VERSIONS.get(body[3] >> 6) if len(body) > 3 else wesp.PROTOCOL
    return eesp.PROTOCOL if looks_like_eesp(body) else esp.PROTOCOL


def looks_like_eesp(body: bytes) -> bool:
    """Whether a packet can be EESP's of the version that is known: its own rules hold that need no SA.

    It can still be ESP with such an SPI: one of 1,024 SPIs that begin with the bit 1 passes, fewer of random ones.
    """
    if len(body) < eesp.HEADER or body[0] != _EESP_BEGINS or body[1] % 4:
        return False
    area = body[eesp.HEADER : eesp.HEADER + body[1]]
    return len(area) < body[1] or options.walk(area) is not None


__all__ = [
    "PROTOCOLS",
    "WESP_VERSIONS",
    "Arrived",
    "Encapsulation",
    "Format",
    "Opened",
    "Outgoing",
    "by_ip_protocol",
    "in_udp",
    "looks_like_eesp",
]
