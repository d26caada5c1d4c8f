"""The report of the demonstration: what happened, at a glance and then in full."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from ..bench.connections import COUNTS, plots
from ..report import Bar, Page, Part, Series, Stack, Table, Tile, bars, chain, lines, stacks
from ..report.plots import Role
from .findings import Findings, Passage, kinds
from .opened import Growth

_SHOWN_SIZES = 4
_USUAL = 0.9
_DUMP_OCTETS = 112
_ROLES: Final[dict[str, Role]] = {"in the clear": "plain", "in the tunnel": "esp", "in the PSP tunnel": "psp"}


def page(found: Findings, message: tuple[bytes, ...], marker: bytes) -> Page:
    """Return the report.   message: a packet with the marker as the router saw it, in the clear, as ESP and as PSP."""
    checks = found.checks()
    wrong = [check.claim for check in checks if not check.holds]
    if wrong:
        title = f"{len(wrong)} of {len(checks)} claims do not hold"
    else:
        title = "Everything between the hosts crossed the router as ESP, and nothing else did"
        if found.psp is not None:
            title = "Everything between the hosts crossed the router as ESP, and then as PSP, and nothing else did"
    report = Page(
        title,
        "Two hosts talked past a router that watches: first in the clear, then through a wesper tunnel"
        + (", then through one of PSP" if found.psp is not None else "")
        + ". This is what the router saw, what protection cost, and what became of the packets that the router forged.",
        f"{len(checks) - len(wrong)} of {len(checks)} claims hold",
        "bad" if wrong else "good",
        found.about,
        _tiles(found),
    )
    report.section(
        "The way",
        "Inside the tunnel the hosts have addresses of their own; outside only what protects is seen.",
        chain(
            ("host a", ""),
            ("router", "watches, and forges"),
            ("host b", ""),
            joint="ESP" if found.psp is None else "ESP, PSP",
        ),
        wide=True,
    )
    report.section(
        "Throughput",
        "One TCP stream on each way, one after the other, while nothing was captured.",
        lines(
            [_speed(name, way, _ROLES[name]) for name, way in _ways(found).items()],
            x_title="seconds",
            y_title="Gbit/s",
        ),
    )
    report.section("Latency", *_latency(found))
    report.section(
        "Overhead",
        f"What a packet is made of on the wire, in octets, by the length of the packet inside ({found.suite}"
        + (f"; {found.psp.suite}" if found.psp is not None else "")
        + ").",
        stacks(
            [_stack(each) for each in chosen(found.opened.growth)]
            + ([_stack(each, "PSP, ") for each in chosen(found.psp.opened.growth)] if found.psp is not None else [])
        ),
    )
    for title, about, plot in plots(found.points) if found.points else ():
        most = found.points[-1].connections
        further = (
            f" Measured here, up to {most:,}; wesper bench goes on to {COUNTS[-1]:,}." if most < COUNTS[-1] else ""
        )
        report.section(title, about + further, plot)
    forged = [("", each) for each in found.forged]
    if found.psp is not None:
        forged += [("PSP: ", each) for each in found.psp.forged]
    report.section(
        "Drops by reason",
        "What the router forged without the keys, and what the receiver counted. Each bar should be whole.",
        bars(
            [
                Bar(name + each.reason.verdict, each.dropped, f"{each.dropped} of {each.sent}", "bad", each.how)
                for name, each in forged
            ],
            most=max((max(each.sent, each.dropped) for _, each in forged), default=None),
        ),
    )
    ways = {name: way.seen for name, way in _ways(found).items()}
    report.section(
        "What the router saw",
        "Every frame of all captures, by what its octets say it is; behind it, how many hold the marker.",
        Table(
            ("frame", *(title for name in ways for title in (name, "marker"))),
            [
                (kind, *(f"{count[kind]:,}" for seen in ways.values() for count in (seen.frames, seen.marked)))
                for kind in kinds(*(seen.frames for seen in ways.values()))
            ],
            tuple(range(1, 2 * len(ways) + 1)),
        ),
        wide=len(ways) > 2,
    )
    report.section(
        "Claims",
        "",
        Table(("claim", ""), [(check.claim, "holds" if check.holds else "DOES NOT HOLD") for check in checks], (1,)),
    )
    before, *after = message
    carried = [
        part
        for name, packet in zip(("the tunnel", "the PSP tunnel"), after, strict=False)
        for part in (
            f'<p class="about" style="margin-top:14px">The packet in {name} that carried as much:</p>',
            dump(packet, marker),
        )
    ]
    report.section(
        "A packet with the marker, as the router saw it",
        "In the clear, from its IP header on:",
        dump(before, marker),
        *carried,
        wide=True,
    )
    if found.files:
        report.section("To look further", "", Table(("file or command", "shows"), list(found.files.items())), wide=True)
    return report


def chosen(growth: Sequence[Growth]) -> list[Growth]:
    """Return the lengths that a plot shows: of those that came often the smallest, the largest and some between."""
    if len(growth) <= _SHOWN_SIZES:
        return list(growth)
    last = len(growth) - 1
    return [growth[round(place * last / (_SHOWN_SIZES - 1))] for place in range(_SHOWN_SIZES)]


def dump(packet: bytes, marker: bytes) -> str:
    """Return the first octets of a packet in hexadecimal and as text, as markup; what is of the marker is set off."""
    rows = []
    at = packet.find(marker)
    for start in range(0, min(len(packet), _DUMP_OCTETS), 16):
        row = packet[start : start + 16]
        text = "".join(chr(octet) if 32 <= octet < 127 else "." for octet in row)
        first = max(min(at - start, len(row)), 0) if at >= 0 else len(row)
        shown = escape(text[:first]) + (f"<mark>{escape(text[first:])}</mark>" if first < len(row) else "")
        rows.append(f"{start:04x}  {row.hex(' '):<47}  {shown}")
    more = f"\n      and {len(packet) - _DUMP_OCTETS} octets more" if len(packet) > _DUMP_OCTETS else ""
    return "<pre>" + "\n".join(rows) + more + "</pre>"


def duration(seconds: float | None) -> str:
    """Return a time as text, with three digits that count."""
    if seconds is None:
        return "none"
    return f"{1000 * seconds:.3g} ms" if seconds >= 0.001 else f"{1e6 * seconds:.3g} µs"


def gigabits(bps: float) -> str:
    """Return a rate as text, with three digits that count."""
    return f"{bps / 1e9:.3g} Gbit/s" if bps >= 1e9 else f"{bps / 1e6:.3g} Mbit/s"


def _tiles(found: Findings) -> list[Tile]:
    seen, opened = found.tunnel.seen, found.opened
    frames, foreign = seen.frames.total(), seen.foreign().total()
    ratio = _share(found.tunnel, found.clear)
    return [
        Tile(
            f"{foreign:,}",
            f"of {frames:,} frames of the tunnel were anything but its ESP",
            "bad" if foreign else "good",
        ),
        Tile(
            f"{seen.marked.total():,}",
            f"of them show the marker that {found.clear.seen.marked.total():,} frames in the clear showed",
            "bad" if seen.marked.total() else "good",
        ),
        Tile(
            f"{opened.authentic:,}",
            f"of {seen.esp():,} ESP packets opened with the keys"
            + (f", {opened.dummies:,} of them dummies" if opened.dummies else ""),
            "good" if opened.authentic == seen.esp() else "bad",
        ),
        Tile(gigabits(found.tunnel.speed.bps), f"one TCP stream in the tunnel, {ratio:.2g} × in the clear"),
        *(
            [
                Tile(
                    gigabits(found.psp.tunnel.speed.bps),
                    f"the same in the PSP tunnel, {_share(found.psp.tunnel, found.tunnel):.2g} × in ESP's",
                )
            ]
            if found.psp is not None
            else []
        ),
        Tile(
            duration(found.tunnel.round_trip),
            f"round trip in the tunnel, {duration(found.clear.round_trip)} in the clear",
        ),
    ]


def _share(one: Passage, other: Passage) -> float:
    return one.speed.bps / other.speed.bps if other.speed.bps else 0.0


def _ways(found: Findings) -> dict[str, Passage]:
    ways = {"in the clear": found.clear, "in the tunnel": found.tunnel}
    return ways if found.psp is None else {**ways, "in the PSP tunnel": found.psp.tunnel}


def _speed(name: str, passage: Passage, role: Role) -> Series:
    points = [(at, 80 * octets / 1e9) for at, octets in passage.speed.samples]
    return Series(name, points, role)


def _latency(found: Findings) -> tuple[str, str]:
    """Return a sentence and a plot of how many echoes were back after how long; stragglers are left to the sentence."""
    ways = _ways(found)
    back = {name: sorted(each for each in way.round_trips if each is not None) for name, way in ways.items()}
    usual = max((times[int(len(times) * _USUAL)] for times in back.values() if times), default=0.0) * 1.5
    late = sum(each > usual for times in back.values() for each in times)
    scale, unit = (1e3, "milliseconds") if usual >= 0.001 else (1e6, "microseconds")
    series = []
    for name, times in back.items():
        share = 100 / max(len(ways[name].round_trips), 1)
        points = [(scale * each, share * place) for place, each in enumerate(times, 1) if each <= usual]
        series.append(Series(name, points, _ROLES[name], stepped=True))
    about = f"How many of {len(found.tunnel.round_trips)} echoes on each way were back after so long."
    if late:
        slowest = max(each for times in back.values() for each in times)
        about += f" {late} took longer than the axis goes, the slowest {duration(slowest)}."
    return about, lines(series, x_title=unit, y_title="% of echoes")


def _stack(each: Growth, name: str = "") -> Stack:
    parts = [
        Part("inner packet", each.inner, "esp"),
        Part("outer IP" + " and UDP" * bool(each.udp), each.ip + each.udp, "header"),
        Part("header, IV, padding, ICV", each.esp + each.iv + each.trailer + each.icv, "quiet"),
    ]
    added = each.outer - each.inner
    return Stack(f"{name}{each.inner:,} octets", parts, f"+{added} ({added / each.inner:.0%})")


__all__ = ["chosen", "dump", "gigabits", "duration", "page"]
