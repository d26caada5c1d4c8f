"""What the demonstration found, and whether it is as it should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from ..bench.connections import Point
from ..verdict import DropReason
from .counted import FLOW_FIELDS
from .opened import Opened
from .traffic import Bulk
from .wire import LABELS, Seen


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
    """What the hosts sent on one way, in the clear or through a tunnel, and what the router saw of it.

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

    @property
    def arrived(self) -> bool:
        """Whether everything sent has come through whole."""
        sent, arrived = self.datagrams
        return self.stream.whole is True and sent == arrived and None not in self.round_trips


@dataclass(frozen=True, slots=True)
class ToldApart:
    """Flows of one direction, and how many of them the router told apart without a key, by what.

    names: by what the header calls them, None if it does not.
    """

    flows: int
    spis: int
    ports: int
    names: int | None

    @property
    def most(self) -> int:
        """By the best of these."""
        return max(self.spis, self.ports, self.names or 0)


@dataclass(slots=True)
class Protected:
    """What was found of one protocol's tunnel.

    spi: of what the near host sends.   afterwards: echoes after the forgeries.
    tshark: ESP packets that it saw and opened, None without one.   named: in how many packets tshark showed each of
    the protocol's fields, None without one.   counted: by a flow's name, packets of the near host that an XDP program
    on the router has counted, None if none ran.
    """

    protocol: str
    suite: str
    spi: int
    passage: Passage
    opened: Opened
    forged: Sequence[Forged]
    afterwards: Sequence[float | None]
    tshark: tuple[int, int] | None = None
    named: Mapping[str, int] | None = None
    counted: Mapping[int, int] | None = None

    @property
    def label(self) -> str:
        """The protocol, as people write it."""
        return LABELS[self.protocol]

    @property
    def packets(self) -> int:
        """How many of the protocol's packets the router saw."""
        return self.passage.seen.of(self.protocol)

    @property
    def names_flows(self) -> bool:
        """Whether the header has a name for the packet's flow."""
        return self.protocol in FLOW_FIELDS

    @property
    def shown(self) -> Counter[int]:
        """How many packets of the near host showed each flow's name; 0 is that of what has none."""
        found = Counter[int]()
        for shown, count in self.passage.seen.shown.items():
            found[shown.flow or 0] += count * (shown.spi == self.spi)
        return +found

    @property
    def told_apart(self) -> ToldApart:
        """What the near host's flows could be told apart by."""
        shown = [each for each in self.passage.seen.shown if each.spi == self.spi]
        return ToldApart(
            sum(spi == self.spi for spi, _ in self.opened.flows),
            len({each.spi for each in shown}),
            len({each.port for each in shown}),
            # Dummies belong to no flow; theirs is 0.
            len({each.flow for each in shown if each.flow}) if self.names_flows else None,
        )

    @property
    def keeps_names(self) -> bool:
        """Whether all packets of a flow went under one name, and not all flows under the same.

        Two may share one by chance: a Session ID has 16 bits.
        """
        flows = self.opened.flows.values()
        return (self.told_apart.names or 0) > 1 and all(len(names) == 1 and "" not in names for names in flows)


@dataclass(slots=True)
class Findings:
    """All of it.

    tunnels: in the order in which they were.   points: what live connections cost, by PSP and by ESP.
    about: what ran, for the report's foot.   files: what lies in the output folder, with a word on each.
    """

    clear: Passage
    tunnels: list[Protected]
    engine: str = ""
    points: Sequence[Point] = ()
    about: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def ways(self) -> dict[str, Passage]:
        """Return every passage by its name, that in the clear first."""
        return {"in the clear": self.clear, **{each.label: each.passage for each in self.tunnels}}

    def checks(self) -> list[Check]:
        """Return every claim that the demonstration makes."""
        opened = [each for each in self.tunnels if each.tshark is not None]
        named = [each for each in self.tunnels if each.named is not None]
        with_names = [each for each in self.tunnels if each.names_flows]
        claims = [
            self._all("everything sent through a tunnel arrived whole", lambda each: each.passage.arrived),
            self._all(
                "each wire held its tunnel's protocol, and nothing but what a tunnel makes",
                lambda each: each.packets > 0 and not each.passage.seen.foreign(each.protocol),
            ),
            self._all("the marker is nowhere on it", lambda each: not each.passage.seen.marked.total()),
            self._all(
                "with the keys every packet opens",
                lambda each: each.opened.authentic == each.packets and not each.opened.dropped,
            ),
            self._all("and the marker is inside", lambda each: each.opened.marked > 0),
            self._all(
                f"tshark opens the same of {_listed(opened)}",
                lambda each: each.tshark == (each.packets, each.opened.opened),
                opened,
            ),
            self._all(
                f"tshark names every field of {_listed(named)} in every packet",
                lambda each: set((each.named or {}).values()) == {each.packets},
                named,
            ),
            self._all(
                f"without a key flows of {_listed(with_names)} are told apart by name, and each keeps its name",
                lambda each: each.keeps_names,
                with_names,
            ),
            self._all(
                "an XDP program without a key counts the packets of every flow as the capture has them",
                lambda each: each.counted == each.shown,
                [each for each in self.tunnels if each.counted is not None],
            ),
        ]
        forged = [(each, forged) for each in self.tunnels for forged in each.forged]
        real = self._all(
            "every tunnel still carries what is real",
            lambda each: None not in each.afterwards,
            [each for each in self.tunnels if each.forged],
        )
        return [
            Check("the marker is read in the clear", self.clear.seen.marked.total() > 0),
            *(check for check in claims if check is not None),
            *(
                Check(f"{each.label}, {what.how}: dropped as {what.reason.verdict}", what.dropped == what.sent > 0)
                for each, what in forged
            ),
            *([real] if real is not None else []),
        ]

    def _all(
        self, claim: str, holds: Callable[[Protected], bool], of: Sequence[Protected] | None = None
    ) -> Check | None:
        """Return a claim about several tunnels, which says of which it is not true; None if it is about none.

        of: all unless given.
        """
        tunnels = self.tunnels if of is None else of
        wrong = [each for each in tunnels if not holds(each)]
        if not tunnels:
            return None
        return Check(f"{claim}: not so with {_listed(wrong)}" if wrong else claim, not wrong)


def kinds(*counted: Counter[str]) -> list[str]:
    """Return the kinds of frames of several counts, the most frequent first."""
    return [kind for kind, _ in sum(counted, Counter[str]()).most_common()]


def _listed(tunnels: Sequence[Protected]) -> str:
    *others, last = [each.label for each in tunnels] or [""]
    return f"{', '.join(others)} and {last}" if others else last
