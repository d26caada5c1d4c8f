"""What a capture holds, in one pass and bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from ..protocols import ip, udp
from ..verdict import DropReason
from ..wire.numbers import PROTOCOL_NAMES, UDP
from ..wire.psp import PORT
from ..wire.udp import IPSEC_NAT_T_PORT
from .capture import Capture
from .esp_seen import Carried, SeenTable, look
from .link import ip_offset, link_type_name
from .psp_seen import SeenPSP, count_psp, psp_header
from .record import Record
from .tally import SCHEMA

MAX_SAS = 10_000
_PORTS = frozenset((IPSEC_NAT_T_PORT,))


@dataclass(slots=True)
class Info:
    """What a capture holds.   first_ns, last_ns: earliest and latest time.   cut: packets not kept whole.

    protocols: by name, what IP carries.   unlisted: packets of SPIs for which their table had no room.
    sas: of ESP, WESP, WESPv2 and EESP.   psp: PSP's associations.   psp_ports: UDP destination ports that are looked at
    for it.
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
    sas: SeenTable = field(default_factory=SeenTable)
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
            "sas": [seen.as_json() for seen in self.sas.rows.values()],
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
    if datagram.upper == UDP:
        body = datagram.packet[datagram.upper_at :]
        ports = udp.ports(body)
        header = psp_header(body) if ports is not None and ports[1] in info.psp_ports else None
        if header is not None:
            info.protocols[f"{version} PSP"] += 1
            info.unlisted += not count_psp(info.psp, datagram, body, header, MAX_SAS)
            return
    carried = look(datagram, _PORTS)
    if isinstance(carried, Carried):
        info.protocols[f"{version} {carried.name}"] += 1
        info.unlisted += not info.sas.count(datagram, carried, MAX_SAS)
        return
    others = {DropReason.KEEPALIVE: "NAT keepalive", DropReason.NOT_FOR_US: "IKE in UDP"}
    info.protocols[f"{version} {others.get(carried, name) if carried is not None else name}"] += 1
