"""`wesper vectors run`: hold the engines to vector files."""

from __future__ import annotations

import json as json_format
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..engine import ENGINES, native_is_built, open_engine
from ..vectors import run_file
from ..vectors.report import json_object, lines, totals
from . import CHECK_FAILED, IO_TROUBLE

EngineChoice = Literal["reference", "native", "both"]


def run(
    files: list[Path],
    /,
    *,
    engine: EngineChoice | None = None,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    verbose: Annotated[bool, Parameter(name=("--verbose", "-v"), negative=(), show_default=False)] = False,
) -> int:
    """Run every case of vector files on the engines, and compare octet for octet.

    The kind of a file is told by its content. Failed cases are printed with what was expected and what came; the last
    line is `N passed, M failed`. Exit codes: 0 all passed, 1 a case failed or there was none, 2 wrong use, 3 the
    engine asked for is not built, 4 a file can't be read.

    Parameters
    ----------
    files
        Vector files in JSON, such as vectors/esp.json.
    engine
        Which engine to test. By default both, or the reference alone where the native one is not built.
    json
        Print one JSON object, with a record for each case, instead of text.
    verbose
        Show whole packets, not only what stands around a difference, and the keys of failed cases.
    """
    names = ENGINES if engine == "both" else (engine,) if engine else _built()
    engines = {name: partial(open_engine, name) for name in names}
    for factory in engines.values():
        factory()  # an engine that is not built is told before any work
    reports = []
    for path in files:
        report = run_file(path, engines)
        reports.append(report)
        if report.trouble:
            print(f"wesper: {path}: {report.trouble}", file=sys.stderr)
        elif not report.records:
            print(f"wesper: {path}: no case was found", file=sys.stderr)
        if not json:
            for line in lines(report, verbose=verbose):
                print(line)
    if json:
        print(json_format.dumps(json_object(reports, verbose=verbose), indent=2))
        print(totals(reports), file=sys.stderr)
    else:
        print(totals(reports))
    if any(report.trouble for report in reports):
        return IO_TROUBLE
    return CHECK_FAILED if any(report.failed or not report.records for report in reports) else 0


def _built() -> tuple[str, ...]:
    if native_is_built():
        return ENGINES
    print("wesper: the native engine is not built, so only the reference engine is tested", file=sys.stderr)
    return ("reference",)
