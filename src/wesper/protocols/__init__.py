"""Protocols, sans-I/O: octets in, octets out; sequence numbers, keys and time are arguments."""

from typing import Final

from ..wire.eesp import IP_PROTOCOL as EESP_PROTOCOL
from ..wire.numbers import ESP, WESP
from ..wire.wesp import VERSION
from ..wire.wespv2 import VERSION as VERSION_2
from . import eesp, esp, wesp, wespv2
from .encapsulation import Arrived, Encapsulation, Format, Opened, Outgoing

PROTOCOLS: Final[dict[str, Encapsulation]] = {
    module.PROTOCOL.name: module.PROTOCOL for module in (esp, wesp, wespv2, eesp)
}

# By the version in a WESP header (RFC 5840 §2, draft-klassert-ipsecme-wespv2-01 §2.1).
WESP_VERSIONS: Final[dict[int, Encapsulation]] = {VERSION: wesp.PROTOCOL, VERSION_2: wespv2.PROTOCOL}


def by_ip_protocol(number: int, body: bytes) -> Encapsulation | None:
    """Return the protocol that a packet says it is, where no SA is known.   number: in the IP header."""
    if number == WESP:
        return WESP_VERSIONS.get(body[3] >> 6) if len(body) > 3 else wesp.PROTOCOL
    return {ESP: esp.PROTOCOL, EESP_PROTOCOL: eesp.PROTOCOL}.get(number)


__all__ = [
    "PROTOCOLS",
    "WESP_VERSIONS",
    "Arrived",
    "Encapsulation",
    "Format",
    "Opened",
    "Outgoing",
    "by_ip_protocol",
]
