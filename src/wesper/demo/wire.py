"""What the frames of a capture are: every one classified, counted, and searched for a marker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CaptureError
from ..pcap import LinkType, ip_offset, open_capture
from ..protocols import PROTOCOLS, ip, udp
from ..protocols import psp as psp_protocol
from ..verdict import DropReason
from ..wire.numbers import ESP, ICMP, ICMPV6, PROTOCOL_NAMES, UDP

ESP_IN_UDP, ESP_IN_IP, KEEPALIVE = "ESP in UDP", "ESP", "NAT keepalive"
ARP, NEIGHBOURS = "ARP", "IPv6 neighbour discovery"
UNKNOWN_SPI = "ESP of an unknown SPI"
PSP, UNKNOWN_PSP = "PSP", "PSP of an unknown SPI"
OF_A_TUNNEL = frozenset((ESP_IN_UDP, ESP_IN_IP, PSP, KEEPALIVE, ARP, NEIGHBOURS))
"""What may be on a wire that only a tunnel uses."""

_ETHERTYPE_ARP = 0x0806
_ND = range(130, 138)
"""ICMPv6 types of listener discovery (RFC 2710; RFC 3810 has 143 besides) and of neighbour discovery (RFC 4861)."""
_MLDV2_REPORT = 143


@dataclass(slots=True)
class Seen:
    """What an eavesdropper saw.

    frames: how many of each kind.   marked: how many of each kind hold the marker.   octets: of all frames.
    """

    frames: Counter[str] = field(default_factory=Counter)
    marked: Counter[str] = field(default_factory=Counter)
    octets: int = 0

    def foreign(self) -> Counter[str]:
        """Return the frames that a tunnel does not make."""
        return Counter({kind: count for kind, count in self.frames.items() if kind not in OF_A_TUNNEL})

    def esp(self) -> int:
        """Return the number of ESP packets."""
        return self.frames[ESP_IN_UDP] + self.frames[ESP_IN_IP]

    def psp(self) -> int:
        """Return the number of PSP packets."""
        return self.frames[PSP]


def read(
    path: Path, marker: bytes, ports: Collection[int], spis: Collection[int], psp_ports: Collection[int] = ()
) -> Seen:
    """Classify every frame of a capture.   marker: octets to search for.   ports, spis, psp_ports: of the tunnel.

    Raises CaptureError, also for a capture that ends inside a frame.
    """
    seen = Seen()
    with open_capture(path, on_truncated=_raise) as capture:
        for record in capture:
            kind = kind_of(record.data, ports, spis, psp_ports, link_type=record.link_type)
            seen.frames[kind] += 1
            seen.marked[kind] += marker in record.data
            seen.octets += len(record.data)
    return seen


def packets(path: Path) -> Iterator[bytes]:
    """Yield the IP packets of a capture, from their IP headers."""
    with open_capture(path, on_truncated=_raise) as capture:
        for record in capture:
            at = ip_offset(record.link_type, record.data)
            if at is not None:
                yield record.data[at:]


def kind_of(
    frame: bytes,
    ports: Collection[int],
    spis: Collection[int],
    psp_ports: Collection[int] = (),
    *,
    link_type: int = LinkType.ETHERNET,
) -> str:
    """Return what a frame is, by its octets alone.   ports: of ESP in UDP.   psp_ports: that PSP goes to.

    ESP counts as such only with an SPI of the tunnel, in UDP only on a port of the tunnel, and only if every length
    adds up: what is merely near to it keeps the name of what it is in. So it is with PSP.
    """
    at = ip_offset(link_type, frame)
    if at is None:
        arp = link_type == LinkType.ETHERNET and int.from_bytes(frame[12:14], "big") == _ETHERTYPE_ARP
        return ARP if arp else "not IP"
    datagram = ip.parse(frame[at:])
    if datagram is None:
        return "malformed IP"
    if datagram.fragment:
        return "IP fragment"
    body = datagram.packet[datagram.upper_at :]
    if datagram.upper == ESP:
        return _esp(body, spis, ESP_IN_IP)
    if datagram.upper == UDP and (found := udp.ports(body)) and not set(found).isdisjoint(ports):
        content = udp.content(body)
        if content is DropReason.KEEPALIVE:
            return KEEPALIVE
        if not isinstance(content, DropReason):
            return _esp(content, spis, ESP_IN_UDP)
    if datagram.upper == UDP and psp_ports and (found := udp.ports(body)) and found[1] in psp_ports:
        content = udp.content(body)
        if not isinstance(content, DropReason) and not isinstance(psp_protocol.header_version(content), DropReason):
            return PSP if int.from_bytes(content[4:8], "big") in spis else UNKNOWN_PSP
    if datagram.upper == ICMPV6 and body and (body[0] in _ND or body[0] == _MLDV2_REPORT):
        return NEIGHBOURS
    if datagram.upper in (ICMP, ICMPV6) and body and body[0] in (0, 8, 128, 129):
        return "ICMP echo"
    return PROTOCOL_NAMES.get(datagram.upper, f"IP protocol {datagram.upper}")


def _esp(body: bytes, spis: Collection[int], name: str) -> str:
    located = PROTOCOLS["esp"].locate(body)
    return name if not isinstance(located, DropReason) and located.spi in spis else UNKNOWN_SPI


def _raise(error: CaptureError) -> None:
    raise error
