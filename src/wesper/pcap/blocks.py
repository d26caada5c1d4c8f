"""Blocks and options of pcapng: numbers, layouts, and how option lists are read and written.

Source: draft-ietf-opsawg-pcapng-03 §3.1 (blocks), §3.5 (options), §4 (block types), appendix A (obsolete packet block).
"""

from __future__ import annotations

from struct import Struct

from wesper.pcap.record import ByteOrder, Option

SECTION_HEADER = 0x0A0D0D0A
"""The same number in either byte order."""
INTERFACE_DESCRIPTION = 1
OBSOLETE_PACKET = 2
SIMPLE_PACKET = 3
INTERFACE_STATISTICS = 5
ENHANCED_PACKET = 6

BYTE_ORDER_MAGIC = 0x1A2B3C4D

OPT_END = 0
SHB_HARDWARE = 2
SHB_OS = 3
SHB_APPLICATION = 4
IF_NAME = 2
IF_DESCRIPTION = 3
IF_TSRESOL = 9
IF_TSOFFSET = 14

PACKET_INTEGER_OPTIONS = {2: 4, 4: 8, 5: 8, 6: 4}
"""epb_flags, epb_dropcount, epb_packetid, epb_queue -> octets of their integer; the obsolete block shares the first."""


def read_options(data: bytes, order: ByteOrder) -> tuple[Option, ...] | None:
    """Options of a block in file order, without the end mark; None if one runs over the end.

    A list that ends with the block and has no end mark is whole: the format lets writers leave it out.
    """
    options: list[Option] = []
    at = 0
    while at < len(data):
        if len(data) - at < 4:
            return None
        code = int.from_bytes(data[at : at + 2], order)
        octets = int.from_bytes(data[at + 2 : at + 4], order)
        if code == OPT_END:
            break
        at += 4
        if len(data) - at < octets:
            return None
        options.append((code, data[at : at + octets]))
        at += octets + (-octets & 3)
    return tuple(options)


def write_options(options: tuple[Option, ...]) -> bytes:
    """Octets of an option list, little-endian, with its end mark; nothing for no options.

    Each value has at most 65535 octets, else struct.error.
    """
    if not options:
        return b""
    parts: list[bytes] = []
    for code, value in options:
        parts += (pack_option_head(code, len(value)), value, bytes(-len(value) & 3))
    parts.append(bytes(4))
    return b"".join(parts)


def little_endian_integers(options: tuple[Option, ...]) -> tuple[Option, ...]:
    """Packet options of a big-endian section with the integers that pcapng defines turned round."""
    return tuple(
        (code, value[::-1]) if PACKET_INTEGER_OPTIONS.get(code) == len(value) else (code, value)
        for code, value in options
    )


pack_option_head = Struct("<HH").pack
