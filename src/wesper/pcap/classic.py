"""The classic pcap file format, read and written.

Source: draft-ietf-opsawg-pcap-05; the swapped lengths of old versions and the longer record header of the patched
libpcap of 1990s Linux are those that libpcap's `sf-pcap.c` reads too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from struct import error as struct_error

from wesper.errors import CaptureError
from wesper.pcap.errors import CaptureTruncated
from wesper.pcap.link import LinkType
from wesper.pcap.record import MAX_PACKET_OCTETS, ByteOrder, Interface, Option, Record, Section
from wesper.pcap.stream import Sink, Source
from wesper.pcap.writer import CaptureWriter

TruncationHandler = Callable[[CaptureTruncated], None]


class PcapReader:
    """Records of a classic pcap file. Made by `open_capture`, which has looked at the first octets.

    interfaces: the one interface of the file.   version: (major, minor).   section: only its byte order says something.
    """

    def __init__(self, source: Source, *, on_truncated: TruncationHandler | None = None) -> None:
        self.name = source.name
        self.format = "pcap"
        self._source = source
        self._on_truncated = on_truncated
        magic = source.data[:4]
        order, tsresol, self._record_octets = MAGICS[magic]
        if not source.need(FILE_HEADER_OCTETS):
            raise CaptureTruncated(
                f"the file ends after {len(source.data)} octets",
                path=self.name,
                offset=0,
                expected=f"a pcap file header of {FILE_HEADER_OCTETS} octets",
            )
        # Octets 8..15, once the time zone and its accuracy, are reserved in the draft, and no writer set them
        _, major, minor, _, _, snap_octets, link = Struct(PREFIX[order] + FILE_HEADER).unpack_from(source.data)
        if (major, minor) != VERSION_DG_UX and major != 2:
            raise CaptureError(f"pcap version {major}.{minor}", path=self.name, offset=4, expected="version 2.x")
        self.version: tuple[int, int] = (major, minor)
        # The upper 16 bits tell about frame check sequences
        self.interfaces: tuple[Interface, ...] = (Interface(link & 0xFFFF, snap_octets=snap_octets, tsresol=tsresol),)
        self.section = Section(byte_order=order)
        self._records = self._walk(order, 10 ** (9 - tsresol))

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def _walk(self, order: ByteOrder, scale: int) -> Iterator[Record]:
        source = self._source
        octets = self._record_octets
        unpack = Struct(PREFIX[order] + RECORD_HEADER).unpack_from
        link_type = self.interfaces[0].link_type
        # libpcap sf-pcap.c: lengths lie the other way round before 2.3, and in 2.3 where they make no sense as they are
        always_swapped = self.version < (2, 3) or self.version == VERSION_DG_UX
        maybe_swapped = self.version == (2, 3)
        # Skips the argument checks of Record(...), a third of the loop's time
        new: Callable[[type[Record], tuple[int, int, int, int, bytes, tuple[Option, ...]]], Record] = tuple.__new__
        data = source.data
        position = FILE_HEADER_OCTETS
        while True:
            last = len(data) - octets
            need = octets
            while position <= last:
                seconds, fraction, captured, original = unpack(data, position)
                if always_swapped or (maybe_swapped and captured > original):
                    captured, original = original, captured
                if captured > MAX_PACKET_OCTETS:
                    raise CaptureError(
                        f"captured length {captured}",
                        path=self.name,
                        offset=source.base + position + 8,
                        expected=f"at most {MAX_PACKET_OCTETS}",
                    )
                start = position + octets
                stop = start + captured
                if stop > len(data):
                    need = octets + captured
                    break
                yield new(
                    Record,
                    (seconds * 1_000_000_000 + fraction * scale, original, link_type, 0, data[start:stop], ()),
                )
                position = stop
            source.position = position
            if not source.need(need):
                if source.held:
                    self._truncated(source.held, need)
                return
            data = source.data
            position = source.position

    def _truncated(self, have: int, need: int) -> None:
        error = CaptureTruncated(
            f"the file ends {have} octets into a record",
            path=self.name,
            offset=self._source.offset,
            expected=f"{need} octets",
        )
        if self._on_truncated is None:
            raise error
        self._on_truncated(error)


class PcapWriter(CaptureWriter):
    """Writes one classic pcap file: little-endian, version 2.4, one link type. Made by `create_capture`.

    nanoseconds: the unit of the file's timestamps; microseconds (False) round down.
    """

    format = "pcap"

    def __init__(self, sink: Sink, *, nanoseconds: bool = True) -> None:
        super().__init__(sink)
        self._link_type: int | None = None
        self._nanoseconds = nanoseconds

    def add_interface(self, interface: Interface) -> int:
        """Write the file header; nothing for another interface of the same link type. Returns 0, the only number.

        Raises CaptureError for a second link type, and for a field above what the format holds.
        """
        if self._link_type is None:
            if not 0 <= interface.link_type <= 0xFFFF or not 0 <= interface.snap_octets <= 0xFFFFFFFF:
                raise self._refused(f"link type {interface.link_type}", "0..65535, and 0..2^32-1 octets of snapshot")
            self._link_type = interface.link_type
            magic = 0xA1B23C4D if self._nanoseconds else 0xA1B2C3D4
            snap_octets = interface.snap_octets or MAX_PACKET_OCTETS
            self._sink.write(Struct("<" + FILE_HEADER).pack(magic, 2, 4, 0, 0, snap_octets, interface.link_type))
        elif self._link_type != interface.link_type:
            raise self._refused(
                f"a second link type, {interface.link_type} after {self._link_type}",
                "one link type in a pcap file; pcapng takes several",
            )
        return 0

    def write(
        self,
        data: bytes,
        timestamp_ns: int,
        *,
        interface: int = 0,
        original_octets: int | None = None,
        options: tuple[Option, ...] = (),
    ) -> None:
        """Append one packet. `options` have no place in this format and are left out."""
        if self._link_type is None or interface != 0:
            raise self._refused(f"interface {interface}", "one that add_interface has returned")
        octets = len(data)
        if octets > MAX_PACKET_OCTETS:
            raise self._refused(f"a packet of {octets} octets", f"at most {MAX_PACKET_OCTETS}")
        original = octets if original_octets is None else original_octets
        seconds, fraction = divmod(timestamp_ns, 1_000_000_000)
        if not self._nanoseconds:
            fraction //= 1000
        try:
            header = _pack_record(seconds, fraction, octets, original)
        except struct_error as error:
            raise self._refused(f"{timestamp_ns} ns, {original} octets", "0..2^32-1 seconds and octets") from error
        self._sink.write(header + data)

    def close(self) -> None:
        """Complete the file. One without interface is said to be Ethernet, since the format wants a link type."""
        if self._link_type is None:
            self.add_interface(Interface(LinkType.ETHERNET))
        super().close()


PREFIX: dict[ByteOrder, str] = {"little": "<", "big": ">"}
FILE_HEADER = "IHHIIII"
"""Magic, major and minor version, two reserved words, snapshot length, link type."""
FILE_HEADER_OCTETS = 24
RECORD_HEADER = "IIII"
"""Seconds, fraction of a second, captured length, original length."""
VERSION_DG_UX = (543, 0)
"""What the tcpdump of DG/UX wrote for 2.2."""

MAGICS: dict[bytes, tuple[ByteOrder, int, int]] = {
    magic.to_bytes(4, order): (order, tsresol, record_octets)
    for order in ("little", "big")
    for magic, tsresol, record_octets in ((0xA1B2C3D4, 6, 16), (0xA1B23C4D, 9, 16), (0xA1B2CD34, 6, 24))
}
"""First four octets -> byte order, 10^-n s of the timestamps, octets of a record header. The third kind has interface,
protocol, packet type and a pad octet after the usual record header; they are skipped."""

_pack_record = Struct("<" + RECORD_HEADER).pack
