"""What a capture shows of PSP without a key: associations, by SPI and addresses."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ..protocols import ip
from ..protocols.psp import FIXED, UDP_HEADER, header_version
from ..verdict import DropReason
from ..wire.psp import ICV, PSP, VERSION_NAMES

REMEMBERED = 32
"""IVs of an SPI that are known to have been there already."""


@dataclass(slots=True)
class SeenPSP:
    """What one SPI between two addresses sent.

    crypt_offset_words: of the last packet.   cookie: it has one.   octets: between IV and ICV.
    first, highest: IVs.   backwards: packets whose IV was not higher than all before: reordered on their way, or of a
    sender that counts wrongly.   twice: those of them that were among the last 32.   sampled: with the S bit.
    """

    source: str
    destination: str
    spi: int
    version: int
    first: int
    highest: int
    crypt_offset_words: int = 0
    cookie: bool = False
    packets: int = 0
    octets: int = 0
    backwards: int = 0
    twice: int = 0
    sampled: int = 0
    _recent: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def count(self, header: PSP, octets: int) -> None:
        """Add a packet.   octets: between IV and ICV."""
        if self.packets and header.iv <= self.highest:
            self.backwards += 1
            self.twice += header.iv in self._recent
        self._recent.append(header.iv)
        self.highest = max(self.highest, header.iv)
        self.packets += 1
        self.octets += octets
        self.sampled += header.sample
        self.crypt_offset_words, self.cookie = header.crypt_offset_words, bool(header.cookie_present)

    def as_json(self) -> dict[str, Any]:
        """Return it with stable names."""
        return {
            "spi": f"{self.spi:#010x}",
            "src": self.source,
            "dst": self.destination,
            "version": self.version,
            "cipher": VERSION_NAMES[self.version],
            "device_key": self.spi >> 31,
            "crypt_offset_words": self.crypt_offset_words,
            "cookie": self.cookie,
            "packets": self.packets,
            "octets": self.octets,
            "first_iv": self.first,
            "highest_iv": self.highest,
            "backwards": self.backwards,
            "twice": self.twice,
            "sampled": self.sampled,
        }


def psp_header(body: bytes) -> PSP | None:
    """Return the fixed part of the PSP header in a UDP datagram, None if there is none.   body: from the UDP header."""
    sealed = body[UDP_HEADER:]
    if isinstance(header_version(sealed), DropReason):
        return None
    return PSP.parse(sealed)  # what of cookie and extension is encrypted, nobody here looks at


def count_psp(
    table: dict[tuple[object, ...], SeenPSP], datagram: ip.Datagram, body: bytes, header: PSP, room: int
) -> bool:
    """Add a packet to a table of at most room rows.   Returns False if it had no room."""
    ends = datagram.header.source, datagram.header.destination
    key = (*ends, header.spi, header.version)
    seen = table.get(key)
    if seen is None:
        if len(table) >= room:
            return False
        shown = str(ip.address(ends[0])), str(ip.address(ends[1]))
        seen = table[key] = SeenPSP(*shown, header.spi, header.version, header.iv, header.iv)
    seen.count(header, len(body) - UDP_HEADER - FIXED - ICV)
    return True
