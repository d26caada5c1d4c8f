"""The pcapng file format, written.

Source: draft-ietf-opsawg-pcapng-03. One little-endian section; timestamps in nanoseconds on every interface.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error

from wesper.pcap.blocks import (
    BYTE_ORDER_MAGIC,
    ENHANCED_PACKET,
    IF_DESCRIPTION,
    IF_NAME,
    IF_TSRESOL,
    INTERFACE_DESCRIPTION,
    INTERFACE_STATISTICS,
    SECTION_HEADER,
    SHB_APPLICATION,
    write_options,
)
from wesper.pcap.record import (
    MAX_BLOCK_OCTETS,
    MAX_CARRIED_OCTETS,
    MAX_PACKET_OCTETS,
    OPT_COMMENT,
    Block,
    Interface,
    Option,
)
from wesper.pcap.stream import Sink
from wesper.pcap.writer import CaptureWriter


class PcapngWriter(CaptureWriter):
    """Writes one pcapng section. Made by `create_capture`.

    application, comments: what the section header says of the file.
    """

    format = "pcapng"

    def __init__(self, sink: Sink, *, application: str = "wesper", comments: tuple[str, ...] = ()) -> None:
        super().__init__(sink)
        self._interfaces = 0
        options = (*_texts(OPT_COMMENT, *comments), *_texts(SHB_APPLICATION, application))
        self._write_block(SECTION_HEADER, _pack_section(BYTE_ORDER_MAGIC, 1, 0, -1), options)

    def add_interface(self, interface: Interface) -> int:
        """Write an interface description. Returns 0, 1, 2 and so on.

        Its time unit is the nanosecond without offset; `tsresol` and `tsoffset_s` of `interface` are those of the file
        it was read from.   Raises CaptureError for a field above what the format holds.
        """
        options = (
            *_texts(OPT_COMMENT, *interface.comments),
            *_texts(IF_NAME, interface.name),
            *_texts(IF_DESCRIPTION, interface.description),
            (IF_TSRESOL, b"\x09"),
        )
        try:
            fixed = _pack_interface(interface.link_type, 0, interface.snap_octets)
        except struct_error as error:
            raise self._refused(
                f"link type {interface.link_type}, snapshot length {interface.snap_octets}", "0..65535 and 0..2^32-1"
            ) from error
        self._write_block(INTERFACE_DESCRIPTION, fixed, options)
        self._interfaces += 1
        return self._interfaces - 1

    def write(
        self,
        data: bytes,
        timestamp_ns: int,
        *,
        interface: int = 0,
        original_octets: int | None = None,
        options: tuple[Option, ...] = (),
    ) -> None:
        """Append one packet."""
        self._check_interface(interface)
        octets = len(data)
        if octets > MAX_PACKET_OCTETS:
            raise self._refused(f"a packet of {octets} octets", f"at most {MAX_PACKET_OCTETS}")
        original = octets if original_octets is None else original_octets
        tail = bytes(-octets & 3) + self._options(options)
        total = 32 + octets + len(tail)
        if total > MAX_BLOCK_OCTETS:
            raise self._refused(
                f"a packet with {len(tail)} octets of options", f"a block of at most {MAX_BLOCK_OCTETS}"
            )
        try:
            head = _pack_packet(
                ENHANCED_PACKET, total, interface, timestamp_ns >> 32, timestamp_ns & 0xFFFFFFFF, octets, original
            )
        except struct_error as error:
            raise self._refused(f"{timestamp_ns} ns, {original} octets", "0..2^64-1 ns, 0..2^32-1 octets") from error
        self._sink.write(b"".join((head, data, tail, _pack_length(total))))

    def write_block(self, block: Block, *, interface: int | None = None) -> None:
        """Append a block that the reader's `on_block` was given; one that may not be copied is left out.

        interface: for statistics, the number here of the interface they are about; `block.interface` if None.
        Raises CaptureError for a block of a big-endian section, since only its maker knows which octets to turn round.
        """
        if not block.copyable:
            return
        if block.byte_order != "little":
            raise self._refused(f"a big-endian block of type {block.type}", "one of a little-endian section")
        body = block.body
        if len(body) & 3 or len(body) + 12 > MAX_CARRIED_OCTETS:
            raise self._refused(f"a block body of {len(body)} octets", f"a multiple of 4 below {MAX_CARRIED_OCTETS}")
        if block.type == INTERFACE_STATISTICS:
            number = block.interface if interface is None else interface
            self._check_interface(-1 if number is None else number)
            body = _pack_length(number) + body[4:]
        self._write_block(block.type, body, ())

    def _check_interface(self, interface: int) -> None:
        if not 0 <= interface < self._interfaces:
            raise self._refused(f"interface {interface}", "one that add_interface has returned")

    def _write_block(self, kind: int, fixed: bytes, options: tuple[Option, ...]) -> None:
        body = fixed + self._options(options)
        length = _pack_length(len(body) + 12)
        self._sink.write(b"".join((_pack_length(kind), length, body, length)))

    def _options(self, options: tuple[Option, ...]) -> bytes:
        try:
            return write_options(options)
        except struct_error as error:
            raise self._refused("an option", "a code and a length of 0..65535 each") from error


def _texts(code: int, *texts: str) -> tuple[Option, ...]:
    return tuple((code, text.encode()) for text in texts if text)


_pack_section = Struct("<IHHq").pack
_pack_interface = Struct("<HHI").pack
_pack_packet = Struct("<IIIIIII").pack
_pack_length = Struct("<I").pack
