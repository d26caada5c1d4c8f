"""Decrypting a capture: each inner packet behind the one that it came in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..keying import PSPAssociation, PSPDevice, PSPKeys, StaticSA
from ..protocols.reassembly import Reassembler
from ..verdict import DropReason
from .batch import Batches
from .carry import Carrier
from .link import LinkType, ip_offset
from .opened import Opened
from .opener import Opener
from .pcapng_writer import PcapngWriter
from .psp_opener import PSPOpener
from .record import OPT_COMMENT, Block, Interface, Record
from .tally import Tally
from .writer import CaptureWriter

NOT_OURS = Opened(DropReason.NOT_FOR_US)
NO_PSP = PSPKeys()
_NO_IP = (DropReason.BAD_IP, DropReason.PSP_BAD_IP)
INNER_INTERFACE = Interface(LinkType.RAW, name="wesper", description="inner packets, decrypted by wesper")


def decrypt(
    batches: Batches,
    out: CaptureWriter,
    sas: Sequence[StaticSA],
    tally: Tally,
    *,
    psp: PSPKeys = NO_PSP,
    engine: str | None = None,
    inner_only: bool = False,
    anti_replay: bool = False,
    progress: Callable[[Tally], None] | None = None,
) -> None:
    """Open every packet that there are keys for, and write inner packets to an interface of their own.

    That one has link type RAW. The capture itself is carried through, unless inner_only or `out` is a pcap file, which
    has one link type only. An inner packet has time and place of the packet (the last fragment) that it came in, and in
    pcapng a comment.
    tally: counts as it goes.   progress: called after each batch.   Memory: bounded, whatever the capture holds.
    Raises CaptureError, and what opening the engine raises.
    """
    opener = _Openers(
        Opener(sas, engine, anti_replay=anti_replay) if sas or not psp else None,
        PSPOpener(psp, engine) if psp else None,
    )
    run = _Run(batches, out, opener, tally, carry=not inner_only and isinstance(out, PcapngWriter))
    for batch in batches:
        run.batch(batch)
        if progress is not None:
            progress(tally)
    run.finish()
    if opener.psp is not None:
        tally.psp_counters = opener.psp.counters()


class _Openers:
    """Who opens what: PSP's packets go to its ports, all others are ESP's, if they are anybody's."""

    def __init__(self, esp: Opener | None, psp: PSPOpener | None) -> None:
        self.esp, self.psp = esp, psp

    def open(self, packets: Sequence[bytes]) -> list[Opened]:
        """Open packets, in order."""
        if self.psp is None:
            return self.esp.open(packets) if self.esp is not None else [NOT_OURS] * len(packets)
        done = [NOT_OURS] * len(packets)
        is_psp = [self.psp.concerns(packet) for packet in packets]
        for opener, wanted in ((self.psp, True), (self.esp, False)):
            places = [place for place, found in enumerate(is_psp) if found is wanted]
            if opener is not None:
                for place, opened in zip(places, opener.open([packets[place] for place in places]), strict=True):
                    done[place] = opened
        return done

    def concerns(self, packet: bytes) -> bool:
        """Whether a packet, which need not be whole, says that it is of a protocol of ours."""
        return any(each is not None and each.concerns(packet) for each in (self.esp, self.psp))


class _Run:
    def __init__(self, batches: Batches, out: CaptureWriter, opener: _Openers, tally: Tally, *, carry: bool) -> None:
        self._out, self._opener, self._tally = out, opener, tally
        self._carrier = Carrier(batches.capture, out) if carry else None
        self._reassembler = Reassembler()
        self._inner: int | None = None

    def batch(self, batch: list[Record | Block]) -> None:
        packets, places = [], []
        for place, record in enumerate(batch):
            if isinstance(record, Block):
                continue
            self._tally.packets += 1
            at = ip_offset(record.link_type, record.data)
            packet = None if at is None else self._reassembler.add(record.data[at:], record.timestamp_ns)
            if packet is not None:
                packets.append(packet)
                places.append(place)
            elif at is None:
                self._tally.other += 1
        results = self._opener.open(packets)
        opened = {
            place: NOT_OURS if result.reason in _NO_IP and not self._opener.concerns(packet) else result
            for place, packet, result in zip(places, packets, results, strict=True)
        }
        for place, record in enumerate(batch):
            if isinstance(record, Block):
                if self._carrier is not None:
                    self._carrier.block(record)
                continue
            if self._carrier is not None:
                self._carrier.record(record)
            if place in opened:
                self._result(record, opened[place])
        self._count_fragments()

    def finish(self) -> None:
        """Count what never became whole."""
        self._count_fragments()
        self._tally.incomplete += self._reassembler.unfinished

    def _result(self, record: Record, opened: Opened) -> None:
        if opened.reason is None and opened.sa is not None:
            self._tally.count(opened.sa, opened.spi, len(opened.packet), opened.sequence, opened.suite)
            if self._inner is None:
                self._inner = self._out.add_interface(INNER_INTERFACE)
            named = f" of {opened.sa.name}" if opened.sa.name else ""
            comment = f"wesper: SPI {opened.spi:#010x}{named}, {_number(opened)}"
            self._out.write(
                opened.packet,
                record.timestamp_ns,
                interface=self._inner,
                options=((OPT_COMMENT, comment.encode()),),
            )
        elif opened.reason in (DropReason.NOT_FOR_US, DropReason.KEEPALIVE, None):
            self._tally.other += 1
        else:
            self._tally.drop(opened.reason)
            self._tally.cut += record.original_octets > len(record.data)

    def _count_fragments(self) -> None:
        self._tally.reassembled = self._reassembler.whole
        self._tally.incomplete = self._reassembler.given_up


def _number(opened: Opened) -> str:
    if not isinstance(opened.sa, PSPAssociation | PSPDevice):
        return f"{opened.flow}{', ' if opened.flow else ''}sequence {opened.sequence}"
    return f"{opened.suite}, IV {opened.sequence:#018x}{', sampled' if opened.sampled else ''}"
