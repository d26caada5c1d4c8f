"""Ratios, medians and goals of the benchmark, on clocks that are lists."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from wesper.bench.machine import Load, between, describe
from wesper.bench.measure import Result, Row, measure
from wesper.bench.report import SCHEMA, Report, short


def _row(ours: list[float], anchor: list[float] | None, goal: float | None, at_most: bool = False) -> Row:
    # The first value of each is the round that does not count.
    fast, slow = itertools.cycle(ours), itertools.cycle(anchor or [1.0])
    return Row("g", "n", "packets/s", lambda: next(fast), goal, (lambda: next(slow)) if anchor else None, "a", at_most)


def test_ratio_is_the_median_of_the_rounds_ratios_and_the_first_round_is_left_out() -> None:
    result = measure(_row([99, 10, 20, 30], [1, 10, 10, 10], 2.0), 3)
    assert (result.ours, result.anchor, result.ratio) == (20, 10, 2.0)
    assert (result.low, result.high, result.rounds) == (1.0, 3.0, 3)
    assert result.met is True


def test_ours_and_the_anchor_take_turns() -> None:
    order: list[str] = []

    def note(who: str) -> float:
        order.append(who)
        return 1.0

    measure(Row("g", "n", "x", lambda: note("ours"), None, lambda: note("anchor"), "a"), 3)
    assert [set(order[i : i + 2]) for i in range(0, 8, 2)] == [{"ours", "anchor"}] * 4
    assert order[2] != order[4]  # who comes first changes from round to round


@pytest.mark.parametrize(
    ("ours", "goal", "at_most", "met"),
    [
        (5.0, 4.0, False, True),
        (3.0, 4.0, False, False),
        (3.0, 4.0, True, True),
        (5.0, 4.0, True, False),
        (5.0, None, False, None),
    ],
)
def test_a_row_without_an_anchor_is_held_against_its_goal(
    ours: float, goal: float | None, at_most: bool, met: bool | None
) -> None:
    assert measure(_row([ours], None, goal, at_most), 5).met is met


def test_a_missed_goal_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    result = Result("g", "n", "packets/s", "a", 5e5, 1e6, 0.5, 0.4, 0.6, 0.9, False, 5)
    report = Report((result,), describe({}), between(Load.now(), Load.now()), (("ipsec-mb", "install it"),), True)
    report.print(Console(width=160))
    shown = capsys.readouterr().out
    assert "not met" in shown
    assert "0.50" in shown
    assert "left out: ipsec-mb: install it" in shown


def test_json_has_a_schema_and_the_history_keeps_older_runs(tmp_path: Path) -> None:
    result = Result("g", "n", "packets/s", "a", 5e5, 1e6, 0.5, 0.4, 0.6, 0.9, False, 5)
    report = Report((result,), describe({}), between(Load.now(), Load.now()), (), False)
    whole = json.loads(json.dumps(report.as_json()))
    assert whole["schema"] == SCHEMA
    assert whole["rows"][0]["met"] is False
    assert {"load_before", "load_after", "steal_percent"} <= set(whole["load"])
    assert whole["machine"]["cpu"]
    page = tmp_path / "performance.md"
    page.write_text("# Performance\n\nWords.\n\n## Runs\n\n### 2020-01-01\n\nold\n")
    report.add_to_history(page)
    text = page.read_text()
    assert text.startswith("# Performance\n\nWords.\n\n## Runs\n\n### 20")
    assert text.index("| 0.50 |") < text.index("### 2020-01-01")


@pytest.mark.parametrize(("value", "text"), [(1234567.0, "1.23 M"), (12.5, "12.5"), (3e9, "3 G"), (900.0, "900")])
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text
