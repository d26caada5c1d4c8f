"""`wesper bench`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from ..bench import connections
from ..bench.machine import Load, between, describe
from ..bench.measure import measure
from ..bench.report import Report
from ..bench.rows import rows, versions
from ..bench.tunnel import NOTES, chosen, measure_tunnels
from ..engine import native_is_built

_POINT_ROUNDS = 7  # of each number of connections: most of their time goes into making them


def bench(
    *,
    quick: bool = False,
    only: str = "",
    rounds: int = 0,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    json: bool = False,
    history: Path | None = None,
    page: Path | None = None,
) -> int:
    """Measure both engines, each figure beside its anchor.

    Every row times wesper and its anchor in turn and shows the median of the rounds' ratios. Rows of tunnels take
    Debian's wireguard-go, strongSwan and OpenVPN for anchors, as far as they are installed, and a plain link. The
    machine's load and the time that its host stole are recorded. Goals that are not met are marked; they do not
    change the exit code, because a shared machine is not a judge.

    Parameters
    ----------
    quick
        Be done in about a minute: shorter and fewer rounds, and one million SAs instead of ten.
    only
        Measure only rows whose group or name contains this.
    rounds
        Rounds a row, at least 5; by default 15, quick 7; of tunnels 7, quick 5.
    output
        Write all numbers as JSON to this file, - for standard output.
    json
        Print JSON instead of the table.
    history
        Add the run to this Markdown page (docs/performance.md).
    page
        Write the run to this HTML file, with plots of memory and packets a second from one connection to ten million,
        PSP beside ESP.
    """
    turns = max(rounds, 5) if rounds else 7 if quick else 15
    tunnel_turns = max(rounds, 5) if rounds else 5 if quick else 7
    progress, console = Console(stderr=True), Console()
    before = Load.now()
    todo, skipped = rows(quick=quick)
    todo = [row for row in todo if only.lower() in f"{row.group} {row.name}".lower()]
    counts = connections.chosen(only, quick=quick) if native_is_built() else []
    tunnels = chosen(only)
    results = []
    with progress.status("measuring") as status:
        for place, row in enumerate(todo, 1):
            title = f"{place}/{len(todo)} {row.group}: {row.name}"
            results.append(measure(row, turns, lambda turn, title=title: status.update(f"{title} ({turn}/{turns})")))  # type: ignore[misc]
        points, too_many = connections.measure_connections(counts, min(turns, _POINT_ROUNDS), status.update)
        outcome = measure_tunnels(tunnels, tunnel_turns, quick=quick, on_slice=status.update)
    report = Report(
        (*results, *connections.results(points), *outcome.results),
        describe({**versions(), **outcome.versions}),
        between(before, Load.now()),
        (*skipped, *too_many, *outcome.left_out),
        quick,
        NOTES if outcome.results else (),
        tuple(points),
    )
    text = json_module.dumps(report.as_json(), indent=1)
    if json or (output is not None and str(output) == "-"):
        print(text)
    else:
        report.print(console)
    if output is not None and str(output) != "-":
        output.write_text(text + "\n")
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(report.as_page().html())
    if history is not None:
        report.add_to_history(history)
    return 0
