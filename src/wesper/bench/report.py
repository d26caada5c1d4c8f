"""A run of the benchmark as JSON, as a table, and as an entry of the history page."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .measure import Result

SCHEMA = 1
_HEADING = "## Runs"


@dataclass(frozen=True, slots=True)
class Report:
    """One run.

    machine: what it was measured on.   load: what else went on.   skipped: rows left out, with the reason.
    notes: what has to be known to judge the ratios.
    """

    results: tuple[Result, ...]
    machine: dict[str, str]
    load: dict[str, float]
    skipped: tuple[tuple[str, str], ...]
    quick: bool
    notes: tuple[str, ...] = ()

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
        }

    def print(self, console: Console) -> None:
        """Print the table."""
        for group in dict.fromkeys(result.group for result in self.results):
            table = Table(box=None, pad_edge=False, show_edge=False)
            table.add_column(group, min_width=28, no_wrap=True)
            for column in ("wesper", "anchor", "ratio", "spread", "goal"):
                table.add_column(column, justify="right", no_wrap=True)
            for result in self.results:
                if result.group == group:
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
