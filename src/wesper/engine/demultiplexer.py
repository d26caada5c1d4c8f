"""Which protocol an arriving packet is, by what the host's inbound SAs expect where.

Source: RFC 3948 §2, RFC 5840 §2.1, draft-klassert-ipsecme-wespv2-01 §2.1 and §2.3, draft-ietf-ipsecme-eesp-03 §6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..protocols import PROTOCOLS, WESP_VERSIONS, Encapsulation, udp
from ..protocols.ip import Datagram
from ..sa import Profile
from ..verdict import DropReason
from ..wire.numbers import ESP, UDP

_ESP: Final = PROTOCOLS["esp"]
_EESP: Final = PROTOCOLS["eesp"]


@dataclass(frozen=True, slots=True)
class Carried:
    """A packet of one of the protocols.

    body: from the protocol's first octet, which is packet[at].   ports: source and destination if it came in UDP.
    """

    protocol: Encapsulation
    body: bytes
    at: int
    ports: tuple[int, int] | None


class Demultiplexer:
    """Sorts packets by IP protocol, UDP port and first octets.

    ESP is looked for without any SA, as RFC 4303 has it; the others only where an SA of theirs is: their numbers and
    markers may mean something else to the next handler.
    """

    def __init__(self, udp_ports: Iterable[int]) -> None:
        self._ports: Counter[int] = Counter(udp_ports)
        self._in_udp: Counter[tuple[int, str]] = Counter()
        self._in_ip: Counter[tuple[int, str]] = Counter()

    def expect(self, profile: Profile, users: int) -> None:
        """Take an inbound SA of this profile into account, or (-1) no longer."""
        protocol = profile.ways
        if profile.encapsulation is None:
            self._in_ip[protocol.ip_protocol(profile), protocol.name] += users
        else:
            port = profile.encapsulation.local_port
            self._ports[port] += users
            self._in_udp[port, protocol.name] += users

    def sort(self, datagram: Datagram) -> Carried | DropReason:
        """Return what a packet carries.

        Drops: NOT_FOR_US, FRAGMENT, BAD_IP, KEEPALIVE, TRUNCATED_HEADER.
        """
        body = datagram.packet[datagram.upper_at :]
        if datagram.upper == UDP:
            return self._sort_udp(datagram, body)
        expected = {name for (number, name), users in self._in_ip.items() if users and number == datagram.upper}
        if datagram.upper != ESP and not expected:
            return DropReason.NOT_FOR_US
        if datagram.fragment:
            return DropReason.FRAGMENT
        if datagram.upper == ESP:
            return Carried(_ESP, body, datagram.upper_at, None)
        protocol = _EESP if _EESP.name in expected else _of_version(body, expected)
        return Carried(protocol, body, datagram.upper_at, None)

    def _sort_udp(self, datagram: Datagram, payload: bytes) -> Carried | DropReason:
        ports = None
        if datagram.offset == 0:
            ports = udp.ports(payload)
            if ports is None or not self._ports[ports[1]]:
                return DropReason.NOT_FOR_US
        if ports is None or datagram.fragment:
            return DropReason.FRAGMENT
        carried = udp.carried(payload)
        if isinstance(carried, DropReason):
            return carried
        marker, body = carried
        at = datagram.upper_at + udp.HEADER + len(marker)
        expected = {name for (port, name), users in self._in_udp.items() if users and port == ports[1]}
        if marker:
            if not expected & {protocol.name for protocol in WESP_VERSIONS.values()}:
                return DropReason.NOT_FOR_US
            return Carried(_of_version(body, expected), body, at, ports)
        # ESP's SPIs have a first bit of 0 where EESP's SAs use the port too.
        is_eesp = body[0] & 0x80 and _EESP.name in expected
        return Carried(_EESP if is_eesp else _ESP, body, at, ports)


def _of_version(body: bytes, expected: set[str]) -> Encapsulation:
    """Return WESP or WESPv2: what the version bits say, if it is expected; else the one that is, to refuse it."""
    known = [protocol for protocol in WESP_VERSIONS.values() if protocol.name in expected]
    named = WESP_VERSIONS.get(body[3] >> 6) if len(body) > 3 else None
    return named if named in known and named is not None else known[0]
