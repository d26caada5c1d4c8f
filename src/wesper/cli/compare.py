"""`wesper compare`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..compare import FLOWS, Compared, Comparison, Kind, Span, page
from ..compare import compare as compare_all
from ..errors import CaptureError, ConfigError
from ..pcap.dissection import Layer, Value, data_layer
from ..pcap.link import ip_offset
from .packet_input import LINKS, packets_of
from .packet_view import console_for_packets, drawn

SCHEMA: Final = 1
_SAMPLES: Final = {
    # A TCP segment with 31 octets of data, addresses of documentation.
    4: (
        "450000470000000040068e5fc000020ac63364149c4001bb010203040a0b0c0d5018ffffba720000474554202f204854"
        "54502f312e310d0a486f73743a20610d0a0d0a0d0a0d0a"
    ),
    6: (
        "600000000033064020010db800010000000000000000001020010db80002000000000000000000209c4001bb01020304"
        "0a0b0c0d5018ffff4b200000474554202f20485454502f312e310d0a486f73743a20610d0a0d0a0d0a0d0a"
    ),
}
_STYLES: Final = {
    Kind.OUTER: "black on bright_white",
    Kind.HEADER: "white on blue",
    Kind.CLEAR: "black on yellow",
    Kind.ENCRYPTED: "white on green",
    Kind.ICV: "white on magenta",
}
_FILLS: Final = {Kind.OUTER: " ", Kind.HEADER: " ", Kind.CLEAR: ".", Kind.ENCRYPTED: "#", Kind.ICV: "="}
_MEANINGS: Final = {
    Kind.OUTER: "IP and UDP, for which nobody vouches",
    Kind.HEADER: "the protocol's header",
    Kind.CLEAR: "payload that can be read",
    Kind.ENCRYPTED: "encrypted",
    Kind.ICV: "integrity check value",
}


def compare(
    what: Annotated[str, Parameter(allow_leading_hyphen=True)] = "",
    /,
    *,
    only: tuple[str, ...] = (),
    outer: Literal["4", "6"] = "4",
    inner: Literal["4", "6"] = "4",
    link: Literal["raw", "ethernet", "sll", "sll2"] = "raw",
    diagram: bool = False,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    json: bool = False,
) -> int:
    """Protect one packet by every protocol and mode, and set the results side by side.

    Each row is a packet on the wire, drawn to scale: what its octets are, how many more than before, what of its inside
    can be read, and by what a network without a key tells flows apart. The last is tried, with 256 flows that differ in
    their source port.

    Parameters
    ----------
    what
        An IP packet in hexadecimal, or a capture, whose first packet is taken; without it, a TCP segment with 31 octets
        of data.
    only
        Protocols (esp, wesp, wespv2, eesp, psp) and modes (tunnel, transport, beet) to show; may be given many times.
    outer
        IP version of outer headers.
    inner
        IP version of the packet that is taken when none is given.
    link
        What hexadecimal octets begin with; a capture says so itself.
    diagram
        Draw every header in the RFCs' manner too, with its values.
    output
        Write a page for a browser there as well.
    json
        Print one JSON object.
    """
    packet = _packet(what, link) if what else bytes.fromhex(_SAMPLES[int(inner)])
    comparison = compare_all(packet, int(outer), only)
    if output is not None:
        output.write_text(page(comparison), encoding="utf-8")
    if json:
        print(json_module.dumps(_as_json(comparison)))
        return 0
    console = console_for_packets()
    console.print(_view(comparison, console, diagram))
    if output is not None:
        console.print(f"\n{output}")
    return 0


def _packet(what: str, link: str) -> bytes:
    truncated: list[CaptureError] = []
    for _, link_type, octets in packets_of(what, LINKS[link], truncated):
        at = ip_offset(link_type, octets)
        if at is None:
            raise ConfigError("no IP packet", key="packet", expected="one IPv4 or IPv6 packet")
        return octets[at:]
    raise truncated[0] if truncated else ConfigError("no packet", key="packet", expected="one at least")


def _view(comparison: Comparison, console: Console, diagram: bool) -> RenderableType:
    longest = max((len(row.packet) for row in comparison.rows), default=1)
    title_room = max((len(row.case.title) for row in comparison.rows), default=0) + 2
    scale = max(console.width - title_room - 12, 40) / longest
    version = comparison.packet[0] >> 4
    parts: list[RenderableType] = [
        Text(
            f"An IPv{version} packet of {len(comparison.packet)} octets, outer headers IPv{comparison.version}", "bold"
        ),
        _legend(),
        Text(),
    ]
    bands = Table.grid(padding=(0, 1, 0, 0))
    bands.add_column(no_wrap=True)
    bands.add_column(no_wrap=True)
    bands.add_column(justify="right", no_wrap=True)
    for row in comparison.rows:
        bands.add_row(row.case.title, _band(row, scale), f"{len(row.packet)} (+{row.overhead})")
    parts += [bands, Text()]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("", "outer", "header", "encrypted", "readable"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.add_column("read inside", no_wrap=True)
    table.add_column(f"flows told apart, of {FLOWS}")
    for row in comparison.rows:
        counts = [row.octets(kind) for kind in (Kind.OUTER, Kind.HEADER, Kind.ENCRYPTED, Kind.CLEAR)]
        seen = ", ".join(f"{name} {number}" for name, number in row.seen) or "nothing"
        table.add_row(row.case.title, *map(str, counts), ", ".join(row.readable) or "nothing", seen)
    parts.append(table)
    if diagram:
        for row in comparison.rows:
            parts += [Text(), Text(row.case.title, "bold"), *_diagrams(row)]
    return Group(*parts)


def _legend() -> Text:
    legend = Text()
    for kind, meaning in _MEANINGS.items():
        legend.append(f" {_FILLS[kind] * 2} ", _STYLES[kind]).append(f" {meaning}   ")
    return legend


def _band(row: Compared, scale: float) -> Text:
    """Draw a packet to scale; each span's label stands in it where there is room."""
    band = Text("|")
    for span in row.spans:
        room = max(round((span.at + span.octets) * scale) - round(span.at * scale) - 1, 1)
        labels = (f"{span.label} {span.octets}", span.label, str(span.octets))
        label = next((each for each in labels if len(each) <= room), "")
        shown = f" {label} " if label and len(label) + 2 <= room else label
        band.append(f"{shown:{_FILLS[span.kind]}^{room}}", _STYLES[span.kind]).append("|")
    return band


def _diagrams(row: Compared) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for span in row.spans:
        layer = _layer(row, span)
        heading = Text(f"{layer.title}", "cyan").append(f"  octets {span.at}-{span.at + span.octets - 1}", "dim")
        parts += [heading, Text("\n".join(drawn(layer, 16)))]
    return parts


def _layer(row: Compared, span: Span) -> Layer:
    if span.header is None:
        octets = row.packet[span.at : span.at + span.octets]
        return data_layer(octets, span.at, "", title=_MEANINGS[span.kind].capitalize(), name=span.label)
    header = type(span.header)
    values = [
        Value(field, f"{header.NAME}.{field.wire_name}", value, 8 * span.at + bit, bits)
        for field, value, bit, bits in span.header.walk()
        if bits
    ]
    return Layer(header.NAME, header.TITLE, header.SOURCE, span.at, values, span.octets, header)


def _as_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "packet": comparison.packet.hex(),
        "outer": comparison.version,
        "flows": FLOWS,
        "cases": [
            {
                "title": row.case.title,
                "protocol": row.case.protocol,
                "mode": row.case.mode.value,
                "udp": row.case.udp,
                "packet": row.packet.hex(),
                "overhead": row.overhead,
                "spans": [
                    {"octet": span.at, "octets": span.octets, "kind": span.kind.value, "label": span.label}
                    for span in row.spans
                ],
                "readable": list(row.readable),
                "tells_apart": dict(row.seen),
            }
            for row in comparison.rows
        ],
    }
