"""What the demonstration found, and whether it is as it should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from ..bench.connections import Point
from ..verdict import DropReason
from .opened import Opened
from .traffic import Bulk
from .wire import Seen


@dataclass(frozen=True, slots=True)
class Check:
    """A claim.   holds: whether it is true."""

    claim: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Forged:
    """Packets of one sort that the router forged.   dropped: how many the receiver has counted under that name."""

    how: str
    reason: DropReason
    sent: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Passage:
    """What the hosts sent on one way, in the clear or through the tunnel, and what the router saw of it.

    round_trips: of echoes, in seconds, None for one without an answer.   datagrams: sent and arrived.
    stream: captured and compared.   speed: the same as fast as it goes, not captured.
    """

    seen: Seen
    round_trips: Sequence[float | None]
    datagrams: tuple[int, int]
    stream: Bulk
    speed: Bulk

    @property
    def round_trip(self) -> float | None:
        """The median round trip in seconds, None if no echo came back."""
        back = [each for each in self.round_trips if each is not None]
        return median(back) if back else None


@dataclass(frozen=True, slots=True)
class PSPFindings:
    """The same of a PSP tunnel between the same hosts.   afterwards: echoes after the forgeries."""

    tunnel: Passage
    opened: Opened
    forged: Sequence[Forged]
    afterwards: Sequence[float | None]
    suite: str


@dataclass(slots=True)
class Findings:
    """All of it.

    tshark: ESP packets that it saw and opened, None without one.   afterwards: echoes after the forgeries.
    psp: the second tunnel, None if there was none.   points: what live connections cost, by PSP and by ESP.
    about: what ran, for the report's foot.   files: what lies in the output folder, with a word on each.
    """

    clear: Passage
    tunnel: Passage
    opened: Opened
    tshark: tuple[int, int] | None
    forged: Sequence[Forged]
    afterwards: Sequence[float | None]
    suite: str
    engine: str
    drops: Mapping[str, int] = field(default_factory=dict)
    psp: PSPFindings | None = None
    points: Sequence[Point] = ()
    about: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def checks(self) -> list[Check]:
        """Return every claim that the demonstration makes."""
        seen, opened = self.tunnel.seen, self.opened
        claims = [
            Check("the marker is read in the clear", self.clear.seen.marked.total() > 0),
            Check("everything sent through the tunnel arrived whole", self._arrived(self.tunnel)),
            Check("the wire held ESP, and nothing but what a tunnel makes", seen.esp() > 0 and not seen.foreign()),
            Check("the marker is nowhere in it", not seen.marked.total()),
            Check("with the keys every ESP packet opens", opened.authentic == seen.esp() and not opened.dropped),
            Check("and the marker is inside", opened.marked > 0),
        ]
        if self.tshark is not None:
            claims.append(Check("tshark opens the same", self.tshark == (seen.esp(), opened.opened)))
        claims += [
            Check(f"{each.how}: dropped as {each.reason.verdict}", each.dropped == each.sent > 0)
            for each in self.forged
        ]
        claims.append(Check("the tunnel still carries what is real", None not in self.afterwards))
        return claims + (self._checks_of_psp(self.psp) if self.psp is not None else [])

    def _checks_of_psp(self, found: PSPFindings) -> list[Check]:
        seen, opened = found.tunnel.seen, found.opened
        is_psp = seen.psp() > 0 and not seen.esp() and not seen.foreign()
        return [
            Check("everything sent through the PSP tunnel arrived whole", self._arrived(found.tunnel)),
            Check("its wire held PSP, and nothing but what a tunnel makes", is_psp),
            Check("the marker is nowhere in that either", not seen.marked.total()),
            Check("with the keys every PSP packet opens", opened.authentic == seen.psp() and not opened.dropped),
            Check("and the marker is inside those, too", opened.marked > 0),
            *(
                Check(f"PSP, {each.how}: dropped as {each.reason.verdict}", each.dropped == each.sent > 0)
                for each in found.forged
            ),
            Check("the PSP tunnel still carries what is real", None not in found.afterwards),
        ]

    @staticmethod
    def _arrived(passage: Passage) -> bool:
        sent, arrived = passage.datagrams
        return passage.stream.whole is True and sent == arrived and None not in passage.round_trips


def kinds(*counted: Counter[str]) -> list[str]:
    """Return the kinds of frames of several counts, the most frequent first."""
    return [kind for kind, _ in sum(counted, Counter[str]()).most_common()]
