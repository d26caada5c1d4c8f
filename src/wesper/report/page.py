"""A report: headline, tiles, sections of texts, tables and plots, as one HTML file.

The file has its style in it and no script, and its policy (Content-Security-Policy) forbids a browser to load
anything, so that it looks the same on a host without a network in ten years.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Literal

_STYLE = Path(__file__).with_name("style.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, slots=True)
class Tile:
    """A number that says the most.   figure: large.   what: a line below it.   mood: whether it is as it should be."""

    figure: str
    what: str
    mood: Literal["good", "bad", ""] = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells, as text.   numbers: places of the columns that are set to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()


@dataclass(slots=True)
class Page:
    """A report in the making.

    title: what happened, as a sentence.   lead: the paragraph below it.   verdict: two or three words; mood: its
    colour.   footer: what it was made by and where.
    """

    title: str
    lead: str = ""
    verdict: str = ""
    mood: Literal["good", "bad"] = "good"
    footer: str = ""
    tiles: list[Tile] = field(default_factory=list)
    _sections: list[str] = field(default_factory=list)

    def section(self, title: str, about: str = "", *contents: str | Table, wide: bool = False) -> None:
        """Add a section.   about: a sentence that says what to see.

        contents: markup (a plot, `preformatted`) and tables.   wide: over the full width.
        """
        inside = [f"<h2>{escape(title)}</h2>"]
        if about:
            inside.append(f'<p class="about">{escape(about)}</p>')
        inside += [each if isinstance(each, str) else "".join(_table(each)) for each in contents]
        self._sections.append(f"<section{' class=wide' * wide}>{''.join(inside)}</section>")

    def html(self) -> str:
        """Return the whole file."""
        tiles = "".join(
            f'<div class="tile"><div class="figure {tile.mood}">{escape(tile.figure)}</div>'
            f'<div class="what">{escape(tile.what)}</div></div>'
            for tile in self.tiles
        )
        verdict = f'<div class="verdict {self.mood}">{escape(self.verdict)}</div>' if self.verdict else ""
        return "\n".join(
            [
                '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{escape(self.title)}</title>\n<style>\n{_STYLE.read_text()}</style>\n</head>\n<body>\n<main>",
                f"<header>{verdict}<h1>{escape(self.title)}</h1>",
                f'<p class="lead">{escape(self.lead)}</p></header>',
                f'<div class="tiles">{tiles}</div>' if tiles else "",
                f'<div class="sections">\n{"".join(self._sections)}\n</div>',
                f"<footer>{escape(self.footer)}</footer>\n</main>\n</body>\n</html>\n",
            ]
        )


def preformatted(text: str, mark: str = "") -> str:
    """Return text as it stands, as markup.   mark: what in it to set off."""
    shown = escape(text)
    if mark:
        shown = shown.replace(escape(mark), f"<mark>{escape(mark)}</mark>")
    return f"<pre>{shown}</pre>"


def _table(table: Table) -> Iterator[str]:
    def cell(kind: str, place: int, text: str) -> str:
        side = ' class="number"' if place in table.numbers else ""
        return f"<{kind}{side}>{escape(text)}</{kind}>"

    yield '<div class="scroll"><table><thead><tr>'
    yield from (cell("th", place, title) for place, title in enumerate(table.columns))
    yield "</tr></thead><tbody>"
    for row in table.rows:
        yield "<tr>" + "".join(cell("td", place, text) for place, text in enumerate(row)) + "</tr>"
    yield "</tbody></table></div>"
