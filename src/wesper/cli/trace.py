"""`wesper trace`."""

from __future__ import annotations

import json as json_module
import sys
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..errors import CaptureError
from ..keying import load_keys
from ..pcap import ip_offset
from ..pcap.trace import Trace, Tracer
from . import CHECK_FAILED, IO_TROUBLE
from .packet_input import LINKS, packets_of
from .packet_view import console_for_packets
from .trace_view import render_walk

SCHEMA = 1


def trace(
    what: Annotated[str, Parameter(allow_leading_hyphen=True)] = "-",
    /,
    *,
    keys: Path,
    outbound: bool = False,
    link: Literal["raw", "ethernet", "sll", "sll2"] = "raw",
    count: Annotated[int, Parameter(name=("--count", "-c"))] = 0,
    engine: Literal["reference", "native"] | None = None,
    whole: bool = False,
    json: bool = False,
) -> int:
    """Follow packets through the stages of an engine, and say where each ended and why.

    The packets meet the SAs of a key file one after another, as they would at a peer that has been there from the first
    packet on: windows move, numbers are used up. Exits with 1 if any was dropped.

    Parameters
    ----------
    what
        A packet in hexadecimal, a capture file, or - for either on standard input.
    keys
        File of SAs, in wesper's TOML or Wireshark's esp_sa form.
    outbound
        Take the packets as ones to be protected instead of protected ones.
    link
        What hexadecimal octets begin with; a capture says so itself.
    count
        Stop after so many packets; 0 follows all.
    engine
        Which engine decides; by default the fastest there is.
    whole
        Show the stages too that a packet never came to.
    json
        Print one JSON object.
    """
    tracer = Tracer(load_keys(keys), engine)
    console = console_for_packets()
    truncated: list[CaptureError] = []
    dropped = 0
    if json:
        print(f'{{"schema": {SCHEMA}, "packets": [', end="")
    packets = islice(packets_of(what, LINKS[link], truncated), count or None)
    for number, (stamp, link_type, octets) in enumerate(packets, 1):
        at = ip_offset(link_type, octets)
        packet = octets if at is None else octets[at:]
        found = tracer.outbound(packet) if outbound else tracer.inbound(packet)
        dropped += found.reason is not None
        if json:
            line = json_module.dumps({"number": number, "timestamp_ns": stamp, **found.as_json()})
            print("," if number > 1 else "", line, sep="\n", end="")
        else:
            console.print(
                render_walk(_title(number, stamp, found), found.as_json()["steps"], _ending(found), whole=whole), ""
            )
    if json:
        print("\n]}")
    if truncated:
        print(f"wesper: {truncated[0]}", file=sys.stderr)
        return IO_TROUBLE
    return CHECK_FAILED if dropped else 0


def _title(number: int, stamp: int | None, found: Trace) -> str:
    time = ""
    if stamp is not None:
        seconds, fraction = divmod(stamp, 1_000_000_000)
        time = f"  {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{fraction:09} UTC"
    return f"Packet {number}{time}  {found.direction.name.lower()}bound, {len(found.packet):,} octets"


def _ending(found: Trace) -> str:
    if found.reason is not None:
        return f"dropped: {found.reason.verdict}"
    return f"{'protected' if found.direction.name == 'OUT' else 'delivered'}, {len(found.result):,} octets"
