"""`wesper trace`."""

from __future__ import annotations

import contextlib
import json as json_module
import sys
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, Self

from cyclopts import Parameter

from ..errors import CaptureError, ConfigError
from ..keying import load_all_keys
from ..pcap import ip_offset
from ..pcap.trace import Trace, Tracer
from ..sa import Direction
from ..tunnel.metrics import NO_LOSS
from ..tunnel.tapping import walk_of
from ..tunnel.watching import names_of
from . import CHECK_FAILED, IO_TROUBLE
from .packet_input import LINKS, packets_of
from .packet_view import console_for_packets
from .trace_view import render_walk
from .watch import connect, packets

SCHEMA = 1


def trace(
    what: Annotated[str, Parameter(allow_leading_hyphen=True)] = "-",
    /,
    *,
    keys: Path | None = None,
    live: str | None = None,
    outbound: bool = False,
    link: Literal["raw", "ethernet", "sll", "sll2"] = "raw",
    count: Annotated[int, Parameter(name=("--count", "-c"))] = 0,
    engine: Literal["reference", "native"] | None = None,
    drops: bool = False,
    seconds: float = 0.0,
    whole: bool = False,
    json: bool = False,
    run_dir: Path | None = None,
) -> int:
    """Follow packets through the stages of an engine, and say where each ended and why.

    With --keys the packets meet the SAs of a key file one after another, as they would at a peer that has been there
    from the first packet on: windows move, numbers are used up. Of what `wesper capture` wrote one side is followed:
    the outer one, or with --outbound the inner one. With --live they are those of a running tunnel, as they pass, until
    Ctrl-C. Exits with 1 if any was dropped; a dummy or a NAT keepalive ends where it should.

    Parameters
    ----------
    what
        A packet in hexadecimal, a capture file, or - for either on standard input.
    keys
        File of SAs, in wesper's TOML or Wireshark's esp_sa form; of PSP's associations and devices, in TOML.
    live
        Name of a running tunnel, whose packets to follow instead of WHAT.
    outbound
        Take the packets as ones to be protected instead of protected ones.
    link
        What hexadecimal octets begin with; a capture says so itself.
    count
        Stop after so many packets; 0 follows all.
    engine
        Which engine decides; by default the fastest there is.
    drops
        Only packets that were dropped.
    seconds
        With --live, stop after so long; 0 goes on.
    whole
        Show the stages too that a packet never came to.
    json
        Print one JSON object.
    run_dir
        With --live, where the tunnel's socket is, if not where it is by default.
    """
    if live is not None:
        return _follow(live, run_dir, seconds, count, _Printer(drops, whole, json))
    if keys is None:
        raise ConfigError("missing", key="--keys", expected="a file of SAs, or --live with the name of a tunnel")
    sas, psp = load_all_keys(keys)
    tracer = Tracer(sas, engine, psp)
    truncated: list[CaptureError] = []
    printer = _Printer(drops, whole, json)
    # `wesper capture` writes both sides: the other one's packets have not met what is traced.
    seen = packets_of(what, LINKS[link], truncated, "/outer" if outbound else "/inner")
    with printer:
        for stamp, link_type, octets in islice(seen, count or None):
            at = ip_offset(link_type, octets)
            packet = octets if at is None else octets[at:]
            printer.show(stamp, tracer.outbound(packet) if outbound else tracer.inbound(packet))
    if truncated:
        print(f"wesper: {truncated[0]}", file=sys.stderr)
        return IO_TROUBLE
    return CHECK_FAILED if printer.dropped else 0


def _follow(name: str, run_dir: Path | None, seconds: float, count: int, printer: _Printer) -> int:
    """Show the walks of a running tunnel's packets."""
    with connect(name, run_dir) as client, printer, contextlib.suppress(KeyboardInterrupt):
        status = client.ask("status")
        names, protocol = names_of(status), str(status.get("protocol"))
        for seen in packets(client, seconds):
            steps = walk_of(seen, names, protocol)
            if steps is None:
                continue
            printer.show(seen.time_ns, Trace(Direction(seen.direction), seen.packet, seen.reason, steps))
            if printer.shown == count:
                break
    return CHECK_FAILED if printer.dropped else 0


class _Printer:
    """Prints walks as they come, for people or as one JSON object.   shown, dropped: how many."""

    def __init__(self, drops: bool, whole: bool, json: bool) -> None:
        self._drops, self._whole, self._json = drops, whole, json
        self._console = console_for_packets()
        self._number = self.shown = self.dropped = 0

    def __enter__(self) -> Self:
        if self._json:
            print(f'{{"schema": {SCHEMA}, "packets": [', end="", flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._json:
            print("\n]}")

    def show(self, stamp: int | None, found: Trace) -> None:
        """Show a packet's walk, unless only drops are wanted and this is none."""
        self._number += 1
        dropped = found.reason is not None and found.reason not in NO_LOSS
        self.dropped += dropped
        if self._drops and not dropped:
            return
        self.shown += 1
        if self._json:
            line = json_module.dumps({"number": self._number, "timestamp_ns": stamp, **found.as_json()})
            print("," if self.shown > 1 else "", line, sep="\n", end="", flush=True)
            return
        steps = found.as_json()["steps"]
        self._console.print(
            render_walk(_title(self._number, stamp, found), steps, _ending(found), whole=self._whole), ""
        )


def _title(number: int, stamp: int | None, found: Trace) -> str:
    time = ""
    if stamp is not None:
        seconds, fraction = divmod(stamp, 1_000_000_000)
        time = f"  {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{fraction:09} UTC"
    return f"Packet {number}{time}  {found.direction.name.lower()}bound, {len(found.packet):,} octets"


def _ending(found: Trace) -> str:
    if found.reason is not None:
        return f"{'ended' if found.reason in NO_LOSS else 'dropped'}: {found.reason.verdict}"
    octets = f", {len(found.result):,} octets" if found.result else ""
    return f"{'protected' if found.direction is Direction.OUT else 'delivered'}{octets}"
