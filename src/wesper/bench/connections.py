"""What one to ten million connections cost: memory and packets/s of both ends, PSP beside ESP's SAs in the same run."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import WesperError
from ..report import Series, lines
from .machine import free_memory
from .measure import Result

COUNTS: Final = (1, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
QUICK_COUNTS: Final = COUNTS[:-1]
_EACH: Final = 1100
"""Octets of a connection in the measuring process: both ends of both protocols."""
_MIB: Final = 2**20
_TABLE_MIB: Final = 640
"""What PSP's sender may grow by with ten million connections, and with fewer by as much less, if they are many."""
_MANY: Final = 1_000_000


class PointFailed(WesperError):
    """A measuring process has failed."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What connections of one protocol cost.

    sender, receiver: octets that they have grown by.
    sent, received: packets/s of connections drawn at random, one of each round.
    """

    sender: int
    receiver: int
    sent: Sequence[float]
    received: Sequence[float]

    def as_json(self) -> dict[str, Any]:
        """Return it with stable names."""
        return {
            "sender_octets": self.sender,
            "receiver_octets": self.receiver,
            "sent_pps": list(self.sent),
            "received_pps": list(self.received),
        }


@dataclass(frozen=True, slots=True)
class Point:
    """What so many connections cost, by PSP and by ESP."""

    connections: int
    psp: Cost
    esp: Cost

    def as_json(self) -> dict[str, Any]:
        """Return it with stable names."""
        return {"connections": self.connections, "psp": self.psp.as_json(), "esp": self.esp.as_json()}


def mebibytes(octets: int) -> str:
    """Return an amount of memory as text."""
    return f"{octets / _MIB:,.0f} MiB"


def group(connections: int) -> str:
    """Return the heading of the rows of so many connections."""
    return f"PSP, {connections:,} connection{'s' * (connections != 1)}"


def chosen(only: str, *, quick: bool) -> list[int]:
    """Return the numbers of connections whose rows' heading contains a text."""
    return [count for count in (QUICK_COUNTS if quick else COUNTS) if only.lower() in group(count).lower()]


def measure_connections(
    counts: Iterable[int], rounds: int, on_point: Callable[[str], None] = lambda _: None
) -> tuple[list[Point], list[tuple[str, str]]]:
    """Measure each number of connections in a process of its own; return points, and what was left out with the reason.

    on_point: is told what is measured now.   Raises PointFailed.
    """
    points, left_out = [], []
    for count in counts:
        needed, free = _EACH * count, free_memory()
        if free is not None and needed > free:
            left_out.append((group(count), f"takes {needed / 2**30:.0f} GiB of memory, {free / 2**30:.0f} are free"))
            continue
        on_point(f"{group(count)} and as many SAs")
        points.append(_point(count, rounds))
    return points, left_out


def results(points: Iterable[Point]) -> list[Result]:
    """Return the rows of points: memory in MiB, and packets/s beside ESP's."""
    found = []
    for point in points:
        rounds = len(point.psp.sent)
        table = _TABLE_MIB * point.connections / COUNTS[-1] if point.connections >= _MANY else None
        for name, octets, goal in (
            ("receiver grows by, MiB", point.psp.receiver, 1.0),
            ("sender's table, MiB", point.psp.sender, table),
            ("receiver with ESP's SAs, MiB", point.esp.receiver, None),
            ("sender with ESP's SAs, MiB", point.esp.sender, None),
        ):
            mebibytes = octets / _MIB
            found.append(
                Result(
                    group(point.connections),
                    name,
                    "MiB",
                    "",
                    mebibytes,
                    None,
                    None,
                    None,
                    None,
                    goal,
                    at_most=True,
                    rounds=1,
                )
            )
        for name, ours, theirs in (
            ("sent at random, beside ESP's SAs", point.psp.sent, point.esp.sent),
            ("received at random, beside ESP's SAs", point.psp.received, point.esp.received),
        ):
            ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
            found.append(
                Result(
                    group(point.connections),
                    name,
                    "packets/s",
                    "ESP's SAs",
                    statistics.median(ours),
                    statistics.median(theirs),
                    statistics.median(ratios),
                    min(ratios),
                    max(ratios),
                    None,
                    at_most=False,
                    rounds=rounds,
                )
            )
    return found


def plots(points: Sequence[Point]) -> list[tuple[str, str, str]]:
    """Return the plots over the number of connections, each with a title and a sentence.   points: ascending."""

    def series(name: str, value: Callable[[Point], float], *, esp: bool, receiver: bool) -> Series:
        drawn = [(float(point.connections), value(point)) for point in points]
        return Series(name, drawn, "esp" if esp else "psp", dashed=receiver)

    scale, unit = (2**30, "GiB") if points and points[-1].esp.receiver >= 2**30 else (_MIB, "MiB")
    memory = [
        series("ESP receiver", lambda point: point.esp.receiver / scale, esp=True, receiver=True),
        series("ESP sender", lambda point: point.esp.sender / scale, esp=True, receiver=False),
        series("PSP sender", lambda point: point.psp.sender / scale, esp=False, receiver=False),
        series("PSP receiver", lambda point: point.psp.receiver / scale, esp=False, receiver=True),
    ]
    speed = [
        series("PSP received", lambda point: statistics.median(point.psp.received) / 1e6, esp=False, receiver=True),
        series("PSP sent", lambda point: statistics.median(point.psp.sent) / 1e6, esp=False, receiver=False),
        series("ESP sent", lambda point: statistics.median(point.esp.sent) / 1e6, esp=True, receiver=False),
        series("ESP received", lambda point: statistics.median(point.esp.received) / 1e6, esp=True, receiver=True),
    ]
    x_title = "live connections"
    return [
        (
            "Memory over connections",
            "What each end grows by. PSP's receiver keeps nothing of a connection, its sender a row of 64 octets.",
            lines(memory, x_title=x_title, y_title=unit, decades=True),
        ),
        (
            "Packets a second over connections",
            "Packets of 64 octets, each of a connection drawn at random, one core. What ESP keeps of SAs leaves the "
            "caches early; beyond 65,536, whose expanded keys it keeps, each packet expands a key as PSP's always do.",
            lines(speed, x_title=x_title, y_title="million packets/s", decades=True),
        ),
    ]


def _point(count: int, rounds: int) -> Point:
    command = [sys.executable, "-m", "wesper.bench.connections_run", str(count), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        raise PointFailed(f"measuring {count:,} connections: {reason[0]}")
    found = json.loads(done.stdout)
    return Point(count, Cost(**found["psp"]), Cost(**found["esp"]))
