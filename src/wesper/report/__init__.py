"""Reports: one HTML file that asks nothing of the network, with plots drawn as SVG.

`plots` draws, `page` puts texts, tables and plots together. Both take values and return text; neither knows what a
packet is.
"""

from .page import Page, Table, Tile, preformatted
from .plots import Bar, Part, Series, Stack, bars, chain, lines, stacks

__all__ = [
    "Bar",
    "Page",
    "Part",
    "Series",
    "Stack",
    "Table",
    "Tile",
    "bars",
    "chain",
    "lines",
    "preformatted",
    "stacks",
]
