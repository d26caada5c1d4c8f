"""Taking ratios on a noisy machine: ours and the anchor in turn, and the median of the ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

Rate = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure to measure.

    name: what is measured.   unit: of both rates.   ours, anchor: measure once and return a rate, more is better.
    anchor_name: what it is held against.   goal: least ratio.   A row without an anchor has a goal of its own unit.
    group: heading in the table.   at_most: less is better, and goal is an upper bound.
    """

    group: str
    name: str
    unit: str
    ours: Rate
    goal: float | None
    anchor: Rate | None = None
    anchor_name: str = ""
    at_most: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What a row has shown.

    ours, anchor: medians, in the row's unit; None if not measured.   ratio: median of the rounds' ratios; against the
    goal itself where there is no anchor.   low, high: the smallest and largest ratio of a round.   rounds: how many.
    """

    group: str
    name: str
    unit: str
    anchor_name: str
    ours: float | None
    anchor: float | None
    ratio: float | None
    low: float | None
    high: float | None
    goal: float | None
    at_most: bool
    rounds: int

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or a figure."""
        value = self.ours if self.ratio is None else self.ratio
        if self.goal is None or value is None:
            return None
        return value <= self.goal if self.at_most else value >= self.goal


def measure(row: Row, rounds: int, on_round: Callable[[int], None] = lambda _: None) -> Result:
    """Measure a row in so many rounds, ours and the anchor in turn, after one round that does not count."""
    ours, anchors = [], []
    for turn in range(-1, rounds):
        pair = [row.ours, row.anchor] if turn % 2 else [row.anchor, row.ours]  # neither always comes second
        rates = {id(rate): rate() for rate in pair if rate is not None}
        if turn >= 0:
            ours.append(rates[id(row.ours)])
            if row.anchor is not None:
                anchors.append(rates[id(row.anchor)])
        on_round(turn + 1)
    ratios = [a / b for a, b in zip(ours, anchors, strict=False)]
    return Result(
        row.group,
        row.name,
        row.unit,
        row.anchor_name,
        statistics.median(ours),
        statistics.median(anchors) if anchors else None,
        statistics.median(ratios) if ratios else None,
        min(ratios, default=None),
        max(ratios, default=None),
        row.goal,
        row.at_most,
        rounds,
    )
