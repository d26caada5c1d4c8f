"""`wesper demo`: a tunnel between two hosts, a router that watches, and a report."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.rule import Rule
from rich.status import Status
from rich.table import Table
from rich.text import Text

from .. import __version__
from ..bench.machine import describe
from ..demo.findings import Findings
from ..demo.live import run
from ..demo.story import duration, gigabits, page
from ..demo.traffic import MARKER
from . import CHECK_FAILED
from .demo_capture import protect_a_capture
from .packet_view import console_for_packets

_FILES = {
    "clear.pcapng": "what the router saw in the clear",
    "wire.pcapng": "what it saw of the tunnel",
    "opened.pcapng": "what was inside, opened with the keys",
    "keys.toml": "the SAs with their keys (mode 0600)",
    "tunnel/": "the two tunnel files",
    "psp-wire.pcapng, psp-opened.pcapng, psp-keys.toml, psp-tunnel/": "the same of the PSP tunnel",
}


def demo(
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("wesper-demo"),
    engine: Literal["reference", "native"] | None = None,
    capture: bool = False,
) -> int:
    """Run a tunnel between two hosts while a router between them watches and forges; leave a report.

    The hosts and the router exist only here (see `wesper lab`); no root is needed. They talk in the clear, then through
    a tunnel of ESP, then through one of PSP: echoes, datagrams and bulk TCP, full of a marker. Every frame that the
    router saw is classified and searched for the marker; the captures of the wire are opened with the keys; the router
    sends forged packets, which the receiver has to drop by name. Ends with a table and OUTPUT/report.html. Exits with 1
    if anything is not as it should be.

    Parameters
    ----------
    output
        Folder for report, captures, tunnel files and keys.
    engine
        Which engine the tunnel runs on; by default the fastest there is.
    capture
        Instead of a tunnel: protect a capture of mixed traffic, draw packets before and after field by field, have
        both engines open everything, compare, and print the speed of each.
    """
    if capture:
        return CHECK_FAILED if protect_a_capture(console_for_packets(), output) else 0
    start = time.monotonic()
    terminal = _Terminal(Console(highlight=False))
    try:
        story = run(output, terminal, engine=engine)
    finally:
        terminal.close()
    found = story.findings
    seconds = time.monotonic() - start
    machine = describe({})
    found.about = (
        f"wesper {__version__}, {found.engine} engine, {found.suite}; {machine['cpu']}, {machine['cores']} cores, "
        f"Linux {platform.release()}; {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {seconds:.0f} s"
    )
    where = output.resolve()
    options = f"{output / 'wire.pcapng'} --keys {output / 'keys.toml'} -c 3"
    found.files = {
        **_FILES,
        f"wesper dissect {options}": "every field of a packet, and what is inside",
        f"wesper trace {options}": "a packet's walk through the engine",
    }
    (output / "report.html").write_text(page(found, story.message, MARKER).html())
    wrong = _print(terminal.console, found)
    terminal.console.print(f"\n{seconds:.0f} s. The report: {where / 'report.html'}", soft_wrap=True)
    return CHECK_FAILED if wrong else 0


class _Terminal:
    """Tells the steps, with a sign of life while one runs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._number = 0
        self._status: Status | None = None

    def step(self, title: str) -> None:
        self.close()
        self._number += 1
        self.console.print(Rule(f"{self._number}  {title}", align="left", style="bold"))
        if self.console.is_terminal:
            self._status = self.console.status(title)
            self._status.start()

    def say(self, text: str) -> None:
        self.console.print(f"   {text}", soft_wrap=True)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _print(console: Console, found: Findings) -> int:
    """Print the tables and return how many claims do not hold."""
    console.print(Rule("What came of it", align="left", style="bold"))
    ways = Table(box=None, pad_edge=False)
    psp = () if found.psp is None else (found.psp.tunnel,)
    for title in ("", "in the clear", "in the tunnel", *("in the PSP tunnel" for _ in psp)):
        ways.add_column(title, justify="right" if title else "left", min_width=15)
    all_ways = (found.clear, found.tunnel, *psp)
    ways.add_row("frames that the router saw", *(f"{each.seen.frames.total():,}" for each in all_ways))
    ways.add_row("  of them ESP", *(f"{each.seen.esp():,}" for each in all_ways))
    if psp:
        ways.add_row("  of them PSP", *(f"{each.seen.psp():,}" for each in all_ways))
    ways.add_row("  of them with the marker", *(f"{each.seen.marked.total():,}" for each in all_ways))
    ways.add_row("one TCP stream", *(gigabits(each.speed.bps) for each in all_ways))
    ways.add_row("round trip, median", *(duration(each.round_trip) for each in all_ways))
    console.print(ways, "")
    checks = found.checks()
    for check in checks:
        sign = Text("✓ ", "green") if check.holds else Text("✗ ", "bold red")
        console.print(sign.append(check.claim, "" if check.holds else "bold red"), soft_wrap=True)
    wrong = sum(not check.holds for check in checks)
    console.print(Text(f"{len(checks) - wrong} of {len(checks)} claims hold", "bold red" if wrong else "bold green"))
    return wrong
