"""What a capture holds, whatever its file format: records, interfaces, sections, and blocks carried through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

ByteOrder = Literal["little", "big"]

Option = tuple[int, bytes]
"""A pcapng option: its code and its value without padding. Integers that pcapng defines for packets (flags, drop count,
packet id, queue) are little-endian here whatever the order of the file; every other value is as it was in the file."""

MAX_PACKET_OCTETS = 262_144
"""The largest packet read or written: libpcap's MAXIMUM_SNAPLEN. A larger length field is a damaged or hostile file."""

MAX_BLOCK_OCTETS = 1 << 20
"""The largest pcapng block that is held in memory whole, except those carried through to a caller."""

MAX_CARRIED_OCTETS = 16 << 20
"""The largest block handed to a caller who asked for the blocks that are not packets."""

OPT_COMMENT = 1


class Record(NamedTuple):
    """One captured packet."""

    timestamp_ns: int
    """Nanoseconds since 1970-01-01 UTC; 0 from a pcapng Simple Packet Block, which has no time."""
    original_octets: int
    """Length on the network; more than `captured_octets` if the capture cut the packet."""
    link_type: int
    """What `data` begins with, a number of `LinkType` or any other."""
    interface: int
    """Index into the reader's `interfaces`."""
    data: bytes
    """The captured octets, 0..262144."""
    options: tuple[Option, ...] = ()
    """Options of a pcapng packet in file order, comments among them."""

    @property
    def captured_octets(self) -> int:
        """Length of `data`."""
        return len(self.data)

    @property
    def comments(self) -> tuple[str, ...]:
        """Comments on the packet; octets that are not UTF-8 are replaced."""
        return comments_of(self.options)


@dataclass(frozen=True, slots=True)
class Interface:
    """Where packets were captured. A classic pcap file has exactly one, without a name."""

    link_type: int
    snap_octets: int = 0
    """The longest packet the capture would take; 0 is no limit."""
    name: str = ""
    description: str = ""
    comments: tuple[str, ...] = ()
    tsresol: int = 6
    """Unit of the file's timestamps as pcapng codes it, 10^-n s, or 2^-(n-128) s from 128 up; records have ns."""
    tsoffset_s: int = 0
    """Seconds that the file adds to each timestamp; records have it added already."""


@dataclass(frozen=True, slots=True)
class Section:
    """What a pcapng section header says about the machine that captured; all empty in a classic file."""

    byte_order: ByteOrder
    hardware: str = ""
    os: str = ""
    application: str = ""
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """A pcapng block that is no packet, interface or section, as it lies in the file."""

    type: int
    body: bytes
    """The octets between the two length fields."""
    byte_order: ByteOrder
    interface: int | None = None
    """For an Interface Statistics Block, the index into the reader's `interfaces`; `body` has the section's number."""

    @property
    def copyable(self) -> bool:
        """Whether a program that rewrites the file may keep it; the format has a custom block that says no."""
        # draft-ietf-opsawg-pcapng-03 §4.7: 0x40000BAD is the custom block that must not be copied
        return self.type != 0x40000BAD


def comments_of(options: tuple[Option, ...]) -> tuple[str, ...]:
    """Texts of the comment options, in order."""
    return tuple(value.decode("utf-8", "replace") for code, value in options if code == OPT_COMMENT)
