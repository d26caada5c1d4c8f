"""`wesper top`, `wesper capture`, `wesper metrics`, `wesper keys`: looking at a running tunnel."""

from __future__ import annotations

import contextlib
import json as json_module
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.live import Live

from ..errors import ConfigError
from ..keying import parse_keys, save_keys, save_private
from ..pcap import create_capture
from ..tunnel.control import ControlClient
from ..tunnel.loop import Tapped
from ..tunnel.tapping import SeenFile
from ..tunnel.watching import numbers_of, scraped, tapped
from . import CHECK_FAILED
from .packet_view import console_for_packets
from .top_view import Look, as_json, view
from .tunnel import socket_of

_LOOKS = 60


def connect(name: str | None, run_dir: Path | None) -> ControlClient:
    """Return a connection to a running tunnel.   name: None: the only one.   Raises DaemonGone, ConfigError."""
    return ControlClient(socket_of(name, run_dir))


def packets(client: ControlClient, seconds: float) -> Iterator[Tapped]:
    """Yield the packets of a running tunnel as they pass.   seconds: how long; 0: until it ends.

    What was lost is told on standard error at the end.
    """
    until = time.monotonic() + seconds if seconds else None
    lost = 0
    try:
        for seen, missing in tapped(client, until):
            lost += missing
            yield from seen
    finally:
        if lost:
            print(f"wesper: {lost:,} packets came faster than they could be told", file=sys.stderr)


def capture(
    name: str | None = None,
    /,
    *,
    output: Annotated[str, Parameter(name=("--output", "-o"), allow_leading_hyphen=True)],
    side: Literal["both", "inner", "outer"] = "both",
    count: Annotated[int, Parameter(name=("--count", "-c"))] = 0,
    seconds: float = 0.0,
    run_dir: Path | None = None,
) -> int:
    """Capture a running tunnel: what this host sent and got in the clear, and what was on the wire, in one pcapng file.

    The interfaces are called NAME/inner and NAME/outer. Each packet says which way it went, and, as a comment, why it
    was dropped if it was. Ends after COUNT packets, after SECONDS, with Ctrl-C, or with the tunnel.

    Parameters
    ----------
    name
        Name of the tunnel; by default the only one that runs.
    output
        The capture; - for standard output, as in `wesper capture -o - | tshark -r -`.
    side
        Only packets of one side.
    count
        Stop after so many packets; 0 goes on.
    seconds
        Stop after so long; 0 goes on.
    run_dir
        Where the tunnel's socket is, if not where it is by default.
    """
    number = 0
    with connect(name, run_dir) as client, create_capture(output) as out:
        status = client.ask("status")
        file = SeenFile(out, status["interface"]["name"])
        console = Console(stderr=True)
        shown = console.status("capturing") if console.is_terminal else contextlib.nullcontext()
        with shown as spinner, contextlib.suppress(KeyboardInterrupt):
            for seen in packets(client, seconds):
                if side not in ("both", seen.side):
                    continue
                file.write(seen)
                number += 1
                if number == count:
                    break
                if spinner is not None and number % 100 == 1:
                    spinner.update(f"{number:,} packets")
                    out.flush()
    print(f"wesper: {number:,} packets", file=sys.stderr)
    return 0


def keys(
    name: str | None = None,
    /,
    *,
    output: Annotated[str, Parameter(name=("--output", "-o"), allow_leading_hyphen=True)],
    run_dir: Path | None = None,
) -> int:
    """Write the SAs of a running tunnel with their keys, for Wireshark and for `wesper pcap decrypt`.

    An output that ends in .toml gets wesper's TOML, any other, and standard output, Wireshark's esp_sa form (with ESN,
    from where the numbers stand now). Of PSP there is TOML alone, for `wesper pcap decrypt`. The file is for its
    owner's eyes only (mode 0600). Exits with 1 if an SA was left out because Wireshark has no name for its suite.

    Parameters
    ----------
    name
        Name of the tunnel; by default the only one that runs.
    output
        The key file; - for standard output. Wireshark reads `esp_sa` in its configuration folder.
    run_dir
        Where the tunnel's socket is, if not where it is by default.
    """
    with connect(name, run_dir) as client:
        answer = client.ask("keys")
    text = str(answer.get("sas"))
    if answer.get("protocol") == "psp":
        return _save_associations(text, output)
    sas = parse_keys(text, "toml", "the daemon's answer")
    left_out = save_keys(sas, output, "toml" if output.endswith(".toml") else "esp_sa")
    for sa in left_out:
        print(f"wesper: {sa.title} is left out: Wireshark has no name for {sa.suite}", file=sys.stderr)
    return CHECK_FAILED if left_out else 0


def _save_associations(text: str, output: str) -> int:
    """Write the TOML of PSP associations, for which Wireshark has no form."""
    if output == "-":
        sys.stdout.write(text)
        return 0
    if not output.endswith(".toml"):
        raise ConfigError("Wireshark has no form for PSP's keys", key="--output", expected="a name that ends in .toml")
    save_private(Path(output), [text])
    return 0


def metrics(name: str | None = None, /, *, run_dir: Path | None = None) -> int:
    """Print what a running tunnel has counted, as OpenMetrics text.

    A scraper gets the same over HTTP where the tunnel file says `[metrics] listen = "127.0.0.1:9464"`.

    Parameters
    ----------
    name
        Name of the tunnel; by default the only one that runs.
    run_dir
        Where the tunnel's socket is, if not where it is by default.
    """
    with connect(name, run_dir) as client:
        sys.stdout.write(scraped(client.ask("status")).decode())
    return 0


def top(
    name: str | None = None,
    /,
    *,
    every: float = 1.0,
    count: Annotated[int, Parameter(name=("--count", "-c"))] = 0,
    json: bool = False,
    run_dir: Path | None = None,
) -> int:
    """Watch a running tunnel: rates both ways, each SA's numbers, and what was dropped and why.

    On a terminal the view is drawn anew in place until Ctrl-C; elsewhere each look is printed below the last.

    Parameters
    ----------
    name
        Name of the tunnel; by default the only one that runs.
    every
        Seconds between two looks.
    count
        Stop after so many looks; 0 goes on.
    json
        Print one JSON object a look, each on a line.
    run_dir
        Where the tunnel's socket is, if not where it is by default.
    """
    if not 0.1 <= every <= 3600:
        raise ConfigError(f"every {every} seconds", key="every", expected="0.1..3600")
    console = console_for_packets()
    looks: deque[Look] = deque(maxlen=_LOOKS)
    with connect(name, run_dir) as client, contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        live = Live(console=console, auto_refresh=False, screen=True) if console.is_terminal and not json else None
        if live is not None:
            stack.enter_context(live)
        number = 0
        while True:
            looks.append(Look(time.monotonic(), numbers_of(client.ask("status"))))
            if json:
                print(json_module.dumps(as_json(looks)), flush=True)
            elif live is not None:
                live.update(view(looks), refresh=True)
            else:
                console.print(view(looks), "")
            number += 1
            if number == count:
                break
            time.sleep(every)
    return 0
