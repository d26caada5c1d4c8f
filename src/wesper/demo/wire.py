"""What the frames of a capture are: every one classified, counted and searched for a marker, and what it shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import CaptureError
from ..pcap import LinkType, ip_offset, open_capture
from ..protocols import PROTOCOLS, by_ip_protocol, in_udp, ip, udp
from ..protocols import psp as psp_protocol
from ..protocols.ip import Datagram
from ..verdict import DropReason
from ..wire.layouts import LAYOUTS
from ..wire.numbers import ICMP, ICMPV6, PROTOCOL_NAMES, UDP
from ..wire.psp import PORT as PSP_PORT
from ..wire.udp import IPSEC_NAT_T_PORT

LABELS: Final[dict[str, str]] = {name: layout.parts[0].header.__name__ for name, layout in LAYOUTS.items()}
"""Every protocol's name, as people write it."""
KEEPALIVE, ARP, NEIGHBOURS = "NAT keepalive", "ARP", "IPv6 neighbour discovery"

_OF_ANY_TUNNEL = frozenset((KEEPALIVE, ARP, NEIGHBOURS))
_ETHERTYPE_ARP = 0x0806
_ND = range(130, 138)
"""ICMPv6 types of listener discovery (RFC 2710; RFC 3810 has 143 besides) and of neighbour discovery (RFC 4861)."""
_MLDV2_REPORT = 143


class Shown(NamedTuple):
    """What a protected packet shows to everyone.

    port: its UDP source port, None without UDP.   flow: what its header calls the flow, None if it does not.
    """

    spi: int
    port: int | None
    flow: int | None


@dataclass(slots=True)
class Seen:
    """What an eavesdropper saw.

    frames: how many of each kind.   marked: how many of each kind hold the marker.   octets: of all frames.
    shown: how many of the tunnel's packets showed the same.
    """

    frames: Counter[str] = field(default_factory=Counter)
    marked: Counter[str] = field(default_factory=Counter)
    octets: int = 0
    shown: Counter[Shown] = field(default_factory=Counter)

    def of(self, protocol: str) -> int:
        """Return the number of a protocol's packets."""
        return sum(self.frames[kind] for kind in kinds_of(protocol))

    def foreign(self, protocol: str) -> Counter[str]:
        """Return the frames that a tunnel of a protocol does not make."""
        own = _OF_ANY_TUNNEL.union(kinds_of(protocol))
        return Counter({kind: count for kind, count in self.frames.items() if kind not in own})


def kinds_of(protocol: str) -> tuple[str, str]:
    """Return what a protocol's packets are called, in IP and in UDP."""
    return LABELS[protocol], f"{LABELS[protocol]} in UDP"


def read(path: Path, marker: bytes, spis: Collection[int]) -> Seen:
    """Classify every frame of a capture.   marker: octets to search for.   spis: of the tunnel.

    Raises CaptureError, also for a capture that ends inside a frame.
    """
    seen = Seen()
    with open_capture(path, on_truncated=_raise) as capture:
        for record in capture:
            kind, shown = look(record.data, spis, link_type=record.link_type)
            seen.frames[kind] += 1
            seen.marked[kind] += marker in record.data
            seen.octets += len(record.data)
            if shown is not None:
                seen.shown[shown] += 1
    return seen


def packets(path: Path) -> Iterator[bytes]:
    """Yield the IP packets of a capture, from their IP headers."""
    with open_capture(path, on_truncated=_raise) as capture:
        for record in capture:
            at = ip_offset(record.link_type, record.data)
            if at is not None:
                yield record.data[at:]


def look(frame: bytes, spis: Collection[int], *, link_type: int = LinkType.ETHERNET) -> tuple[str, Shown | None]:
    """Return what a frame is, by its octets alone, and what it shows if it is of the tunnel.   spis: of the tunnel.

    A packet counts as a protocol's only with an SPI of the tunnel, in UDP only on the protocol's port, and only if
    what needs no key is in order.
    """
    at = ip_offset(link_type, frame)
    if at is None:
        arp = link_type == LinkType.ETHERNET and int.from_bytes(frame[12:14], "big") == _ETHERTYPE_ARP
        return (ARP if arp else "not IP"), None
    datagram = ip.parse(frame[at:])
    if datagram is None:
        return "malformed IP", None
    if datagram.fragment:
        return "IP fragment", None
    body = datagram.packet[datagram.upper_at :]
    found = carried(datagram)
    if found is DropReason.KEEPALIVE:
        return KEEPALIVE, None
    if not isinstance(found, DropReason):
        return _of_a_protocol(*found, udp.ports(body) if datagram.upper == UDP else None, spis)
    if datagram.upper == ICMPV6 and body and (body[0] in _ND or body[0] == _MLDV2_REPORT):
        return NEIGHBOURS, None
    if datagram.upper in (ICMP, ICMPV6) and body and body[0] in (0, 8, 128, 129):
        return "ICMP echo", None
    return PROTOCOL_NAMES.get(datagram.upper, f"IP protocol {datagram.upper}"), None


def carried(datagram: Datagram) -> tuple[str, bytes] | DropReason:
    """Return which protocol protects a packet, as it says itself, and its octets from that protocol's first on.

    Or why it is none's: KEEPALIVE, or that it is something else.
    """
    body = datagram.packet[datagram.upper_at :]
    if datagram.upper != UDP:
        way = by_ip_protocol(datagram.upper, body)
        return DropReason.NOT_FOR_US if way is None else (way.name, body)
    ports = udp.ports(body)
    if ports is None or (ports[1] != PSP_PORT and IPSEC_NAT_T_PORT not in ports):
        return DropReason.NOT_FOR_US
    if ports[1] == PSP_PORT:
        return "psp", body[udp.HEADER : int.from_bytes(body[4:6], "big")]
    content = udp.carried(body)
    if isinstance(content, DropReason):
        return content
    way = in_udp(*content)
    return DropReason.BAD_VERSION if way is None else (way.name, content[1])


def _of_a_protocol(
    protocol: str, body: bytes, ports: tuple[int, int] | None, spis: Collection[int]
) -> tuple[str, Shown | None]:
    spi, flow = 0, None
    if protocol == "psp":  # its rules are its own: no SA is looked for, so nothing locates one
        fine = not isinstance(psp_protocol.header_version(body), DropReason)
        spi = int.from_bytes(body[4:8], "big")
    else:
        located = PROTOCOLS[protocol].locate(body)
        fine = not isinstance(located, DropReason)
        if not isinstance(located, DropReason):
            spi, flow = located.spi, PROTOCOLS[protocol].shown_flow(body)
    if not fine:
        return f"malformed {LABELS[protocol]}", None
    if spi not in spis:
        return f"{LABELS[protocol]} of an unknown SPI", None
    return kinds_of(protocol)[ports is not None], Shown(spi, ports[0] if ports else None, flow)


def _raise(error: CaptureError) -> None:
    raise error
