"""`wesper bench`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from ..bench.machine import Load, between, describe
from ..bench.measure import measure
from ..bench.report import Report
from ..bench.rows import rows, versions


def bench(
    *,
    quick: bool = False,
    only: str = "",
    rounds: int = 0,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    json: bool = False,
    history: Path | None = None,
) -> int:
    """Measure both engines, each figure beside its anchor.

    Every row times wesper and its anchor in turn, in this process, and shows the median of the rounds' ratios. The
    machine's load and the time that its host stole are recorded. Goals that are not met are marked; they do not
    change the exit code, because a shared machine is not a judge.

    Parameters
    ----------
    quick
        Be done in about a minute: shorter rounds, and one million SAs instead of ten.
    only
        Measure only rows whose group or name contains this.
    rounds
        Rounds a row, at least 5; by default 15, quick 7.
    output
        Write all numbers as JSON to this file, - for standard output.
    json
        Print JSON instead of the table.
    history
        Add the run to this Markdown page (docs/performance.md).
    """
    turns = max(rounds, 5) if rounds else 7 if quick else 15
    progress, console = Console(stderr=True), Console()
    before = Load.now()
    todo, skipped = rows(quick=quick)
    todo = [row for row in todo if only.lower() in f"{row.group} {row.name}".lower()]
    results = []
    with progress.status("measuring") as status:
        for place, row in enumerate(todo, 1):
            title = f"{place}/{len(todo)} {row.group}: {row.name}"
            results.append(measure(row, turns, lambda turn, title=title: status.update(f"{title} ({turn}/{turns})")))  # type: ignore[misc]
    report = Report(tuple(results), describe(versions()), between(before, Load.now()), tuple(skipped), quick)
    text = json_module.dumps(report.as_json(), indent=1)
    if json or (output is not None and str(output) == "-"):
        print(text)
    else:
        report.print(console)
    if output is not None and str(output) != "-":
        output.write_text(text + "\n")
    if history is not None:
        report.add_to_history(history)
    return 0
