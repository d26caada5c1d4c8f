"""Where a protocol's headers stand in a packet, one after another, and what can be found there without a key.

A `Layout` is a declaration like a header's: which headers follow each other, by which IP protocol, UDP port or marker
they are known, what of the payload is in the clear. From it come the Wireshark dissectors, the Scapy layers, and the
table of fields at fixed places (`places`), which is what a NIC, a switch or a BPF program can use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from .arithmetic import formula
from .format import Field, Header
from .ipv4 import IPv4
from .ipv6 import IPv6
from .udp import UDP

Octets = Callable[[Any], Any]
"""Octets out of the fields parsed so far: arithmetic alone, so that `arithmetic.formula` can write it down."""


@dataclass(frozen=True, slots=True)
class Options:
    """Type-length-value options in a header's field.

    field: the field's name.   known: declarations of types that have one, their type and length octets included.
    names: of the others.   first: type of the one that senders put first, if they do; its fields stand at fixed places.
    Source: RFC 8200 §4.2, whose Pad1 (type 0, one octet) and PadN (type 1) all formats here keep.
    """

    field: str
    known: Mapping[int, type[Header]] = dataclasses.field(default_factory=dict)
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)
    first: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One header of a layout.

    negotiated: octets of fields that are there only if both ends agreed so; the packet does not tell.
    lengths: octets of variable fields that the header alone does not tell, where another header does.
    options: the field that holds options.
    """

    header: type[Header]
    negotiated: Mapping[str, int] = dataclasses.field(default_factory=dict)
    lengths: Mapping[str, Octets] = dataclasses.field(default_factory=dict)
    options: Options | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """One protocol in a packet.

    name, title: as in filters and as people say.   source: document, with its revision where it is a draft.
    parts: headers in wire order.   ip_protocol: number in an IP header, None if it is only in UDP.
    udp_port: None if it is only over IP.   marker: what stands between UDP and the first header.
    tell: (field, value) of the first header that tells this protocol from its neighbours on the same number.
    icv: octets of the ICV, None where only the SA knows.
    clear: octets from the first header on until encryption begins; None: it begins with the payload.
    next_header: field that says what the payload is, if one does.
    payload_header: what the payload begins with, if that is not the packet itself.
    """

    name: str
    title: str
    source: str
    parts: tuple[Part, ...]
    ip_protocol: int | None = None
    udp_port: int | None = None
    marker: bytes = b""
    tell: tuple[str, int] | None = None
    icv: int | None = None
    clear: Octets | None = None
    next_header: str = ""
    payload_header: type[Header] | None = None


@dataclass(frozen=True, slots=True)
class Shift:
    """How far a field is moved by what a field in front of it says, if that is all that moves it.

    bit: where it would stand if the other said 0.   by, by_bit: the other, and where that stands.
    octets: it stands so many further on for each unit of what the other says.
    """

    bit: int
    by: Field
    by_bit: int
    octets: int


@dataclass(frozen=True, slots=True)
class Place:
    """A field and where it stands.

    bit: first bit from the start of the outer header, None if that is not the same in all packets; then why says so,
    and shift how far it is moved if one other field says that.
    only_if: condition for the field to be there at all.
    steps: loads that depend on each other until it is read, 1 at a fixed place; None: it can't be found without the SA.
    """

    header: type[Header]
    field: Field
    bit: int | None
    why: str = ""
    only_if: str = ""
    steps: int | None = 1
    shift: Shift | None = None

    @property
    def octet(self) -> int | None:
        """The octet that the field begins in."""
        return None if self.bit is None else self.bit // 8

    @property
    def name(self) -> str:
        """As in filters."""
        return f"{self.header.NAME}.{self.field.wire_name}"


def places(layout: Layout, ip_version: int, udp: bool) -> list[Place]:
    """Return every field of a layout with its place.

    ip_version: 4, a header without options, or 6, one without extension headers.   udp: whether UDP is between.
    Raises ValueError where the protocol does not go that way.
    """
    if udp and layout.udp_port is None:
        raise ValueError(f"{layout.name} does not go over UDP")
    if not udp and layout.ip_protocol is None:
        raise ValueError(f"{layout.name} goes over UDP alone")
    at = 8 * ((IPv4.SIZE if ip_version == 4 else IPv6.SIZE) + (UDP.SIZE + len(layout.marker) if udp else 0))
    return list(_placed(layout, at))


def _placed(layout: Layout, at: int) -> Iterator[Place]:
    moved, steps = "", 1
    hidden = False
    shift: Shift | None = None
    fixed: dict[str, tuple[Field, int]] = {}
    for part in layout.parts:
        for f in part.header.FIELDS:
            moves = None if shift is None else dataclasses.replace(shift, bit=at)
            yield Place(part.header, f, None if moved else at, moved, steps=None if hidden else steps, shift=moves)
            if not f.variable:
                if not moved:
                    fixed[f.name] = f, at
                at += f.bits
                continue
            options = part.options
            if options is not None and options.field == f.name and options.first is not None and not moved:
                yield from _placed_option(options.known[options.first], at)
            compute = f.length or part.lengths.get(f.name)
            length = None if compute is None else formula(compute)
            if length is not None and not length.fields:
                at += 8 * int(length.text)
                continue
            hidden = hidden or length is None
            steps += 1
            shift = None if moved or compute is None or f.name in part.negotiated else _shift(compute, fixed)
            if moved:
                continue
            at = at if shift is None else shift.bit + at
            if f.name in part.negotiated:
                moved = f"behind {f.name}, which is there only if both ends agreed so"
            elif length is None:
                moved = f"behind {f.name}, whose length only the SA knows"
            else:
                moved = f"behind {f.name}, whose length is in {' and '.join(length.fields)}"


def _shift(compute: Octets, fixed: Mapping[str, tuple[Field, int]]) -> Shift | None:
    """Return how a length moves what is behind it, None unless one field at a fixed place says it, unit by unit.

    Its bit counts from the length's own place.
    """
    names = formula(compute).fields
    if len(names) != 1 or names[0] not in fixed:
        return None
    by, by_bit = fixed[names[0]]
    none, one, most = (int(compute(SimpleNamespace(**{names[0]: value}))) for value in (0, 1, (1 << by.bits) - 1))
    if none < 0 or most - none != (one - none) * ((1 << by.bits) - 1):
        return None
    return Shift(8 * none, by, by_bit, one - none)


def _placed_option(option: type[Header], at: int) -> Iterator[Place]:
    for f in option.FIELDS:
        yield Place(option, f, at, only_if=f"{option.TITLE} is the first option")
        at += f.bits
