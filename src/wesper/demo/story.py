"""The report of the demonstration: what happened, at a glance and then in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from ..bench.connections import COUNTS, plots
from ..report import Bar, Page, Part, Stack, Table, Tile, bars, chain, stacks
from ..report.plots import Role
from .findings import Findings, Passage, Protected, kinds
from .opened import Growth

_DUMP_OCTETS = 96
_OFTEN: Final = 0.9
_ROLES: Final[dict[str, Role]] = {"psp": "psp", "esp": "esp"}


def page(found: Findings, messages: Mapping[str, bytes], marker: bytes) -> Page:
    """Return the report.   messages: by way, a packet as the router saw it; that in the clear first."""
    checks = found.checks()
    wrong = [check.claim for check in checks if not check.holds]
    protocols = _listed([each.label for each in found.tunnels])
    if wrong:
        title = f"{len(wrong)} of {len(checks)} claims do not hold"
    else:
        title = f"What went through tunnels crossed the router as {protocols}, and as nothing else"
    report = Page(
        title,
        f"Two hosts talked past a router that watches: first in the clear, then through tunnels of {protocols}. "
        "This is what the router saw, what protection cost, and what became of the packets that the router forged.",
        f"{len(checks) - len(wrong)} of {len(checks)} claims hold",
        "bad" if wrong else "good",
        found.about,
        _tiles(found),
    )
    report.section(
        "The way",
        "Inside a tunnel the hosts have addresses of their own; outside only what protects is seen.",
        chain(
            ("host a", ""),
            ("router", "watches, and forges"),
            ("host b", ""),
            joint="tunnel",
        ),
    )
    counted = any(each.counted is not None for each in found.tunnels)
    report.section(
        "What can be told apart without a key",
        "Of the flows from a in each tunnel, how many look different to the router: by SPI, by UDP source port, by the "
        "flow's name in the header."
        + (" Counted: packets, and in how many flows, by an XDP program that has no key." if counted else ""),
        _told_apart(found.tunnels, counted),
    )
    report.section(
        "Throughput",
        "One TCP stream on each way, one after the other, while nothing was captured.",
        bars([Bar(name, way.speed.bps, gigabits(way.speed.bps), role) for name, way, role in _ways(found)]),
    )
    report.section(
        "Latency",
        f"Of {len(found.clear.round_trips)} echoes on each way: the median round trip, and what nine in ten kept to. "
        "It differs more from run to run than from protocol to protocol.",
        bars(
            [
                Bar(name, way.round_trip or 0, f"{duration(way.round_trip)}, {duration(_usual(way))}", role)
                for name, way, role in _ways(found)
            ]
        ),
    )
    least, most = lengths(found.tunnels)
    report.section(
        "Overhead",
        "What protection adds on the wire, in octets"
        + (f", to a packet of {most:,}; in brackets its share of that, and of one of {least:,}." if most else "."),
        stacks([_stack(each.label, *grown) for each, grown in alike(found.tunnels)]),
    )
    for title, about, plot in plots(found.points) if found.points else ():
        largest = found.points[-1].connections
        further = (
            f" Measured here, up to {largest:,}; wesper bench goes on to {COUNTS[-1]:,}."
            if largest < COUNTS[-1]
            else ""
        )
        report.section(title, about + further, plot)
    forged = [(each.label, what) for each in found.tunnels for what in each.forged]
    report.section(
        "Drops by reason",
        "What the router forged without the keys, and what the receiver counted. Each bar should be whole.",
        bars(
            [
                Bar(f"{label}: {what.reason.verdict}", what.dropped, f"{what.dropped} of {what.sent}", "bad", what.how)
                for label, what in forged
            ],
            most=max((max(what.sent, what.dropped) for _, what in forged), default=None),
        ),
    )
    ways = {name: way.seen for name, way in found.ways().items()}
    report.section(
        "What the router saw",
        "Every frame of all captures, by what its octets say it is; in brackets, how many hold the marker.",
        Table(
            ("frame", *ways),
            [
                (kind, *(_count(seen.frames[kind], seen.marked[kind]) for seen in ways.values()))
                for kind in kinds(*(seen.frames for seen in ways.values()))
            ],
            tuple(range(1, len(ways) + 1)),
        ),
        wide=True,
    )
    named = [each for each in found.tunnels if each.named is not None]
    if named:
        report.section(
            "What tshark names",
            "Fields that tshark shows in every packet, with the dissectors that wesper wireshark install writes.",
            Table(
                ("protocol", "packets", "fields"),
                [(each.label, f"{each.packets:,}", ", ".join(_in_all(each))) for each in named],
                (1,),
            ),
            wide=True,
        )
    report.section(
        "Claims",
        "",
        Table(("claim", ""), [(check.claim, "holds" if check.holds else "DOES NOT HOLD") for check in checks], (1,)),
        wide=True,
    )
    shown = [
        part
        for name, packet in messages.items()
        for part in (f'<p class="about" style="margin-top:14px">{escape(name)}:</p>', dump(packet, marker))
    ]
    report.section(
        "A packet with the marker, as the router saw it",
        "From its IP header on; of each tunnel, the shortest that can have carried it.",
        *shown,
        wide=True,
    )
    if found.files:
        report.section("To look further", "", Table(("file or command", "shows"), list(found.files.items())), wide=True)
    return report


def lengths(tunnels: Sequence[Protected]) -> tuple[int, int]:
    """Return the smallest and the largest length of inner packets that every tunnel carried, 0 and 0 if none."""
    common = set.intersection(*({growth.inner for growth in each.opened.growth} for each in tunnels))
    return (min(common), max(common)) if common else (0, 0)


def alike(tunnels: Sequence[Protected]) -> list[tuple[Protected, tuple[Growth, Growth]]]:
    """Return what became of packets of these lengths in each tunnel; nothing if there are none."""
    found = []
    for each in tunnels:
        grown = {growth.inner: growth for growth in each.opened.growth}
        least, most = lengths(tunnels)
        if most:
            found.append((each, (grown[least], grown[most])))
    return found


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
    frames = sum(each.passage.seen.frames.total() for each in found.tunnels)
    foreign = sum(each.passage.seen.foreign(each.protocol).total() for each in found.tunnels)
    marked = sum(each.passage.seen.marked.total() for each in found.tunnels)
    packets = sum(each.packets for each in found.tunnels)
    authentic = sum(each.opened.authentic for each in found.tunnels)
    dummies = sum(each.opened.dummies for each in found.tunnels)
    forged = [what for each in found.tunnels for what in each.forged]
    sent, dropped = sum(what.sent for what in forged), sum(what.dropped for what in forged)
    first = found.tunnels[0]
    tiles = [
        Tile(
            f"{foreign:,}",
            f"of {frames:,} frames of the tunnels were anything but their protocol's",
            "bad" if foreign else "good",
        ),
        Tile(
            f"{marked:,}",
            f"of them show the marker that {found.clear.seen.marked.total():,} frames in the clear showed",
            "bad" if marked else "good",
        ),
        Tile(
            f"{authentic:,}",
            f"of {packets:,} protected packets opened with the keys"
            + (f", {dummies:,} of them dummies" if dummies else ""),
            "good" if authentic == packets else "bad",
        ),
    ]
    if forged:
        tiles.append(
            Tile(f"{dropped:,}", f"of {sent:,} forged packets dropped by name", "good" if dropped == sent else "bad")
        )
    by_name = next((each for each in found.tunnels if each.names_flows), None)
    if by_name is not None:
        told = by_name.told_apart
        tiles.append(
            Tile(
                f"{told.names} of {told.flows}",
                f"flows told apart without a key by {by_name.label}'s header; {first.told_apart.most} in {first.label}",
            )
        )
    ratio = _share(first.passage, found.clear)
    tiles.append(
        Tile(
            f"{ratio:.2g} ×",
            f"as fast as in the clear: one TCP stream through {first.label}, {gigabits(first.passage.speed.bps)}",
        )
    )
    return tiles


def _told_apart(tunnels: Sequence[Protected], counted: bool) -> Table:
    """Return a table of how many flows each protocol lets a network tell apart, and of what was counted that way."""
    rows = []
    for each in tunnels:
        told = each.told_apart
        names = "no name" if told.names is None else f"{told.names}"
        row = [each.label, f"{told.flows}", f"{told.spis}", f"{told.ports}", names]
        if counted:
            row.append("not" if each.counted is None else f"{sum(each.counted.values()):,} in {len(each.counted)}")
        rows.append(row)
    columns = ("", "flows", "by SPI", "by port", "by name", *(["counted"] if counted else []))
    return Table(columns, rows, tuple(range(1, len(columns))))


def _in_all(tunnel: Protected) -> list[str]:
    """Return the fields that tshark showed in all packets of a tunnel."""
    return [name for name, count in (tunnel.named or {}).items() if count == tunnel.packets]


def _count(frames: int, marked: int) -> str:
    if not frames:
        return ""
    return f"{frames:,} ({marked:,})" if marked else f"{frames:,}"


def _share(one: Passage, other: Passage) -> float:
    return one.speed.bps / other.speed.bps if other.speed.bps else 0.0


def _ways(found: Findings) -> list[tuple[str, Passage, Role]]:
    """Return every passage with its name and its colour."""
    tunnels = [(each.label, each.passage, _ROLES.get(each.protocol, "eesp")) for each in found.tunnels]
    return [("in the clear", found.clear, "plain"), *tunnels]


def _usual(passage: Passage) -> float | None:
    """Return the round trip that nine in ten echoes did not exceed, in seconds, None if none came back."""
    back = sorted(each for each in passage.round_trips if each is not None)
    return back[int((len(back) - 1) * _OFTEN)] if back else None


def _stack(name: str, small: Growth, large: Growth) -> Stack:
    parts = [
        Part("outer IP" + " and UDP" * bool(large.udp), large.ip + large.udp, "header"),
        Part("header", large.header, "esp"),
        Part("IV", large.iv, "plain"),
        Part("trailer and ICV", large.trailer + large.icv, "quiet"),
    ]
    added, share = large.outer - large.inner, (small.outer - small.inner) / small.inner
    return Stack(name, parts, f"+{added} ({added / large.inner:.1%}; {share:.0%})")


def _listed(names: Sequence[str]) -> str:
    *others, last = names or [""]
    return f"{', '.join(others)} and {last}" if others else last


__all__ = ["alike", "dump", "duration", "gigabits", "lengths", "page"]
