"""Plots as inline SVG: lines, bars, and bars made of parts.

Colours are roles (a class of `style.css` each), so that a page's light and dark dress fits all its plots. Each mark has
its value as a tooltip (SVG 1.1 §5.4, `title`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Role = Literal["esp", "psp", "eesp", "plain", "header", "bad", "good", "quiet"]
"""What a mark stands for: what ESP carries, PSP, EESP and its kin, what is in the clear, what protection adds, faults,
successes, others.
"""

WIDTH = 540
"""Of every plot, in units of its own: a page scales it."""
_LETTER = 6.6  # mean width of a letter of the labels, whose size style.css sets
_ROW, _BAR = 36, 14


@dataclass(frozen=True, slots=True)
class Series:
    """A line.

    points: x ascending.   stepped: y holds from one x to the next, as in a distribution.   dashed: it is broken.
    """

    name: str
    points: Sequence[tuple[float, float]]
    role: Role
    stepped: bool = False
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar.   text: what stands at its end.   note: what stands below its label."""

    label: str
    value: float
    text: str
    role: Role
    note: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar."""

    name: str
    value: float
    role: Role


@dataclass(frozen=True, slots=True)
class Stack:
    """A bar made of parts.   text: what stands at its end."""

    label: str
    parts: Sequence[Part]
    text: str


def lines(series: Sequence[Series], *, x_title: str, y_title: str, height: int = 240, decades: bool = False) -> str:
    """Return lines over an x axis, both axes from zero, each line named at its end.

    x_title, y_title: with units.   decades: the x axis goes from 1 by powers of ten; no x is below 1.
    """
    left, right, top, bottom = 46, 92, 26, 40
    points = [point for each in series for point in each.points]
    furthest = max(max((x for x, _ in points), default=1.0), 1.0 if decades else 0.0) or 1.0
    x_ticks = [10.0**power for power in range(math.ceil(math.log10(furthest)) + 1)] if decades else ticks(furthest)
    y_ticks = ticks(max((y for _, y in points), default=1.0), 4)
    x_most, y_most = max(x_ticks[-1], 10.0) if decades else furthest, y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        along = math.log10(max(x, 1.0)) / math.log10(x_most) if decades else x / x_most
        return (
            left + along * (WIDTH - left - right),
            height - bottom - y / y_most * (height - top - bottom),
        )

    drawn = [f'<text class="axis" x="{left - 8}" y="14">{escape(y_title)}</text>']
    for tick in y_ticks:
        _, y = place(0, tick)
        drawn.append(f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text class="tick" text-anchor="end" x="{left - 8}" y="{y + 4:.1f}">{number(tick)}</text>')
    for tick in x_ticks:
        if tick <= x_most:
            x, _ = place(tick, 0)
            told = with_prefix(tick) if decades else number(tick)
            drawn.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{height - 22}">{told}</text>')
    middle = (left + WIDTH - right) / 2
    drawn.append(f'<text class="axis" text-anchor="middle" x="{middle}" y="{height - 5}">{escape(x_title)}</text>')
    names = []
    for each in series:
        if not each.points:
            continue
        path = _path([place(x, y) for x, y in each.points], each.stepped)
        kind = f"line {each.role}" + " dashed" * each.dashed
        drawn.append(f'<path class="{kind}" d="{path}"><title>{escape(each.name)}</title></path>')
        for x, y in each.points if len(each.points) <= 60 else ():
            cx, cy = place(x, y)
            told = f"{escape(each.name)}: {number(y)} at {number(x)}"
            drawn.append(
                f'<circle class="point {each.role}" cx="{cx:.1f}" cy="{cy:.1f}" r="7"><title>{told}</title></circle>'
            )
        names.append((place(*each.points[-1]), each))
    drawn += _line_names(names, WIDTH - right, top, height - bottom)
    return _svg(height, drawn, f"{y_title} over {x_title}: " + ", ".join(each.name for each in series))


def bars(rows: Sequence[Bar], *, most: float | None = None) -> str:
    """Return horizontal bars on one scale from zero, labels before and texts behind them.   most: the scale's end."""
    if not rows:
        return ""
    left = _room([word for row in rows for word in (row.label, row.note)])
    right = _room([row.text for row in rows])
    scale = most or max(row.value for row in rows) or 1.0
    drawn: list[str] = []
    for place, row in enumerate(rows):
        y = place * _ROW + 6
        width = max(row.value / scale * (WIDTH - left - right), 0)
        drawn += _label(row.label, row.note, left, y)
        told = f"<title>{escape(row.label)}: {escape(row.text)}</title>"
        if width:
            drawn.append(f'<path class="bar {row.role}" d="{_rounded(left, y + 4, max(width, 2))}">{told}</path>')
        drawn.append(f'<text class="value" x="{left + width + 8:.1f}" y="{y + 16}">{escape(row.text)}</text>')
    drawn.append(f'<line class="base" x1="{left}" x2="{left}" y1="4" y2="{len(rows) * _ROW + 2}"/>')
    return _svg(len(rows) * _ROW + 6, drawn, ", ".join(f"{row.label}: {row.text}" for row in rows))


def stacks(rows: Sequence[Stack]) -> str:
    """Return horizontal bars whose parts lie end to end, on one scale, with a legend of the parts' names."""
    if not rows:
        return ""
    left, right = _room([row.label for row in rows]), _room([row.text for row in rows])
    scale = max(sum(part.value for part in row.parts) for row in rows) or 1.0
    names = list(dict.fromkeys((part.name, part.role) for row in rows for part in row.parts))
    drawn, x = [], float(left)
    for name, role in names:
        drawn.append(f'<rect class="bar {role}" x="{x:.1f}" y="4" width="10" height="10" rx="2"/>')
        drawn.append(f'<text class="tick" x="{x + 15:.1f}" y="13">{escape(name)}</text>')
        x += 30 + len(name) * _LETTER
    for place, row in enumerate(rows):
        y, x = place * _ROW + 26, float(left)
        drawn += _label(row.label, "", left, y)
        for number_of_part, part in enumerate(row.parts):
            width = part.value / scale * (WIDTH - left - right)
            last = number_of_part == len(row.parts) - 1
            # A gap of the ground's colour keeps neighbours apart where colours can't be told
            seen = max(width - (0 if last else 2), 0)
            told = f"<title>{escape(row.label)}: {escape(part.name)} {number(part.value)}</title>"
            shape = _rounded(x, y + 4, seen) if last else f"M{x:.1f} {y + 4}h{seen:.1f}v{_BAR}h{-seen:.1f}z"
            drawn.append(f'<path class="bar {part.role}" d="{shape}">{told}</path>')
            x += width
        drawn.append(f'<text class="value" x="{x + 8:.1f}" y="{y + 16}">{escape(row.text)}</text>')
    told = "; ".join(
        f"{row.label}: " + ", ".join(f"{part.name} {number(part.value)}" for part in row.parts) for row in rows
    )
    return _svg(len(rows) * _ROW + 26, drawn, told)


def chain(*nodes: tuple[str, str], joint: str) -> str:
    """Return boxes in a row, joined by a tube with a name.   nodes: name, and what stands below the box."""
    wide, high = 110, 44
    step = (WIDTH - 20 - wide) / max(len(nodes) - 1, 1)
    places = [10 + step * place for place in range(len(nodes))]
    ends = (places[0] + wide + 8, places[-1] - 8)
    drawn = [f'<line class="{kind}" x1="{ends[0]}" x2="{ends[1]}" y1="36" y2="36"/>' for kind in ("tube", "wire")]
    for x, (name, note) in zip(places, nodes, strict=True):
        middle = x + wide / 2
        drawn.append(f'<rect class="node" x="{x}" y="14" width="{wide}" height="{high}" rx="8"/>')
        drawn.append(f'<text class="big" text-anchor="middle" x="{middle}" y="41">{escape(name)}</text>')
        drawn.append(f'<text class="tick" text-anchor="middle" x="{middle}" y="78">{escape(note)}</text>')
    for x in places[1:]:
        drawn.append(
            f'<text class="name esp" text-anchor="middle" x="{x - (step - wide) / 2:.1f}" y="24">{escape(joint)}</text>'
        )
    return _svg(88, drawn, f"{', '.join(name for name, _ in nodes)} in a row, joined by {joint}")


def ticks(most: float, about: int = 5) -> list[float]:
    """Return round numbers from 0 to the first at or above most, about so many.   most: above 0, else 1 is taken."""
    if not most > 0 or math.isinf(most):
        most = 1.0
    rough = most / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [place * step for place in range(math.ceil(most / step * 0.999999) + 1)]


def number(value: float) -> str:
    """Return a number as a person writes it: three digits that count, no exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def with_prefix(value: float) -> str:
    """Return a round number with a prefix that keeps it short: 10 k, 1 M."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return number(value / factor) + prefix
    return number(value)


def _line_names(names: list[tuple[tuple[float, float], Series]], x: float, top: float, bottom: float) -> Iterator[str]:
    """Yield a name at the end of each line, moved apart where lines end close together."""
    y = top - 16.0
    for (_, end), each in sorted(names, key=lambda name: name[0][1]):
        y = max(end + 4, y + 16)
        yield f'<text class="name {each.role}" x="{x + 8}" y="{min(y, bottom + 4):.1f}">{escape(each.name)}</text>'


def _path(points: Sequence[tuple[float, float]], stepped: bool) -> str:
    drawn = "M{:.1f} {:.1f}".format(*points[0])
    for (_, before), (x, y) in itertools.pairwise(points):
        drawn += f"L{x:.1f} {before:.1f}" * stepped + f"L{x:.1f} {y:.1f}"
    return drawn


def _rounded(x: float, y: float, width: float) -> str:
    """Return a bar whose far end is round and whose near end is not, since it stands on the axis."""
    radius = min(4.0, width)
    straight = width - radius
    return (
        f"M{x:.1f} {y}h{straight:.1f}q{radius:.1f} 0 {radius:.1f} {radius:.1f}v{_BAR - 2 * radius:.1f}"
        f"q0 {radius:.1f} {-radius:.1f} {radius:.1f}h{-straight:.1f}z"
    )


def _label(label: str, note: str, left: float, y: float) -> Iterator[str]:
    up = 7 if note else 0
    yield f'<text class="label" text-anchor="end" x="{left - 10}" y="{y + 16 - up}">{escape(label)}</text>'
    if note:
        yield f'<text class="note" text-anchor="end" x="{left - 10}" y="{y + 23}">{escape(note)}</text>'


def _room(texts: Sequence[str]) -> float:
    return min(max((len(text) for text in texts), default=0) * _LETTER + 20, WIDTH * 0.45)


def _svg(height: float, drawn: Sequence[str], told: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(told)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(drawn)}</svg>'
    )
