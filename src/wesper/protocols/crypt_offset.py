"""How much of a payload stays readable: a policy, turned into an offset for each packet, with a guard.

Headers are there for networks and network cards; the data behind them is nobody's. So the offset never goes beyond the
transport header of the packet at hand, whatever it is asked for, unless `expose_payload` says so in so many words.
Source: draft-klassert-ipsecme-wespv2-01 §2.1, draft-ietf-ipsecme-eesp-03 §3.1.2.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from ..errors import ConfigError
from ..wire.numbers import DCCP, SCTP, TCP, UDP, UDP_LITE
from .ip import Datagram

UNIT: Final = 4  # octets
MAX_OCTETS: Final = 63 * UNIT  # six bits on the wire
_FIXED_HEADERS: Final = {UDP: 8, UDP_LITE: 8, SCTP: 12}


class Exposure(enum.Enum):
    """What a crypt offset is to leave readable."""

    NONE = "none"
    L3 = "l3"  # the inner IP header with its options and extension headers
    L3_L4 = "l3+l4"  # and the header of TCP, UDP, UDP-Lite, SCTP or DCCP
    OCTETS = "octets"  # so many octets, or fewer


@dataclass(frozen=True, slots=True)
class CryptOffset:
    """A sender's policy.

    octets: with OCTETS, where encryption begins, a multiple of 4 up to 252. EESP counts its Payload Info Header.
    expose_payload: with OCTETS, let the offset go beyond the transport header.
    """

    exposure: Exposure = Exposure.NONE
    octets: int = 0
    expose_payload: bool = False

    def __post_init__(self) -> None:
        if self.exposure is not Exposure.OCTETS and (self.octets or self.expose_payload):
            raise ConfigError(
                f"octets or expose_payload with {self.exposure.value!r}", key="crypt_offset", expected="neither"
            )
        check_octets("crypt_offset", self.octets)


def check_octets(key: str, octets: int) -> None:
    """Raise ConfigError if this is no crypt offset."""
    if not 0 <= octets <= MAX_OCTETS or octets % UNIT:
        raise ConfigError(f"{key} of {octets} octets", key=key, expected=f"a multiple of {UNIT}, 0..{MAX_OCTETS}")


def offset_octets(policy: CryptOffset, datagram: Datagram | None, payload_octets: int, lead: int, limit: int) -> int:
    """Return where encryption begins in this packet, a multiple of 4 octets.

    datagram: the packet whose last octets are the payload's last; None for dummies and AGGFRAG payloads, of which
    nothing is shown.   payload_octets: without TFC padding.
    lead: octets that stand in front of the payload and count (EESP's Payload Info Header).   limit: the peer's maximum.
    """
    if datagram is None or policy.exposure is Exposure.NONE:
        return 0
    outside = len(datagram.packet) - payload_octets  # negative: BEET's pseudo header stands in front
    shown = (datagram.upper_at if policy.exposure is Exposure.L3 else _transport_end(datagram)) - outside
    octets = lead + max(shown, 0)
    if policy.exposure is Exposure.OCTETS:
        octets = min(policy.octets, lead + payload_octets if policy.expose_payload else octets)
    octets = min(octets, limit)
    return octets - octets % UNIT


def _transport_end(datagram: Datagram) -> int:
    """Return where the transport header ends; where the IP headers do if there is none, or none that is known here."""
    packet, at = datagram.packet, datagram.upper_at
    if datagram.offset:
        return at
    octets = _FIXED_HEADERS.get(datagram.upper, 0)
    if datagram.upper == TCP and at + 13 <= len(packet):
        octets = 4 * (packet[at + 12] >> 4)  # RFC 9293 §3.1: data offset
    elif datagram.upper == DCCP and at + 5 <= len(packet):
        octets = 4 * packet[at + 4]  # RFC 4340 §5.1: data offset
    return at + octets if at + octets <= len(packet) else at
