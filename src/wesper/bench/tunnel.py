"""The tunnel rows: every kind of tunnel under the same loads, slice by slice in turn, and wesper's ratios to them."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ..errors import UnsupportedError, WesperError
from .measure import Result
from .peers import MTU, OURS, PEERS, PLAIN, PSP, Tunnel
from .tunnel_load import Agent, Load, Sample, TrafficFailed, measure_slice

NOTES: Final = (
    "Tunnels: over a veth pair segments of TCP stay together in super-packets, which a network card would cut. "
    "Debian's wireguard-go is older than its own offloads. No tunnel of the kernel's (ESP, WireGuard, OpenVPN DCO) is "
    "among the peers. Rows of UDP without a limit are noisy; the row at 400 Mbit/s shows the cost of equal work.",
)
"""What has to be known to judge the ratios; printed with them."""
_GROUP: Final = "Tunnel"
_REST_S: Final = 1.0
_PATIENT: Final = 5


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of all tunnels.

    name, unit: in the table.   load: what is sent.   value: takes the figure from a slice of that.
    at_most: less is better.   to_plain, to_best: goals of the ratio to the plain link and to the best peer.
    psp: goal of the ratio of wesper's PSP tunnel to its ESP tunnel.
    of_daemons: whether the plain link has no such figure.
    """

    name: str
    unit: str
    load: Load
    value: Callable[[Sample], float]
    to_plain: float | None = None
    to_best: float | None = None
    psp: float | None = None
    at_most: bool = False
    of_daemons: bool = False

    @property
    def group(self) -> str:
        """Heading of the figure's rows."""
        return f"{_GROUP}, {self.name}"


_ONE_STREAM: Final = Load("tcp")
FIGURES: Final = (
    Figure("one TCP stream", "bit/s", _ONE_STREAM, lambda it: it.bps, to_plain=0.36, to_best=10, psp=0.95),
    Figure("four TCP streams", "bit/s", Load("tcp", streams=4), lambda it: it.bps, to_best=7, psp=0.95),
    Figure("TCP stream, a core", "bit/s a core", _ONE_STREAM, lambda it: it.bps_per_core, to_best=9, of_daemons=True),
    Figure("UDP, 1400 octets", "bit/s", Load("udp", octets=MTU), lambda it: it.bps, to_best=2, psp=0.95),
    Figure("UDP, 64 octets", "packets/s", Load("udp", octets=64), lambda it: it.pps, to_best=1.8),
    Figure(
        "UDP at 400 Mbit/s",
        "cores a Gbit/s",
        Load("udp", octets=MTU, bps=400e6),
        lambda it: it.cores_per_gbps,
        to_best=0.5,
        at_most=True,
        of_daemons=True,
    ),
)

Samples = Mapping[Load, Mapping[str, Sequence[Sample]]]
"""What each load has shown of each kind by its name, a sample a round."""


@dataclass
class Outcome:
    """What a run has shown.

    left_out: kinds without samples, with the reason.   versions: of the daemons, by kind.
    """

    results: list[Result] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def chosen(only: str) -> list[tuple[Figure, type[Tunnel]]]:
    """Return the rows, each a figure and what wesper is held against in it, whose group or name contains a text."""
    return [
        (figure, kind)
        for figure in FIGURES
        for kind in (PLAIN, *PEERS, PSP)
        if not (figure.of_daemons and kind is PLAIN) and only.lower() in f"{figure.group} {kind.name}".lower()
    ]


def measure_tunnels(
    rows: Iterable[tuple[Figure, type[Tunnel]]],
    rounds: int,
    *,
    quick: bool = False,
    on_slice: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Measure rows in so many rounds, after one that does not count; a round is a slice of every load and kind.

    quick: slices of 0.15 s instead of 1 s.   on_slice: is told what is measured now.
    """
    rows = list(rows)
    if not rows:
        return Outcome()
    figures = list(dict.fromkeys(figure for figure, _ in rows))
    kinds = [kind for kind in (PLAIN, *PEERS, PSP) if kind in {kind for _, kind in rows}]
    seconds, warm_s = (0.15, 0.05) if quick else (1.0, 0.5)
    loads = list(dict.fromkeys(figure.load for figure in figures))
    samples: dict[Load, dict[str, list[Sample]]] = {load: {} for load in loads}
    with _Field([*kinds, OURS], on_slice) as field_:
        for turn in range(-1, rounds):
            for load in loads:
                for kind in field_.in_turn(turn):
                    on_slice(f"round {max(turn + 1, 0)}/{rounds}: {_word(load)}, {kind.name}")
                    sample = field_.slice(kind, load, seconds, warm_s)
                    if sample is not None and turn >= 0:
                        samples[load].setdefault(kind.name, []).append(sample)
        kept = {
            load: {name: taken for name, taken in of.items() if name not in field_.left_out}
            for load, of in samples.items()
        }
        against = {figure: [kind.name for each, kind in rows if each is figure] for figure in figures}
        left_out = [(f"{_GROUP.lower()} of {name}", reason) for name, reason in field_.left_out.items()]
        return Outcome(compare(kept, against), left_out, field_.versions)


def compare(samples: Samples, against: Mapping[Figure, Sequence[str]], ours: str = OURS.name) -> list[Result]:
    """Return a result for each figure and each kind that wesper is held against in it, best peer first; PSP's the last.

    A ratio is the median of the rounds' ratios. Where wesper has no samples, a row shows the other kind alone; where no
    other kind has any, wesper alone.
    """
    results = []
    for figure, names in against.items():
        taken = {name: [figure.value(each) for each in of] for name, of in samples[figure.load].items() if of}
        peers = [name for name in names if name in taken and name not in (PLAIN.name, PSP.name)]
        medians = {name: statistics.median(taken[name]) for name in peers}
        peers.sort(key=medians.__getitem__, reverse=not figure.at_most)
        best = peers[0] if peers else None
        mine = taken.get(ours, [])
        plain = [name for name in names if name in taken and name == PLAIN.name]
        for name in (*plain, *peers):
            goal = figure.to_plain if name in plain else figure.to_best if name == best else None
            results.append(_result(figure, name, mine, taken[name], goal, best=name == best))
        psp = taken.get(PSP.name, []) if PSP.name in names else []
        if mine and not plain and not peers and not psp:
            results.append(_alone(figure, mine))
        if psp:
            results.append(_beside(figure, psp, mine))
    return results


def _result(
    figure: Figure, name: str, ours: Sequence[float], anchor: Sequence[float], goal: float | None, *, best: bool
) -> Result:
    ratios = [one / other for one, other in zip(ours, anchor, strict=False) if other]
    return Result(
        figure.group,
        f"to {name}{', best peer' if best else ''}",
        figure.unit,
        name,
        statistics.median(ours) if ours else None,
        statistics.median(anchor),
        statistics.median(ratios) if ratios else None,
        min(ratios, default=None),
        max(ratios, default=None),
        goal if ratios else None,
        figure.at_most,
        len(anchor),
    )


def _beside(figure: Figure, psp: Sequence[float], esp: Sequence[float]) -> Result:
    """Return the row of PSP's tunnel beside ESP's."""
    ratios = [one / other for one, other in zip(psp, esp, strict=False) if other]
    return Result(
        figure.group,
        "PSP beside ESP",
        figure.unit,
        "wesper's ESP tunnel",
        statistics.median(psp),
        statistics.median(esp) if esp else None,
        statistics.median(ratios) if ratios else None,
        min(ratios, default=None),
        max(ratios, default=None),
        figure.psp if ratios else None,
        figure.at_most,
        len(psp),
    )


def _alone(figure: Figure, ours: Sequence[float]) -> Result:
    median = statistics.median(ours)
    name = "by itself, no peer here"
    return Result(figure.group, name, figure.unit, "", median, None, None, None, None, None, figure.at_most, len(ours))


class _Field:
    """The tunnels that take part, all of them up; those that fail are left out from then on."""

    def __init__(self, kinds: Sequence[type[Tunnel]], on_start: Callable[[str], None]) -> None:
        self._kinds, self._on_start = kinds, on_start
        self._folder = tempfile.TemporaryDirectory(prefix="wesper-bench-")
        self._running: dict[str, tuple[Tunnel, Agent, Agent]] = {}
        self.left_out: dict[str, str] = {}
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            for kind in self._kinds:
                self._on_start(f"starting {kind.name}")
                self._start(kind)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def in_turn(self, turn: int) -> list[Tunnel]:
        """Return those that run, another one first in each turn."""
        running = [tunnel for tunnel, _, _ in self._running.values()]
        start = turn % len(running) if running else 0
        return running[start:] + running[:start]

    def slice(self, tunnel: Tunnel, load: Load, seconds: float, warm_s: float) -> Sample | None:
        """Measure one slice; None if the tunnel fails, which is then left out."""
        _, a, b = self._running[tunnel.name]
        measure = partial(measure_slice, load, a, b, tunnel.inside[1], tunnel.processor_ns)
        try:
            try:
                sample = measure(warm_s=warm_s, seconds=seconds)
            except TrafficFailed:
                # On busy cores a daemon may not have run at all in a short slice.
                tunnel.await_answer()
                sample = measure(warm_s=warm_s, seconds=_PATIENT * seconds)
        except WesperError as error:
            self._leave_out(tunnel, str(error))
            return None
        # What a flood has left in a daemon's queue would be worked off during the next one's slice.
        if not tunnel.rest(_REST_S):
            self._stop(tunnel)
            self._start(type(tunnel))
        return sample

    def _start(self, kind: type[Tunnel]) -> None:
        # A new folder each time: what a killed daemon has left must not stop the next.
        tunnel = kind(Path(tempfile.mkdtemp(prefix=f"{kind.__name__.lower()}-", dir=self._folder.name)))
        try:
            tunnel.start()
            a, b = tunnel.hosts
            self._running[kind.name] = tunnel, Agent(a), Agent(b)
            if kind.name not in self.versions and (version := tunnel.version()):
                self.versions[kind.name] = version
        except UnsupportedError as error:
            self.left_out[kind.name] = error.needs
        except WesperError as error:
            self._leave_out(tunnel, str(error))
        except BaseException:
            self._stop(tunnel)
            raise

    def _leave_out(self, tunnel: Tunnel, reason: str) -> None:
        self._stop(tunnel)
        self.left_out[tunnel.name] = reason

    def _stop(self, tunnel: Tunnel) -> None:
        _, *agents = self._running.pop(tunnel.name, (tunnel,))
        tunnel.stop()
        for agent in agents:
            agent.close()

    def _close(self) -> None:
        for tunnel, _, _ in list(self._running.values()):
            self._stop(tunnel)
        self._folder.cleanup()


def _word(load: Load) -> str:
    if load.kind == "tcp":
        return f"TCP, {load.streams} stream{'s' if load.streams > 1 else ''}"
    return f"UDP, {load.octets} octets{f', {load.bps / 1e6:.0f} Mbit/s' if load.bps else ''}"
