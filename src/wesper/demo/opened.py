"""The capture of the wire opened with the keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ..keying import PSPAssociation, PSPKeys, StaticSA
from ..pcap import Interface, LinkType, create_capture
from ..pcap.opener import Opener
from ..pcap.psp_opener import PSPOpener
from ..protocols import PROTOCOLS, ip
from ..protocols.flow_identifier import five_tuple
from ..protocols.udp import HEADER as UDP_HEADER
from ..verdict import DropReason
from ..wire.numbers import UDP
from .wire import carried, packets

_BATCH = 1024
_PSP_IV, _PSP_ICV = 8, 16


@dataclass(frozen=True, slots=True)
class Growth:
    """What protection adds to a packet of one length, in octets.   packets: how many there were.

    header: the protocol's, with its options and what stands in front of it in UDP, without its IV.
    """

    inner: int
    outer: int
    ip: int
    udp: int
    header: int
    iv: int
    trailer: int
    icv: int
    packets: int


@dataclass(slots=True)
class Opened:
    """What was inside.

    opened: protected packets that gave an inner one.   dummies: those that were authentic and carried nothing (RFC 4303
    §2.6; PSP's hold nothing).   marked: inner packets that hold the marker.
    dropped: why others did not.   growth: by length of the inner packet.
    flows: of each inner flow, by the SPI that it went under and its five-tuple, the names that headers gave it.
    """

    opened: int = 0
    dummies: int = 0
    marked: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)
    growth: list[Growth] = field(default_factory=list)
    flows: dict[tuple[int, bytes], set[str]] = field(default_factory=dict)

    @property
    def authentic(self) -> int:
        """Protected packets that opened, dummies among them."""
        return self.opened + self.dummies


def open_capture_with(
    keys: Sequence[StaticSA] | PSPKeys, source: Path, output: Path, marker: bytes, *, engine: str | None = None
) -> Opened:
    """Open every protected packet of a capture and write what was inside as another.   Raises CaptureError."""
    found = Opened()
    sizes: dict[int, tuple[StaticSA | PSPAssociation, bytes, int]] = {}
    opener = PSPOpener(keys, engine) if isinstance(keys, PSPKeys) else Opener(keys, engine)
    with create_capture(output) as out:
        interface = out.add_interface(Interface(LinkType.RAW, name="inner"))
        for batch in _batches(each for each in packets(source) if opener.concerns(each)):
            for outer, each in zip(batch, opener.open(batch), strict=True):
                if each.reason in (DropReason.DUMMY, DropReason.PSP_EMPTY):
                    found.dummies += 1
                    continue
                if each.reason is not None:
                    found.dropped[each.reason] += 1
                    continue
                assert isinstance(each.sa, StaticSA | PSPAssociation)
                found.opened += 1
                found.marked += marker in each.packet
                out.write(each.packet, 0, interface=interface)
                if (inner := ip.parse(each.packet)) is not None:
                    found.flows.setdefault((each.spi, five_tuple(inner)), set()).add(each.flow)
                _, _, count = sizes.get(len(each.packet), (each.sa, outer, 0))
                sizes[len(each.packet)] = each.sa, outer, count + 1
    found.growth = [growth(sa, inner, outer, count) for inner, (sa, outer, count) in sorted(sizes.items())]
    return found


def _batches(found: Iterable[bytes]) -> Iterator[list[bytes]]:
    left = iter(found)
    while batch := list(islice(left, _BATCH)):
        yield batch


def growth(sa: StaticSA | PSPAssociation, inner: int, outer: bytes, packets_of_it: int = 1) -> Growth:
    """Return where the octets of an outer packet come from.   inner: octets of the packet in it, tunnel mode."""
    datagram = ip.parse(outer)
    found = DropReason.BAD_IP if datagram is None else carried(datagram)
    if datagram is None or isinstance(found, DropReason):
        raise ValueError("not a protected packet")
    in_udp = datagram.upper == UDP
    udp = UDP_HEADER if in_udp else 0
    if isinstance(sa, PSPAssociation):
        iv, icv, to_payload = _PSP_IV, _PSP_ICV, sa.profile.header_octets
    else:
        arrived = PROTOCOLS[sa.protocol].read(sa.terms, found[1], datagram.version, in_udp, looking=True)
        if isinstance(arrived, DropReason):
            raise ValueError("not a packet of this SA")
        iv, icv, to_payload = sa.cipher.iv_octets, sa.cipher.icv_octets, arrived.payload_at
    in_front = len(datagram.packet) - len(found[1])
    return Growth(
        inner,
        len(datagram.packet),
        datagram.upper_at,
        udp,
        in_front - datagram.upper_at - udp + to_payload - iv,
        iv,
        len(found[1]) - to_payload - inner - icv,
        icv,
        packets_of_it,
    )
