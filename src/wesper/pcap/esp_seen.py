"""What a capture shows of ESP, WESP, WESPv2 and EESP without a key: SAs, by SPI and addresses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..protocols import Encapsulation, by_ip_protocol, in_udp, ip, looks_like_eesp, udp
from ..verdict import DropReason
from ..wire.eesp import IP_PROTOCOL as EESP_PROTOCOL
from ..wire.numbers import UDP

NAMES = {"esp": "ESP", "wesp": "WESP", "wespv2": "WESPv2", "eesp": "EESP"}
WINDOW = 1024
"""How far behind the highest number a packet is still known to be there already."""
MAX_FLOWS = 1 << 18
"""Flow identifiers and Session IDs that are told apart, of all SAs together."""

_MASK = (1 << WINDOW) - 1
_HALF = 1 << 31


@dataclass(slots=True)
class Seen:
    """What one SPI between two addresses sent.

    Numbers are 32 bits on the wire and counted on over their wrap: `first` and `highest` begin in the first packet's
    half. duplicates: numbers that came twice within the window.   late: behind the window, so that they may be
    either.   An extended number's high half is not sent, so whether there is one can't be seen.
    EESP's numbers stand where only its peers know (draft-ietf-ipsecme-eesp-03 §2.3): `numbered` is False.
    flows: flow identifiers or Session IDs that headers showed.   more_flows: there was no room for others.
    """

    source: str
    destination: str
    spi: int
    udp: bool
    first: int
    highest: int
    lowest: int
    protocol: str = "esp"
    numbered: bool = True
    packets: int = 0
    octets: int = 0
    duplicates: int = 0
    late: int = 0
    flows: set[int] = field(default_factory=set)
    more_flows: bool = False
    _window: int = 0

    def count(self, sequence: int, octets: int) -> None:
        """Add a packet.   sequence: 32 bits."""
        self.packets += 1
        self.octets += octets
        if not self.numbered:
            return
        step = (sequence - self.highest + _HALF) % (1 << 32) - _HALF
        if step > 0 or self.packets == 1:
            self._window = ((self._window << step) | 1) & _MASK if step < WINDOW else 1
            self.highest += step
            return
        if -step >= WINDOW:
            self.late += 1
        elif self._window >> -step & 1:
            self.duplicates += 1
        else:
            self._window |= 1 << -step
        self.lowest = min(self.lowest, self.highest + step)

    @property
    def missing(self) -> int:
        """Numbers between the lowest and the highest that never came, as far as the window shows."""
        return max(self.highest - self.lowest + 1 - (self.packets - self.duplicates), 0)

    @property
    def wraps(self) -> int:
        """How often the 32 bits began anew."""
        return (self.highest >> 32) - (self.lowest >> 32)

    def as_json(self) -> dict[str, Any]:
        """Return it with stable names."""
        numbers = {
            "first_sequence": self.lowest % (1 << 32),
            "last_sequence": self.highest % (1 << 32),
            "missing": self.missing,
            "duplicates": self.duplicates,
            "late": self.late,
            "wraps": self.wraps,
        }
        return {
            "spi": f"{self.spi:#010x}",
            "src": self.source,
            "dst": self.destination,
            "protocol": self.protocol,
            "udp": self.udp,
            "packets": self.packets,
            "octets": self.octets,
            **(numbers if self.numbered else dict.fromkeys(numbers)),
            "flows": len(self.flows) or None,
            "more_flows": self.more_flows,
        }


@dataclass(frozen=True, slots=True)
class Carried:
    """A packet that looks like one of these protocols.   body: from its first octet."""

    protocol: Encapsulation
    body: bytes
    udp: bool

    @property
    def name(self) -> str:
        """As people say it."""
        return NAMES[self.protocol.name] + (" in UDP" if self.udp else "")


class SeenTable:
    """SAs that a capture has shown, at most so many, and their flows, at most so many of all of them."""

    def __init__(self) -> None:
        self.rows: dict[tuple[object, ...], Seen] = {}
        self._flows = 0

    def count(self, datagram: ip.Datagram, carried: Carried, room: int) -> bool:
        """Add a packet to a table of at most room rows.   Returns False if it had no room."""
        located = carried.protocol.locate(carried.body)
        if isinstance(located, DropReason):
            return True
        header, name = datagram.header, carried.protocol.name
        key = (header.source, header.destination, located.spi, carried.udp, name)
        seen, low = self.rows.get(key), located.low or 0
        if seen is None:
            if len(self.rows) >= room:
                return False
            ends = str(ip.address(header.source)), str(ip.address(header.destination))
            numbered = located.low is not None
            seen = self.rows[key] = Seen(*ends, located.spi, carried.udp, low, low, low, name, numbered)
        seen.count(low, len(carried.body))
        flow = carried.protocol.shown_flow(carried.body)
        if flow is not None and flow not in seen.flows:
            if self._flows < MAX_FLOWS:
                self._flows += 1
                seen.flows.add(flow)
            else:
                seen.more_flows = True
        return True


def look(datagram: ip.Datagram, ports: frozenset[int]) -> Carried | DropReason | None:
    """Return the protocol of the family that a packet looks like, None if it looks like none.

    ports: UDP ports where they are expected. A packet there that is none of them has a reason, as `udp.carried` says.
    """
    body = datagram.packet[datagram.upper_at :]
    if datagram.upper != UDP:
        protocol = by_ip_protocol(datagram.upper, body)
        # The number is one for any experiment.
        if protocol is None or (datagram.upper == EESP_PROTOCOL and not looks_like_eesp(body)):
            return None
        return Carried(protocol, body, udp=False)
    found = udp.ports(body)
    if found is None or ports.isdisjoint(found):
        return None
    carried = udp.carried(body)
    if isinstance(carried, DropReason):
        return carried
    named = in_udp(*carried)
    if named is None or isinstance(named.locate(carried[1]), DropReason):
        return None
    return Carried(named, carried[1], udp=True)
