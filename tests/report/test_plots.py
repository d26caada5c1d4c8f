from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.report import Bar, Part, Series, Stack, bars, chain, lines, stacks
from wesper.report.plots import WIDTH, number, ticks

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>&\"'"


def drawn(text: str) -> ET.Element:
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root.get("aria-label")
    return root


def widths(root: ET.Element) -> list[float]:
    """Return how wide each bar is: from its path, to the far end of the curve."""
    found = []
    for path in root.iter(f"{SVG}path"):
        straight, radius = re.match(r"M[\d.]+ [\d.]+h([\d.]+)(?:q([\d.]+))?", path.get("d", "")).groups()  # type: ignore[union-attr]
        found.append(float(straight) + float(radius or 0))
    return found


def test_bars_are_as_long_as_their_values() -> None:
    root = drawn(bars([Bar("a", 100, "100", "esp"), Bar("b", 50, "50", "bad", "why"), Bar("c", 0, "none", "bad")]))
    long, short = widths(root)
    assert short == pytest.approx(long / 2, abs=0.2)
    assert [each.text for each in root.iter(f"{SVG}title")] == ["a: 100", "b: 50"]
    assert "none" in [each.text for each in root.iter(f"{SVG}text")]


def test_bars_keep_to_a_scale_that_is_given() -> None:
    (alone,) = widths(drawn(bars([Bar("a", 1, "1", "esp")], most=2)))
    (full,) = widths(drawn(bars([Bar("a", 2, "1", "esp")], most=2)))
    assert alone == pytest.approx(full / 2, abs=0.2)


def test_parts_lie_end_to_end_on_one_scale() -> None:
    rows = [
        Stack("small", [Part("inside", 60, "esp"), Part("outside", 40, "quiet")], "+67%"),
        Stack("large", [Part("inside", 160, "esp"), Part("outside", 40, "quiet")], "+25%"),
    ]
    root = drawn(stacks(rows))
    inside, outside, wide, outside_again = widths(root)
    assert outside == pytest.approx(outside_again, abs=0.2)
    # The gap between the parts is taken from the first.
    assert (inside + 2) / outside == pytest.approx(60 / 40, rel=0.02)
    assert (wide + 2) / outside == pytest.approx(160 / 40, rel=0.02)
    legend = [each.text for each in root.iter(f"{SVG}text")][:2]
    assert legend == ["inside", "outside"]


def test_lines_go_where_the_points_are() -> None:
    text = lines([Series("rise", [(0, 0), (1, 5), (2, 10)], "esp")], x_title="s", y_title="Gbit/s")
    root = drawn(text)
    (path,) = root.iter(f"{SVG}path")
    x, y = zip(*[map(float, point.split()) for point in re.split("[ML]", path.get("d", ""))[1:]], strict=True)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.11)
    assert y[0] > y[2], "up is more"
    assert max(x) < WIDTH
    assert "rise: 5 at 1" in [each.text for each in root.iter(f"{SVG}title")]


def test_a_stepped_line_holds_its_value() -> None:
    root = drawn(lines([Series("steps", [(0, 1), (1, 2)], "esp", stepped=True)], x_title="", y_title=""))
    (path,) = root.iter(f"{SVG}path")
    points = [tuple(map(float, point.split())) for point in re.split("[ML]", path.get("d", ""))[1:]]
    assert len(points) == 3
    assert points[1] == (points[2][0], points[0][1])


def test_names_of_lines_that_end_together_stand_apart() -> None:
    series = [Series(name, [(0, 1), (1, 1)], "esp") for name in "abc"]
    root = drawn(lines(series, x_title="", y_title=""))
    heights = sorted(float(e.get("y", "0")) for e in root.iter(f"{SVG}text") if "name" in e.get("class", ""))
    assert all(below - above >= 14 for above, below in itertools.pairwise(heights))


def test_a_chain_names_its_nodes_and_joints() -> None:
    root = drawn(chain(("a", ""), ("r", "watches"), ("b", ""), joint="ESP"))
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert [text for text in texts if text] == ["a", "r", "watches", "b", "ESP", "ESP"]
    middles = [float(each.get("x", "0")) for each in root.iter(f"{SVG}rect")]
    assert middles[1] - middles[0] == pytest.approx(middles[2] - middles[1])


def test_nothing_to_draw_is_no_fault() -> None:
    assert bars([]) == stacks([]) == ""
    drawn(lines([], x_title="x", y_title="y"))
    drawn(lines([Series("empty", [], "esp")], x_title="x", y_title="y"))
    drawn(lines([Series("zero", [(0, 0)], "esp")], x_title="x", y_title="y"))
    drawn(bars([Bar("zero", 0, "0", "esp")]))


def test_names_from_outside_stay_text() -> None:
    for text in (
        bars([Bar(HOSTILE, 1, HOSTILE, "esp", HOSTILE)]),
        stacks([Stack(HOSTILE, [Part(HOSTILE, 1, "esp")], HOSTILE)]),
        chain((HOSTILE, HOSTILE), (HOSTILE, ""), joint=HOSTILE),
        lines([Series(HOSTILE, [(0, 1)], "esp")], x_title=HOSTILE, y_title=HOSTILE),
    ):
        drawn(text)
        assert "<script" not in text


@given(st.floats(1e-9, 1e15), st.integers(2, 10))
def test_ticks_are_few_round_and_reach_the_end(most: float, about: int) -> None:
    found = ticks(most, about)
    assert found[0] == 0
    assert found[-1] >= most * 0.9999
    assert found[-2] < most
    assert 2 <= len(found) <= about + 2
    step = f"{found[1]:e}".partition("e")[0].rstrip("0").rstrip(".")
    assert step in ("1", "2", "2.5", "5")


@pytest.mark.parametrize("most", [0.0, -1.0, float("nan"), float("inf")])
def test_ticks_of_nothing(most: float) -> None:
    assert ticks(most) == ticks(1.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (4.8312, "4.83"),
        (26110, "26,110"),
        (0.000312, "0.000312"),
        (12.0, "12"),
        (1500000.4, "1,500,000"),
        (0.1, "0.1"),
    ],
)
def test_numbers_as_a_person_writes_them(value: float, text: str) -> None:
    assert number(value) == text


def test_decades_are_as_wide_as_each_other() -> None:
    points = [(1, 1), (1000, 2), (1_000_000, 3)]
    root = drawn(lines([Series("a", points, "psp", dashed=True)], x_title="", y_title="", decades=True))
    (path,) = root.iter(f"{SVG}path")
    assert path.get("class") == "line psp dashed"
    x = [float(point.split()[0]) for point in re.split("[ML]", path.get("d", ""))[1:]]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)
    told = [each.text for each in root.iter(f"{SVG}text") if each.get("text-anchor") == "middle"]
    assert told == ["1", "10", "100", "1 k", "10 k", "100 k", "1 M", None]


@pytest.mark.parametrize("points", [[], [(1, 5)], [(0.5, 1)], [(1, 0), (1, 0)]])
def test_decades_of_few_points_stay_on_the_plot(points: list[tuple[float, float]]) -> None:
    root = drawn(lines([Series("a", points, "esp")], x_title="", y_title="", decades=True))
    for circle in root.iter(f"{SVG}circle"):
        assert 0 < float(circle.get("cx", "")) < WIDTH
