"""The comparison itself: every case's packet taken apart, and how many flows it lets a network tell apart."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ..crypto import SUITES
from ..crypto import Kind as SuiteKind
from ..errors import ConfigError
from ..protocols.ip import WITH_PORTS, parse
from ..protocols.modes import Mode
from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6
from ..wire.layouts import LAYOUTS
from ..wire.numbers import UDP as UDP_PROTOCOL
from ..wire.psp import ICV as PSP_ICV
from .cases import Case, cases
from .spans import Kind, Span, spans

FLOWS = 256
"""How many flows are sent through each case, to see how many the network can tell apart."""

_ADDRESSES, _PORTS = "addresses", "ports"
# What differs from packet to packet tells no flows apart.
_PER_PACKET = frozenset(
    ("sequence", "sequence_number", "iv", "checksum", "identification", "total_length", "payload_length", "length")
)


@dataclass(frozen=True, slots=True)
class Compared:
    """One case's packet.

    overhead: octets more than the packet that was protected.   readable: what of its headers can be read.
    seen: by what a network can tell flows apart, each with how many of `FLOWS` it did.
    """

    case: Case
    packet: bytes
    spans: tuple[Span, ...]
    overhead: int
    readable: tuple[str, ...]
    seen: tuple[tuple[str, int], ...]

    def octets(self, kind: Kind) -> int:
        """Return how many octets of a kind there are."""
        return sum(span.octets for span in self.spans if span.kind is kind)

    @property
    def told_apart(self) -> int:
        """The most flows that one look tells apart."""
        return max((number for _, number in self.seen), default=1)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A packet and all cases.   version: of the outer IP header that modes make."""

    packet: bytes
    version: int
    rows: tuple[Compared, ...]


def compare(packet: bytes, version: int = 4, only: Sequence[str] = ()) -> Comparison:
    """Protect one packet in every way.

    packet: an IP packet.   version: 4 or 6.   only: names of protocols and of modes that are to be shown; all of a sort
    of which none is named.   Raises ConfigError if packet is none or fits nowhere, or for other names.
    """
    inside = 6 if packet[:1] >= b"\x60" else 4
    known = {*LAYOUTS, *(case.mode.value for case in cases(inside))}
    for name in only:
        if name not in known:
            raise ConfigError(f"nothing is called {name!r}", key="only", expected=" or ".join(sorted(known)))
    protocols, modes = set(only) & set(LAYOUTS), set(only) - set(LAYOUTS)
    chosen = [
        case
        for case in cases(inside)
        if (not protocols or case.protocol in protocols) and (not modes or case.mode.value in modes)
    ]
    return Comparison(packet, version, tuple(_row(case, packet, version) for case in chosen))


def _row(case: Case, packet: bytes, version: int) -> Compared:
    protect = case.protector(packet, version)
    made = protect(packet)
    found = _taken_apart(case, made)
    views = [_view(case, found), *(_view(case, _taken_apart(case, protect(each))) for each in flows_like(packet))]
    seen = [(name, len({view.get(name) for view in views})) for name in views[0]]
    readable = [name for name in (_ADDRESSES, _PORTS) if name in views[0]]
    return Compared(
        case,
        made,
        found,
        len(made) - len(packet),
        tuple(readable),
        tuple((name, number) for name, number in seen if number > 1),
    )


def _taken_apart(case: Case, packet: bytes) -> tuple[Span, ...]:
    iv, icv, integrity_only = 0, PSP_ICV, False
    if case.protocol != "psp":
        suite = SUITES[case.suite]
        iv, icv, integrity_only = suite.iv_octets, suite.icv_octets, suite.kind is SuiteKind.GMAC
    return tuple(spans(LAYOUTS[case.protocol], packet, iv, icv, integrity_only=integrity_only))


def flows_like(packet: bytes, number: int = FLOWS - 1) -> list[bytes]:
    """Return packets of other flows: the same but for their source port, checksums left as they are.

    A packet without ports yields itself again: it has no other flows.
    """
    datagram = parse(packet)
    if datagram is None or datagram.upper not in WITH_PORTS or datagram.fragment or datagram.upper_at + 4 > len(packet):
        return [packet] * number
    at = datagram.upper_at
    port = struct.unpack_from(">H", packet, at)[0]
    ports = ((port + step) & 0xFFFF for step in range(1, number + 1))
    return [packet[:at] + struct.pack(">H", each) + packet[at + 2 :] for each in ports]


def _view(case: Case, found: Sequence[Span]) -> dict[str, int | bytes]:
    """Return what can be read without a key, by name, of what could be the same for all packets of a flow."""
    view: dict[str, int | bytes] = {}
    for span in found:
        if span.header is not None:
            header = span.header
            view |= {
                f"{header.NAME}.{f.wire_name}": header.__dict__[f.name]
                for f in header.FIELDS
                if f.name not in _PER_PACKET and header.__dict__[f.name] != b""
            }
    clear = b"".join(span.clear for span in found)
    payload_header = LAYOUTS[case.protocol].payload_header
    if payload_header is not None:
        clear = clear[payload_header.SIZE :]
    at, upper = 0, 0
    if case.mode is Mode.TUNNEL:
        if clear[:1] and clear[0] >> 4 == 4 and len(clear) >= IPv4.SIZE:
            inner = IPv4.parse(clear)
            view[_ADDRESSES] = inner.source + inner.destination
            at, upper = 4 * inner.header_words, inner.protocol
        elif clear[:1] and clear[0] >> 4 == 6 and len(clear) >= IPv6.SIZE:
            inner6 = IPv6.parse(clear)
            view[_ADDRESSES] = inner6.source + inner6.destination
            at, upper = IPv6.SIZE, inner6.next_header
    elif clear:
        upper = UDP_PROTOCOL  # what a transport mode packet carries, its header says; ports stand alike in all
    if upper in WITH_PORTS and len(clear) >= at + 4:
        view[_PORTS] = clear[at : at + 4]
    return view
