"""The comparison as a page for a browser: one file, no network."""

from __future__ import annotations

from typing import Final

from .. import __version__
from ..report import Page, Part, Stack, Table, Tile, preformatted, stacks
from ..report.plots import Role
from .comparison import FLOWS, Comparison
from .spans import Kind

_ROLES: Final[dict[Kind, tuple[str, Role]]] = {
    Kind.OUTER: ("IP and UDP", "quiet"),
    Kind.HEADER: ("header", "header"),
    Kind.CLEAR: ("readable payload", "plain"),
    Kind.ENCRYPTED: ("encrypted", "esp"),
    Kind.ICV: ("ICV", "good"),
}


def page(comparison: Comparison) -> str:
    """Return the HTML."""
    rows = comparison.rows
    least, most = (choose(rows, key=lambda row: row.overhead) for choose in (min, max))
    blind = sum(1 for row in rows if row.told_apart == 1)
    made = Page(
        f"One packet, {len(rows)} ways to protect it",
        f"An IPv{comparison.packet[0] >> 4} packet of {len(comparison.packet)} octets, outer headers "
        f"IPv{comparison.version}. What its octets are on the wire, what a network can read of it, and whether that is "
        "enough to tell flows apart.",
        footer=f"wesper {__version__}, wesper compare",
    )
    made.tiles += [
        Tile(f"+{least.overhead}", f"octets at least: {least.case.title}"),
        Tile(f"+{most.overhead}", f"octets at most: {most.case.title}"),
        Tile(f"{blind} of {len(rows)}", f"show a network nothing that tells {FLOWS} flows apart"),
    ]
    bars = [
        Stack(
            row.case.title,
            [Part(*_named(kind, row.octets(kind))) for kind in _ROLES if row.octets(kind)],
            f"{len(row.packet)} (+{row.overhead})",
        )
        for row in rows
    ]
    made.section("On the wire", "Octets, to scale; in brackets how many more than before.", stacks(bars), wide=True)
    made.section(
        "In numbers",
        "Each flow has another source port; a network tells apart those that differ in a field it can read.",
        Table(
            (
                "",
                "IP, UDP",
                "header",
                "readable",
                "encrypted",
                "ICV",
                "can be read inside",
                f"tells {FLOWS} flows apart",
            ),
            [
                (
                    row.case.title,
                    *(str(row.octets(kind)) for kind in _ROLES),
                    " and ".join(row.readable) or "nothing",
                    ", ".join(f"{name}: {number}" for name, number in row.seen) or "nothing",
                )
                for row in rows
            ],
            numbers=(1, 2, 3, 4, 5),
        ),
        wide=True,
    )
    for row in rows:
        octets = "\n".join(
            f"{span.label:<12} {span.at:>4}  {row.packet[span.at : span.at + span.octets].hex(' ', 4)}"
            for span in row.spans
        )
        made.section(row.case.title, f"{len(row.packet)} octets", preformatted(octets))
    return made.html()


def _named(kind: Kind, octets: int) -> tuple[str, float, Role]:
    name, role = _ROLES[kind]
    return name, octets, role
