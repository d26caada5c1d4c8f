"""What a capture holds, in one pass and bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from ..protocols import ip, udp
from ..protocols.esp import PROTOCOL as ESP
from ..verdict import DropReason
from ..wire.numbers import ESP as ESP_PROTOCOL
from ..wire.numbers import PROTOCOL_NAMES, UDP
from ..wire.psp import PORT
from ..wire.udp import IPSEC_NAT_T_PORT
from .capture import Capture
from .link import ip_offset, link_type_name
from .psp_seen import SeenPSP, count_psp, psp_header
from .record import Record
from .tally import SCHEMA

MAX_SAS = 10_000
WINDOW = 1024
"""How far behind the highest number a packet is still known to be there already."""

_MASK = (1 << WINDOW) - 1
_HALF = 1 << 31


@dataclass(slots=True)
class Seen:
    """What one SPI between two addresses sent.

    Numbers are 32 bits on the wire and counted on over their wrap: `first` and `highest` begin in the first packet's
    half. duplicates: numbers that came twice within the window.   late: behind the window, so that they may be
    either.   An extended number's high half is not sent, so whether there is one can't be seen.
    """

    source: str
    destination: str
    spi: int
    udp: bool
    first: int
    highest: int
    lowest: int
    packets: int = 0
    octets: int = 0
    duplicates: int = 0
    late: int = 0
    _window: int = 0

    def count(self, sequence: int, octets: int) -> None:
        """Add a packet.   sequence: 32 bits."""
        self.packets += 1
        self.octets += octets
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
        return {
            "spi": f"{self.spi:#010x}",
            "src": self.source,
            "dst": self.destination,
            "udp": self.udp,
            "packets": self.packets,
            "octets": self.octets,
            "first_sequence": self.lowest % (1 << 32),
            "last_sequence": self.highest % (1 << 32),
            "missing": self.missing,
            "duplicates": self.duplicates,
            "late": self.late,
            "wraps": self.wraps,
        }


@dataclass(slots=True)
class Info:
    """What a capture holds.   first_ns, last_ns: earliest and latest time.   cut: packets not kept whole.

    protocols: by name, what IP carries.   unlisted: packets of SPIs for which their table had no room.
    psp: PSP's associations.   psp_ports: UDP destination ports that are looked at for it.
    """

    format: str = ""
    packets: int = 0
    octets: int = 0
    original_octets: int = 0
    smallest: int = 0
    largest: int = 0
    cut: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    per_interface: Counter[int] = field(default_factory=Counter)
    protocols: Counter[str] = field(default_factory=Counter)
    sas: dict[tuple[object, ...], Seen] = field(default_factory=dict)
    psp: dict[tuple[object, ...], SeenPSP] = field(default_factory=dict)
    psp_ports: Collection[int] = frozenset((PORT,))
    unlisted: int = 0
    truncated: str = ""
    section: dict[str, str] = field(default_factory=dict)
    interfaces: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it with stable names."""
        return {
            "schema": SCHEMA,
            "format": self.format,
            "section": self.section,
            "interfaces": self.interfaces,
            "packets": self.packets,
            "octets": self.octets,
            "original_octets": self.original_octets,
            "smallest": self.smallest,
            "largest": self.largest,
            "cut": self.cut,
            "first_ns": self.first_ns,
            "last_ns": self.last_ns,
            "protocols": dict(self.protocols.most_common()),
            "sas": [seen.as_json() for seen in self.sas.values()],
            "psp": [seen.as_json() for seen in self.psp.values()],
            "unlisted": self.unlisted,
            "truncated": self.truncated or None,
        }


def read_info(capture: Capture, info: Info, progress: Callable[[int], None] | None = None) -> None:
    """Fill info from a capture.   progress: called with the number of packets now and then.   Raises CaptureError."""
    info.format = capture.format
    for record in capture:
        _count(info, record)
        if progress is not None and not info.packets % 4096:
            progress(info.packets)
    section = capture.section
    words = {"hardware": section.hardware, "os": section.os, "application": section.application}
    info.section = {key: text for key, text in words.items() if text}
    info.interfaces = [
        {
            "name": interface.name,
            "link_type": link_type_name(interface.link_type),
            "snap_octets": interface.snap_octets,
            "packets": info.per_interface[number],
        }
        for number, interface in enumerate(capture.interfaces)
    ]


def _count(info: Info, record: Record) -> None:
    octets, time = len(record.data), record.timestamp_ns
    info.smallest = min(info.smallest, record.original_octets) if info.packets else record.original_octets
    info.largest = max(info.largest, record.original_octets)
    info.packets += 1
    info.octets += octets
    info.original_octets += record.original_octets
    info.cut += record.original_octets > octets
    info.first_ns = time if info.first_ns is None else min(info.first_ns, time)
    info.last_ns = time if info.last_ns is None else max(info.last_ns, time)
    info.per_interface[record.interface] += 1
    at = ip_offset(record.link_type, record.data)
    if at is None:
        info.protocols["not IP"] += 1
        return
    # A packet that the capture cut still has its headers: read it as if the rest were there
    packet = record.data[at:] + bytes(min(max(record.original_octets - octets, 0), 65535))
    datagram = ip.parse(packet)
    if datagram is None:
        info.protocols["IP, malformed"] += 1
        return
    name = PROTOCOL_NAMES.get(datagram.upper, f"protocol {datagram.upper}")
    version = f"IPv{datagram.version}"
    if datagram.offset:
        info.protocols[f"{version} fragment"] += 1
        return
    body = datagram.packet[datagram.upper_at :]
    in_udp = False
    if datagram.upper == UDP:
        ports = udp.ports(body)
        header = psp_header(body) if ports is not None and ports[1] in info.psp_ports else None
        if header is not None:
            info.protocols[f"{version} PSP"] += 1
            info.unlisted += not count_psp(info.psp, datagram, body, header, MAX_SAS)
            return
        if ports is not None and IPSEC_NAT_T_PORT in ports:
            content = udp.content(body)
            in_udp = isinstance(content, bytes) and not isinstance(ESP.locate(content), DropReason)
            name = "ESP in UDP" if in_udp else _on_our_port(content)
            body = content if isinstance(content, bytes) else b""
    info.protocols[f"{version} {name}"] += 1
    if in_udp or datagram.upper == ESP_PROTOCOL:
        located = ESP.locate(body)
        if not isinstance(located, DropReason):
            _count_esp(info, datagram, located.spi, located.low or 0, len(body), in_udp)


def _on_our_port(content: bytes | DropReason) -> str:
    names = {DropReason.KEEPALIVE: "NAT keepalive", DropReason.NOT_FOR_US: "IKE in UDP"}
    return names.get(content, "UDP") if isinstance(content, DropReason) else "UDP"


def _count_esp(info: Info, datagram: ip.Datagram, spi: int, low: int, octets: int, in_udp: bool) -> None:
    header = datagram.header
    key = (header.source, header.destination, spi, in_udp)
    seen = info.sas.get(key)
    if seen is None:
        if len(info.sas) >= MAX_SAS:
            info.unlisted += 1
            return
        ends = str(ip.address(header.source)), str(ip.address(header.destination))
        seen = info.sas[key] = Seen(*ends, spi, in_udp, low, low, low)
    seen.count(low, octets)
