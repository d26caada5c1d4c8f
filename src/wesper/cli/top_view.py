"""A running tunnel at a glance: rates, what was dropped, and the SAs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..tunnel.metrics import NO_LOSS, Numbers
from ..verdict import DropReason

SCHEMA = 1
_BLOCKS = "▁▂▃▄▅▆▇█"
_WAYS = {
    "out": ("device_read", "link_sent"),
    "in": ("link_received", "device_written"),
}
_NO_LOSS = sorted(NO_LOSS, key=lambda reason: reason.name)
_TITLES = {"out": "out, from this host", "in": "in, to this host"}


@dataclass(frozen=True, slots=True)
class Look:
    """The numbers at a moment.   now: seconds of any clock."""

    now: float
    numbers: Numbers


def view(looks: Sequence[Look]) -> RenderableType:
    """Return what to show of the last looks, at least one, the oldest first."""
    last = looks[-1].numbers
    before = looks[-2] if len(looks) > 1 else None
    interface = f"{last.interface}, " if last.interface != last.name else ""
    about = f"  {interface}{last.engine} engine, up {since(last.uptime_seconds)}"
    head = Text.assemble((last.name, "bold"), about)
    return Group(head, Text(), _traffic(looks), Text(), _sas(looks[-1], before), Text(), _drops(looks[-1], before))


def as_json(looks: Sequence[Look]) -> dict[str, Any]:
    """Return the last look with stable names, and how fast what it counts has grown since the one before."""
    last, two = looks[-1].numbers, [*looks][-2:]
    seconds = looks[-1].now - looks[-2].now if len(looks) > 1 else None
    return {
        "schema": SCHEMA,
        "name": last.name,
        "interface": last.interface,
        "engine": last.engine,
        "uptime_seconds": last.uptime_seconds,
        "seconds": seconds,
        "rates": {key: rates(two, key)[0] for key in last.counts} if seconds else {},
        "loop_counts": dict(last.counts),
        "drops": dict(last.drops),
        "sas": [asdict(sa) for sa in last.sas],
    }


def rates(looks: Sequence[Look], key: str) -> list[float]:
    """Return how fast a count of the loop grew between each two looks, per second."""
    found = []
    for one, other in itertools.pairwise(looks):
        seconds = other.now - one.now
        grown = other.numbers.counts.get(key, 0) - one.numbers.counts.get(key, 0)
        found.append(max(grown, 0) / seconds if seconds > 0 else 0.0)
    return found


def sparkline(values: Sequence[float]) -> str:
    """Return values as blocks from nothing to the largest."""
    most = max(values, default=0.0)
    if not most:
        return _BLOCKS[0] * len(values)
    return "".join(_BLOCKS[min(int(value / most * len(_BLOCKS)), len(_BLOCKS) - 1)] for value in values)


def scaled(value: float, unit: str) -> str:
    """Return a number with the prefix that keeps it below 1000, three digits that count."""
    prefixes = ["", "k", "M", "G", "T"]
    while abs(value) >= 999.5 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    return f"{value:.3g} {prefixes[0]}{unit}"


def since(seconds: float) -> str:
    """Return a span of time as a person says it."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _table(*columns: str) -> Table:
    """Return a table without frame.   columns: titles, > behind one puts it to the right; the last gives way first."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in columns:
        side: Literal["left", "right"] = "right" if title.endswith(">") else "left"
        table.add_column(title.removesuffix(">"), justify=side, no_wrap=True, ratio=1 if title == columns[-1] else None)
    return table


def _traffic(looks: Sequence[Look]) -> Table:
    table = _table("", "inner>", "outer>", "packets>", "total>", "lately")
    last = looks[-1].numbers
    for way, (first, second) in _WAYS.items():
        inner, outer = (first, second) if way == "out" else (second, first)
        bits = [8 * rate for rate in rates(looks, f"{inner}_octets")]
        outer_bits = rates(looks, f"{outer}_octets")
        packets = rates(looks, f"{inner}_packets")
        table.add_row(
            _TITLES[way],
            scaled(bits[-1] if bits else 0.0, "bit/s"),
            scaled(8 * outer_bits[-1] if outer_bits else 0.0, "bit/s"),
            scaled(packets[-1] if packets else 0.0, "/s"),
            scaled(last.counts.get(f"{inner}_octets", 0), "B"),
            sparkline(bits),
        )
    return table


def _sas(look: Look, before: Look | None) -> Table:
    table = _table("tunnel", "", "SPI", "per s>", "packets>", "number>", "replays>", "bad ICVs>", "suite")
    known = {} if before is None else {(sa.direction, sa.spi): sa for sa in before.numbers.sas}
    for sa in look.numbers.sas:
        earlier = known.get((sa.direction, sa.spi))
        rate = 0.0
        if earlier is not None and before is not None and look.now > before.now:
            rate = max(sa.state.packets - earlier.state.packets, 0) / (look.now - before.now)
        table.add_row(
            sa.tunnel,
            "out ←" if sa.sending else sa.direction,
            f"{sa.spi:#010x}",
            scaled(rate, "").rstrip(),
            f"{sa.state.packets:,}",
            f"{sa.state.sequence:,}",
            Text(f"{sa.state.replay:,}", "red" if sa.state.replay else "dim"),
            Text(f"{sa.state.integrity_failed:,}", "red" if sa.state.integrity_failed else "dim"),
            sa.suite,
        )
    return table


def _drops(look: Look, before: Look | None) -> RenderableType:
    table = _table("dropped", "packets>", "/s>", "why")
    rows: dict[str, tuple[int, str]] = {}
    for reason in DropReason:
        count = look.numbers.drops.get(reason.name, 0)
        if count and reason not in NO_LOSS:
            rows[reason.name] = count, reason.sentence
    earlier: Mapping[str, int] = {} if before is None else before.numbers.drops
    seconds = 0.0 if before is None else look.now - before.now
    for name, (count, sentence) in sorted(rows.items(), key=lambda row: -row[1][0]):
        rate = max(count - earlier.get(name, 0), 0) / seconds if seconds > 0 else 0.0
        table.add_row(Text(name.lower(), "red"), f"{count:,}", scaled(rate, "").rstrip(), sentence)
    ended = [f"{each.name.lower()} {n:,}" for each in _NO_LOSS if (n := look.numbers.drops.get(each.name, 0))]
    dropped = table if rows else Text("nothing was dropped", "dim")
    return Group(dropped, Text(), Text(f"no loss: {', '.join(ended)}", "dim")) if ended else dropped
