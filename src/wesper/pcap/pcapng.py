"""The pcapng file format, read.

Source: draft-ietf-opsawg-pcapng-03. Sections of either byte order may follow each other; interface numbers, which start
again in each section, become numbers of the whole file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import NamedTuple

from wesper.errors import CaptureError
from wesper.pcap.blocks import (
    BYTE_ORDER_MAGIC,
    ENHANCED_PACKET,
    IF_DESCRIPTION,
    IF_NAME,
    IF_TSOFFSET,
    IF_TSRESOL,
    INTERFACE_DESCRIPTION,
    INTERFACE_STATISTICS,
    OBSOLETE_PACKET,
    SECTION_HEADER,
    SHB_APPLICATION,
    SHB_HARDWARE,
    SHB_OS,
    SIMPLE_PACKET,
    little_endian_integers,
    read_options,
)
from wesper.pcap.classic import PREFIX, TruncationHandler
from wesper.pcap.errors import CaptureTruncated
from wesper.pcap.record import (
    MAX_BLOCK_OCTETS,
    MAX_CARRIED_OCTETS,
    MAX_PACKET_OCTETS,
    Block,
    ByteOrder,
    Interface,
    Option,
    Record,
    Section,
    comments_of,
)
from wesper.pcap.stream import Source

BlockHandler = Callable[[Block], None]


class _Clock(NamedTuple):
    """How an interface of the section turns into records: its number in the file, link type and time unit."""

    number: int
    link_type: int
    multiplier: int
    """Nanoseconds a unit; 0 if a unit is shorter than that or no whole number of them."""
    offset_ns: int
    divisor: int
    """Units a second."""
    snap_octets: int

    def nanoseconds(self, units: int) -> int:
        if self.multiplier:
            return units * self.multiplier + self.offset_ns
        return units * 1_000_000_000 // self.divisor + self.offset_ns


class PcapngReader:
    """Records of a pcapng file. Made by `open_capture`, which has looked at the first octets.

    interfaces: those described so far; an interface is always described before its packets. The n-th interface of a
    later section that is described alike is the same interface here.   section: the current section's header.
    """

    def __init__(
        self,
        source: Source,
        *,
        on_block: BlockHandler | None = None,
        on_truncated: TruncationHandler | None = None,
    ) -> None:
        self.name = source.name
        self.format = "pcapng"
        self.interfaces: list[Interface] = []
        self.section = Section(byte_order="little")
        self._source = source
        self._on_block = on_block
        self._on_truncated = on_truncated
        self._clocks: list[_Clock] = []
        self._numbers: dict[tuple[int, Interface], int] = {}
        self._description_octets = 0
        # The first section header is read now, so that a file which is none fails to open, not to iterate
        body = self._next_block()
        if isinstance(body, CaptureTruncated):
            raise body
        self._records = self._walk()

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def _walk(self) -> Iterator[Record]:
        """Packets in the usual form are taken here straight from the window; all else goes through `_next_block`."""
        source = self._source
        # Skips the argument checks of Record(...), a third of the loop's time
        new: Callable[[type[Record], tuple[int, int, int, int, bytes, tuple[Option, ...]]], Record] = tuple.__new__
        while True:
            order = self.section.byte_order
            unpack = Struct(PREFIX[order] + "IIIIIII").unpack_from
            unpack_length = Struct(PREFIX[order] + "I").unpack_from
            clocks = self._clocks
            count = len(clocks)
            data = source.data
            end = len(data)
            position = source.position
            while end - position >= 32:
                kind, total, index, high, low, captured, original = unpack(data, position)
                after = position + total
                if (
                    kind != ENHANCED_PACKET
                    or total < 32
                    or after > end
                    or index >= count
                    or captured > MAX_PACKET_OCTETS
                    or unpack_length(data, after - 4)[0] != total
                ):
                    break
                start = position + 28
                options: tuple[Option, ...] = ()
                without_options = (captured + 35) & ~3
                if total != without_options:
                    if total < without_options or total & 3:
                        break
                    found = read_options(data[position + without_options - 4 : after - 4], order)
                    if found is None:
                        break
                    options = little_endian_integers(found) if order == "big" else found
                number, link_type, multiplier, offset_ns, _, _ = clocks[index]
                units = high << 32 | low
                timestamp_ns = units * multiplier + offset_ns if multiplier else clocks[index].nanoseconds(units)
                position = after
                yield new(Record, (timestamp_ns, original, link_type, number, data[start : start + captured], options))
            source.position = position
            if not source.need(1):
                return
            block = self._next_block()
            if isinstance(block, CaptureTruncated):
                if self._on_truncated is None:
                    raise block
                self._on_truncated(block)
                return
            if block is not None:
                yield block

    def _next_block(self) -> Record | CaptureTruncated | None:
        """Take one block: the record it is, None if it is none, or the error if the file ends inside it."""
        source = self._source
        start = source.offset
        if not source.need(12):
            return self._ended(start, "a block of at least 12 octets")
        head = source.data[source.position : source.position + 12]
        kind = int.from_bytes(head[:4], self.section.byte_order)
        order = self._byte_order(head[8:]) if kind == SECTION_HEADER else self.section.byte_order
        total = int.from_bytes(head[4:8], order)
        if total < 12 or total & 3:
            raise self._malformed(4, f"block length {total}", "a multiple of 4, at least 12")
        read = _READERS.get(kind)
        if read is None and self._on_block is None:
            return self._skip(total, order)
        limit = MAX_CARRIED_OCTETS if read is None else MAX_BLOCK_OCTETS
        if total > limit:
            raise self._malformed(4, f"a block of type {kind} with {total} octets", f"at most {limit}")
        if not source.need(total):
            return self._ended(start, f"a block of {total} octets")
        after = source.position + total
        self._check_end(total, source.data[after - 4 : after], order, total - 4)
        body = source.data[source.position + 8 : after - 4]
        record = None
        if read is None:
            self._carry(kind, body, order)
        else:
            record = read(self, body, order)
        source.position = after
        return record

    def _skip(self, total: int, order: ByteOrder) -> CaptureTruncated | None:
        """Pass over a block of any length in bounded memory."""
        source = self._source
        start = source.offset
        if not source.skip(total - 4) or not source.need(4):
            return self._ended(start, f"a block of {total} octets")
        self._check_end(total, source.data[source.position : source.position + 4], order, 0)
        source.position += 4
        return None

    def _check_end(self, total: int, octets: bytes, order: ByteOrder, offset: int) -> None:
        again = int.from_bytes(octets, order)
        if again != total:
            raise self._malformed(offset, f"block length {total} before and {again} after the block", "the same twice")

    def _byte_order(self, magic: bytes) -> ByteOrder:
        if magic == BYTE_ORDER_MAGIC.to_bytes(4, "little"):
            return "little"
        if magic == BYTE_ORDER_MAGIC.to_bytes(4, "big"):
            return "big"
        raise self._malformed(8, f"byte-order magic {magic.hex()}", "1a2b3c4d in either order")

    def _read_section(self, body: bytes, order: ByteOrder) -> None:
        if len(body) < 16:
            raise self._malformed(4, f"a section header of {len(body) + 12} octets", "at least 28")
        major, minor = int.from_bytes(body[4:6], order), int.from_bytes(body[6:8], order)
        # draft-ietf-opsawg-pcapng-03 §4.1: 1.2 was written by some tools and means 1.0
        if (major, minor) not in ((1, 0), (1, 2)):
            raise self._malformed(12, f"pcapng version {major}.{minor}", "version 1.0")
        options = self._options(body, 16, order)
        self.section = Section(
            byte_order=order,
            hardware=_text(options, SHB_HARDWARE),
            os=_text(options, SHB_OS),
            application=_text(options, SHB_APPLICATION),
            comments=comments_of(options),
        )
        self._clocks = []

    def _read_interface(self, body: bytes, order: ByteOrder) -> None:
        if len(body) < 8:
            raise self._malformed(4, f"an interface description of {len(body) + 12} octets", "at least 20")
        options = self._options(body, 8, order)
        tsresol = _value(options, IF_TSRESOL, 1, b"\x06")[0]
        interface = Interface(
            link_type=int.from_bytes(body[:2], order),
            snap_octets=int.from_bytes(body[4:8], order),
            name=_text(options, IF_NAME),
            description=_text(options, IF_DESCRIPTION),
            comments=comments_of(options),
            tsresol=tsresol,
            tsoffset_s=int.from_bytes(_value(options, IF_TSOFFSET, 8, bytes(8)), order, signed=True),
        )
        key = (len(self._clocks), interface)
        if key not in self._numbers:
            self._description_octets += len(body) + DESCRIPTION_OVERHEAD_OCTETS
            if self._description_octets > MAX_DESCRIPTION_OCTETS:
                raise self._malformed(
                    0, f"description of interface {len(self.interfaces)}", "fewer or shorter interface descriptions"
                )
            self._numbers[key] = len(self.interfaces)
            self.interfaces.append(interface)
        divisor = 1 << (tsresol & 0x7F) if tsresol & 0x80 else 10**tsresol
        self._clocks.append(
            _Clock(
                number=self._numbers[key],
                link_type=interface.link_type,
                snap_octets=interface.snap_octets,
                multiplier=0 if 1_000_000_000 % divisor else 1_000_000_000 // divisor,
                divisor=divisor,
                offset_ns=interface.tsoffset_s * 1_000_000_000,
            )
        )

    def _read_enhanced(self, body: bytes, order: ByteOrder) -> Record:
        if len(body) < 20:
            raise self._malformed(4, f"a packet block of {len(body) + 12} octets", "at least 32")
        return self._packet(int.from_bytes(body[:4], order), body, order)

    def _read_obsolete(self, body: bytes, order: ByteOrder) -> Record:
        if len(body) < 20:
            raise self._malformed(4, f"a packet block of {len(body) + 12} octets", "at least 32")
        # Two octets of interface number and two of a drop count, where the enhanced block has four of interface number
        return self._packet(int.from_bytes(body[:2], order), body, order)

    def _packet(self, index: int, body: bytes, order: ByteOrder) -> Record:
        clock = self._clock(index)
        units = int.from_bytes(body[4:8], order) << 32 | int.from_bytes(body[8:12], order)
        captured = int.from_bytes(body[12:16], order)
        limit = min(len(body) - 20, MAX_PACKET_OCTETS)
        if captured > limit:
            raise self._malformed(20, f"captured length {captured}", f"at most {limit}")
        options = self._options(body, 20 + captured + (-captured & 3), order)
        return Record(
            timestamp_ns=clock.nanoseconds(units),
            original_octets=int.from_bytes(body[16:20], order),
            link_type=clock.link_type,
            interface=clock.number,
            data=body[20 : 20 + captured],
            options=little_endian_integers(options) if order == "big" else options,
        )

    def _read_simple(self, body: bytes, order: ByteOrder) -> Record:
        if len(body) < 4:
            raise self._malformed(4, f"a simple packet block of {len(body) + 12} octets", "at least 16")
        clock = self._clock(0)
        original = int.from_bytes(body[:4], order)
        # draft-ietf-opsawg-pcapng-03 §4.4: the captured length is not written, it is what the snapshot length left
        captured = min(original, clock.snap_octets or original)
        limit = min(len(body) - 4, MAX_PACKET_OCTETS)
        if captured > limit:
            raise self._malformed(8, f"a packet of {captured} octets", f"at most {limit}")
        return Record(0, original, clock.link_type, clock.number, body[4 : 4 + captured])

    def _carry(self, kind: int, body: bytes, order: ByteOrder) -> None:
        interface = None
        if kind == INTERFACE_STATISTICS:
            if len(body) < 12:
                raise self._malformed(4, f"interface statistics of {len(body) + 12} octets", "at least 24")
            interface = self._clock(int.from_bytes(body[:4], order)).number
        if self._on_block is not None:
            self._on_block(Block(kind, body, order, interface))

    def _clock(self, index: int) -> _Clock:
        if index >= len(self._clocks):
            raise self._malformed(
                8, f"interface {index}", f"one of the {len(self._clocks)} that the section has described"
            )
        return self._clocks[index]

    def _options(self, body: bytes, start: int, order: ByteOrder) -> tuple[Option, ...]:
        if start >= len(body):
            return ()
        options = read_options(body[start:], order)
        if options is None:
            raise self._malformed(8 + start, "an option that runs over the end of its block", "options that fit")
        return options

    def _malformed(self, offset: int, what: str, expected: str) -> CaptureError:
        return CaptureError(what, path=self.name, offset=self._source.offset + offset, expected=expected)

    def _ended(self, start: int, expected: str) -> CaptureTruncated:
        have = self._source.offset + self._source.held - start
        return CaptureTruncated(
            f"the file ends {have} octets into a block", path=self.name, offset=start, expected=expected
        )


def _value(options: tuple[Option, ...], code: int, octets: int, default: bytes) -> bytes:
    return next((value for number, value in options if number == code and len(value) == octets), default)


def _text(options: tuple[Option, ...], code: int) -> str:
    return next((value.decode("utf-8", "replace") for number, value in options if number == code), "")


MAX_DESCRIPTION_OCTETS = 16 << 20
DESCRIPTION_OVERHEAD_OCTETS = 512
"""What interfaces of a file may take in memory: their description blocks, and what holding one costs beyond that."""

_READERS: dict[int, Callable[[PcapngReader, bytes, ByteOrder], Record | None]] = {
    SECTION_HEADER: PcapngReader._read_section,
    INTERFACE_DESCRIPTION: PcapngReader._read_interface,
    OBSOLETE_PACKET: PcapngReader._read_obsolete,
    SIMPLE_PACKET: PcapngReader._read_simple,
    ENHANCED_PACKET: PcapngReader._read_enhanced,
}
