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
    "{}/wire.pcapng": "what it saw of a tunnel",
    "{}/opened.pcapng": "what was inside, opened with the keys",
    "{}/keys.toml": "the SAs with their keys (mode 0600)",
    "{}/a.toml, b.toml": "the two tunnel files",
}


def demo(
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("wesper-demo"),
    engine: Literal["reference", "native"] | None = None,
    capture: bool = False,
) -> int:
    """Run tunnels between two hosts while a router between them watches and forges; leave a report.

    The hosts and the router exist only here (see `wesper lab`); no root is needed. They talk in the clear, then through
    tunnels of ESP, PSP, WESP, WESPv2 and EESP, one after another: echoes, datagrams and bulk TCP, full of a marker.
    Every frame that the router saw is classified and searched for the marker; the captures of the wire are opened with
    the keys; flows are told apart without a key, by what headers call them; the router sends forged packets, which the
    receiver has to drop by name. With tshark there, it has to show every field by its name; as root with clang,
    libbpf-dev and bpftool there, an XDP program counts flows. Ends with a table and OUTPUT/report.html. Exits with 1 if
    anything is not as it should be.

    Parameters
    ----------
    output
        Folder for report, captures, tunnel files and keys.
    engine
        Which engine the tunnels run on; by default the fastest there is.
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
        f"wesper {__version__}, {found.engine} engine; {machine['cpu']}, {machine['cores']} cores, "
        f"Linux {platform.release()}; {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {seconds:.0f} s"
    )
    where = output.resolve()
    protocols = "{" + ",".join(each.protocol for each in found.tunnels) + "}"
    options = f"{output / 'eesp' / 'wire.pcapng'} --keys {output / 'eesp' / 'keys.toml'} -c 3"
    found.files = {
        **{name.replace("{}", protocols): word for name, word in _FILES.items()},
        f"wesper dissect {options}": "every field of a packet, and what is inside",
        f"wesper trace {options}": "a packet's walk through the engine",
    }
    (output / "report.html").write_text(page(found, story.messages, MARKER).html())
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
        self.console.print(Rule(Text(f"{self._number}  {title}"), align="left", style="bold"))
        if self.console.is_terminal:
            self._status = self.console.status(title)
            self._status.start()

    def say(self, text: str) -> None:
        self.console.print(f"   {text}", markup=False, soft_wrap=True)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _print(console: Console, found: Findings) -> int:
    """Print the tables and return how many claims do not hold."""
    console.print(Rule("What came of it", align="left", style="bold"))
    ways = Table(box=None, pad_edge=False)
    for place, title in enumerate(("", "frames", "protected", "marker", "TCP stream", "round trip", "told apart")):
        ways.add_column(title, justify="right" if place else "left", no_wrap=True)
    tunnels = {each.label: each for each in found.tunnels}
    for name, way in found.ways().items():
        tunnel = tunnels.get(name)
        ways.add_row(
            name,
            f"{way.seen.frames.total():,}",
            "" if tunnel is None else f"{tunnel.packets:,}",
            f"{way.seen.marked.total():,}",
            gigabits(way.speed.bps),
            duration(way.round_trip),
            "" if tunnel is None else f"{tunnel.told_apart.most} of {tunnel.told_apart.flows}",
        )
    console.print(ways, "")
    checks = found.checks()
    for check in checks:
        sign = Text("✓ ", "green") if check.holds else Text("✗ ", "bold red")
        console.print(sign.append(check.claim, "" if check.holds else "bold red"), soft_wrap=True)
    wrong = sum(not check.holds for check in checks)
    console.print(Text(f"{len(checks) - wrong} of {len(checks)} claims hold", "bold red" if wrong else "bold green"))
    return wrong
