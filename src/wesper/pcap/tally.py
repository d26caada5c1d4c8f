"""What a run over a capture did, counted: for people and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..keying import PSPAssociation, PSPDevice
from ..verdict import DropReason
from .opened import Opening

SCHEMA = 1
MAX_SAS = 10_000
"""SPIs that a run tells of one by one: PSP's may be millions."""


@dataclass(slots=True)
class SATally:
    """What one SA did.   octets: of inner packets.   first, last: sequence numbers or PSP's IVs, as they came."""

    sa: Opening
    spi: int
    suite: str
    packets: int = 0
    octets: int = 0
    first: int = 0
    last: int = 0

    def count(self, octets: int, sequence: int) -> None:
        """Add one packet."""
        if not self.packets:
            self.first = sequence
        self.packets += 1
        self.octets += octets
        self.last = sequence

    @property
    def is_psp(self) -> bool:
        """Whether its numbers are PSP's IVs."""
        return isinstance(self.sa, PSPAssociation | PSPDevice)

    def as_json(self) -> dict[str, Any]:
        """Return it with stable names."""
        number = "iv" if self.is_psp else "sequence"
        return {
            "name": self.sa.name,
            "spi": f"{self.spi:#010x}",
            "suite": self.suite,
            "packets": self.packets,
            "octets": self.octets,
            f"first_{number}": self.first,
            f"last_{number}": self.last,
        }


@dataclass(slots=True)
class Tally:
    """What a run did.

    packets: records read.   other: those that were none of an SA's business.   done: opened or protected.
    dropped: why packets of an SA got no further, by verdict.   cut: those of them that the capture had not kept whole.
    reassembled, incomplete: datagrams that came in fragments.   truncated: the capture ended inside a record.
    unlisted: packets of SPIs for which the table had no room.   psp_counters: PSP's statistics, by the kernel's names.
    """

    packets: int = 0
    other: int = 0
    done: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    sentences: dict[str, str] = field(default_factory=dict)
    sas: dict[tuple[int, int], SATally] = field(default_factory=dict)
    cut: int = 0
    reassembled: int = 0
    incomplete: int = 0
    truncated: str = ""
    unlisted: int = 0
    psp_counters: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: DropReason) -> None:
        """Count a packet that was dropped."""
        self.dropped[reason.verdict] += 1
        self.sentences.setdefault(reason.verdict, reason.sentence)

    def count(self, sa: Opening, spi: int, octets: int, sequence: int, suite: str = "") -> None:
        """Count a packet that was opened or protected.   suite: where it is not the SA's own: a PSP device's packet."""
        self.done += 1
        entry = self.sas.get((id(sa), spi))
        if entry is None:
            if len(self.sas) >= MAX_SAS:
                self.unlisted += 1
                return
            own = "" if isinstance(sa, PSPDevice) else sa.suite
            entry = self.sas[id(sa), spi] = SATally(sa, spi, suite or own)
        entry.count(octets, sequence)

    def as_json(self, done: str) -> dict[str, Any]:
        """Return it with stable names.   done: what the run does to packets, as a participle."""
        return {
            "schema": SCHEMA,
            "packets": self.packets,
            done: self.done,
            "other": self.other,
            "dropped": dict(sorted(self.dropped.items())),
            "cut": self.cut,
            "reassembled": self.reassembled,
            "incomplete": self.incomplete,
            "truncated": self.truncated or None,
            "sas": [entry.as_json() for entry in self.sas.values()],
            "unlisted": self.unlisted,
            "psp_counters": self.psp_counters or None,
        }
