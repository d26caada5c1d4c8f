"""A packet's walk on a terminal: a line for each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_SIGNS = {"passed": ("✓", "green"), "dropped": ("✗", "bold red"), "skipped": ("·", "dim")}


def render_walk(title: str, steps: Sequence[Mapping[str, Any]], ending: str, *, whole: bool = False) -> RenderableType:
    """Return what rich prints of a walk.

    title: which packet.   steps: as `Step.as_json` has them.   ending: what came of it.   whole: show the stages too
    that the packet never came to.
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(no_wrap=True, min_width=13)
    table.add_column(overflow="fold")
    table.add_column(style="dim", no_wrap=True)
    for step in steps:
        sign, style = _SIGNS[step["outcome"]]
        if step["outcome"] == "skipped" and not whole:
            continue
        table.add_row(
            Text(sign, style),
            Text(step["stage"], style if style != "green" else ""),
            step["text"] or step["asks"],
            step["source"],
        )
    dropped = any(step["outcome"] == "dropped" for step in steps)
    return Group(Text(title, "bold"), table, Text(ending, "bold red" if dropped else "bold green"))
