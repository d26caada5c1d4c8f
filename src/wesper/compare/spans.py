"""What each octet of a protected packet is, told from its layout and what the SA knows."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

from ..protocols import options
from ..wire.format import Header
from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6
from ..wire.layout import Layout
from ..wire.numbers import UDP as UDP_PROTOCOL
from ..wire.udp import UDP


class Kind(enum.Enum):
    """What octets are for."""

    OUTER = "outer"  # IP and UDP: nobody vouches for them
    HEADER = "header"  # the protocol's own
    CLEAR = "clear"  # of the payload, readable
    ENCRYPTED = "encrypted"
    ICV = "icv"


@dataclass(frozen=True, slots=True)
class Span:
    """Octets that belong together.

    label: a word or two.   header: parsed; None for payload and ICV.   clear: the octets, of what is readable payload.
    """

    at: int
    octets: int
    kind: Kind
    label: str
    header: Header | None = None
    clear: bytes = b""


def spans(
    layout: Layout, packet: bytes, iv_octets: int, icv_octets: int, *, integrity_only: bool = False
) -> list[Span]:
    """Return a packet's spans, in order and without a gap.

    iv_octets, icv_octets: of the SA.   integrity_only: nothing is encrypted, whatever the header says.
    """
    return list(_walk(layout, packet, iv_octets, icv_octets, integrity_only))


def _walk(layout: Layout, packet: bytes, iv_octets: int, icv_octets: int, integrity_only: bool) -> Iterator[Span]:
    outer: IPv4 | IPv6 = IPv4.parse(packet) if packet[0] >> 4 == 4 else IPv6.parse(packet)
    at = len(outer)
    yield Span(0, at, Kind.OUTER, f"IPv{outer.version}", outer)
    number = outer.protocol if isinstance(outer, IPv4) else outer.next_header
    if number == UDP_PROTOCOL:
        yield Span(at, UDP.SIZE, Kind.OUTER, "UDP", UDP.parse(packet, at))
        at += UDP.SIZE
        if layout.marker:
            yield Span(at, len(layout.marker), Kind.HEADER, "identifier")
            at += len(layout.marker)
    start, known = at, SimpleNamespace()
    for part in layout.parts:
        lengths = {"iv": iv_octets, **part.negotiated}
        lengths |= {name: compute(known) for name, compute in part.lengths.items()}
        header = part.header.parse(packet, at, **lengths)
        known.__dict__.update(header.__dict__)
        if part.options is not None:
            _read_options(part.options.known, header.__dict__[part.options.field], known)
        yield Span(at, len(header), Kind.HEADER, layout.name if part is layout.parts[0] else header.NAME, header)
        at += len(header)
    stop = len(packet) - icv_octets
    boundary = stop
    if not integrity_only:
        boundary = at
        if layout.clear is not None:
            try:
                boundary = min(max(start + layout.clear(known), at), stop)
            except AttributeError:
                boundary = at  # the option that would say so is not there
    if boundary > at:
        yield Span(at, boundary - at, Kind.CLEAR, "readable", clear=packet[at:boundary])
    if stop > boundary:
        yield Span(boundary, stop - boundary, Kind.ENCRYPTED, "encrypted")
    if icv_octets:
        yield Span(stop, icv_octets, Kind.ICV, "ICV")


def _read_options(declarations: Mapping[int, type[Header]], area: bytes, into: SimpleNamespace) -> None:
    for found in options.walk(area) or ():
        if found.type in declarations:
            into.__dict__.update(declarations[found.type].parse(area, found.at).__dict__)
