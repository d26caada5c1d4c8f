"""What a flow is called on the wire: WESPv2's flow identifier, EESP's Session ID.

The network and the receiver's workers spread packets by it, so it never changes within a flow, and it tells nothing
about the flow to whoever has no key.
Source: draft-klassert-ipsecme-wespv2-01 §2.2, draft-ietf-ipsecme-eesp-03 §2.9.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from ..crypto.hkdf import hkdf_expand
from ..crypto.siphash import KEY, siphash
from ..errors import ConfigError
from .ip import WITH_PORTS, Datagram

_KEY_INFO: Final = b"wesper flow identifier"
_MOST: Final = (1 << 64) - 1


class FlowKind(enum.Enum):
    """Where a flow's identifier comes from."""

    FIXED = "fixed"  # the same for all packets of the SA
    FIVE_TUPLE = "5-tuple"  # keyed hash of addresses, protocol and ports
    DSCP = "dscp"  # the inner packet's DSCP: a class, which says no more than an outer DSCP would
    CPU = "cpu"  # number of the CPU whose work the flow is: the same hash, over so many CPUs
    MARK = "mark"  # a number that comes with each packet: a VNI, a VRF, a queue


@dataclass(frozen=True, slots=True)
class FlowPolicy:
    """How flows are named.

    value: FIXED: the identifier; CPU: how many CPUs, 1..65536; else 0.
    """

    kind: FlowKind = FlowKind.FIXED
    value: int = 0

    def __post_init__(self) -> None:
        low, high = {FlowKind.FIXED: (0, _MOST), FlowKind.CPU: (1, 65536)}.get(self.kind, (0, 0))
        if not low <= self.value <= high:
            raise ConfigError(f"value {self.value} of {self.kind.value}", key="value", expected=f"{low}..{high}")


def flow_key(key: bytes, auth_key: bytes) -> bytes:
    """Return the 16 octets that an SA's flows are hashed with: both engines and every run find the same."""
    return hkdf_expand("sha256", key + auth_key, _KEY_INFO, KEY)


def identify(policy: FlowPolicy, hash_key: bytes, datagram: Datagram | None, mark: int) -> int:
    """Return the identifier of a packet's flow, 0..2^64-1; who writes it takes as many low bits as there is room for.

    hash_key: of `flow_key`.   datagram: None for dummies and AGGFRAG payloads, whose tuple and class are 0.
    mark: 0..2^32-1, the caller's.
    """
    match policy.kind:
        case FlowKind.FIXED:
            return policy.value
        case FlowKind.MARK:
            return mark
        case FlowKind.DSCP:
            return 0 if datagram is None else datagram.header.dscp
        case FlowKind.FIVE_TUPLE:
            return 0 if datagram is None else siphash(hash_key, five_tuple(datagram))
        case FlowKind.CPU:
            return 0 if datagram is None else siphash(hash_key, five_tuple(datagram)) % policy.value


def five_tuple(datagram: Datagram) -> bytes:
    """Return source, destination, protocol and ports as octets.

    Ports are 0 where the protocol has none, and in all pieces of a fragmented packet, so that they stay together.
    """
    ports = bytes(4)
    at = datagram.upper_at
    if datagram.upper in WITH_PORTS and not datagram.fragment and at + 4 <= len(datagram.packet):
        ports = datagram.packet[at : at + 4]
    header = datagram.header
    return header.source + header.destination + struct.pack(">B", datagram.upper) + ports
