"""A run of the benchmark as JSON, as a table, and as an entry of the history page."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ..report import Page, Table
from .connections import Point, plots
from .measure import Result

SCHEMA = 1
_HEADING = "## Runs"


@dataclass(frozen=True, slots=True)
class Report:
    """One run.

    machine: what it was measured on.   load: what else went on.   skipped: rows left out, with the reason.
    notes: what has to be known to judge the ratios.   points: of the plots over the number of connections.
    """

    results: tuple[Result, ...]
    machine: dict[str, str]
    load: dict[str, float]
    skipped: tuple[tuple[str, str], ...]
    quick: bool
    notes: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the run with all its numbers."""
        return {
            "schema": SCHEMA,
            "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "quick": self.quick,
            "machine": self.machine,
            "load": self.load,
            "rows": [{**asdict(result), "met": result.met} for result in self.results],
            "skipped": [{"row": row, "reason": reason} for row, reason in self.skipped],
            "notes": list(self.notes),
            "connections": [point.as_json() for point in self.points],
        }

    def print(self, console: Console) -> None:
        """Print the table."""
        for group, results in self._groups().items():
            table = Grid(box=None, pad_edge=False, show_edge=False)
            table.add_column(group, min_width=28, no_wrap=True)
            for column in ("wesper", "anchor", "ratio", "spread", "goal"):
                table.add_column(column, justify="right", no_wrap=True)
            for result in results:
                style = {True: "green", False: "red", None: ""}[result.met]
                *cells, goal, met = _cells(result)
                table.add_row(*cells, Text(f"{goal} {met}".strip(), style))
            console.print(table)
            console.print()
        for note in self.notes:
            console.print(note)
        for row, reason in self.skipped:
            console.print(f"left out: {row}: {reason}", style="yellow")
        rounds = " or ".join(dict.fromkeys(str(result.rounds) for result in self.results)) or "no"
        console.print(f"{self.machine['cpu']}, {self.machine['cores']} cores, Linux {self.machine['kernel']}")
        console.print(
            f"load {self.load['load_before']} to {self.load['load_after']}, {self.load['steal_percent']} % stolen, "
            f"{self.load['seconds']} s; medians of {rounds} rounds, anchors measured in turn"
        )

    def as_page(self) -> Page:
        """Return the run as a page: the plots over the number of connections, then a table for each group of rows."""
        judged = [result for result in self.results if result.met is not None]
        page = Page(
            "Benchmark of wesper",
            "Each figure beside its anchor, both measured in turn. What counts is the ratio.",
            f"{sum(result.met is True for result in judged)} of {len(judged)} goals met",
            footer="; ".join(f"{key}: {value}" for key, value in {**self.machine, **self.load}.items()),
        )
        for title, about, plot in plots(self.points) if self.points else ():
            page.section(title, about, plot)
        for group, results in self._groups().items():
            rows = [_cells(result) for result in results]
            page.section(
                group, "", Table(("", "wesper", "anchor", "ratio", "spread", "goal", ""), rows, (1, 2, 3, 4)), wide=True
            )
        for note in self.notes:
            page.section("To judge them", note)
        if self.skipped:
            page.section("Left out", "", Table(("row", "reason"), self.skipped), wide=True)
        return page

    def _groups(self) -> dict[str, list[Result]]:
        groups: dict[str, list[Result]] = {}
        for result in self.results:
            groups.setdefault(result.group, []).append(result)
        return groups

    def as_markdown(self) -> str:
        """Return an entry for the history page."""
        lines = [f"### {time.strftime('%Y-%m-%d', time.gmtime())}{', quick' if self.quick else ''}", ""]
        lines += [f"{key}: {value}  " for key, value in self.machine.items()]
        lines += [f"{key.replace('_', ' ')}: {value}  " for key, value in self.load.items()]
        lines += ["", "| what | wesper | anchor | ratio | spread | goal | |", "|---|---|---|---|---|---|---|"]
        lines += [
            f"| {result.group}: {cells[0]} | {' | '.join(cells[1:])} |"
            for result in self.results
            for cells in [_cells(result)]
        ]
        lines += [f"\nLeft out: {row}: {reason}." for row, reason in self.skipped]
        lines += [f"\n{note}" for note in self.notes]
        return "\n".join([*lines, ""])

    def add_to_history(self, page: Path) -> None:
        """Put this run on top of the page's history.   The rest of the page stays."""
        text = page.read_text() if page.exists() else f"# Performance\n\n{_HEADING}\n"
        before, heading, after = text.partition(_HEADING)
        page.write_text(f"{before}{heading or _HEADING}\n\n{self.as_markdown()}{after}")


def _cells(result: Result) -> list[str]:
    sign = "≤" if result.at_most else "≥"
    if result.goal is None:
        goal = ""
    else:
        goal = f"{sign} {result.goal:.2f}" if result.ratio is not None else f"{sign} {short(result.goal)}"
    return [
        result.name,
        "" if result.ours is None else short(result.ours),
        "" if result.anchor is None else short(result.anchor),
        "" if result.ratio is None else f"{result.ratio:.2f}",
        "" if result.low is None else f"{result.low:.2f}–{result.high:.2f}",
        goal,
        {True: "met", False: "not met", None: ""}[result.met],
    ]


def short(value: float) -> str:
    """Return a number with a prefix that keeps it short."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"
