"""`wesper dissect`."""

from __future__ import annotations

import json as json_module
import sys
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..errors import CaptureError
from ..keying import load_all_keys
from ..pcap.dissect import Keyring
from ..pcap.dissect import dissect as take_apart
from ..pcap.tally import SCHEMA
from . import CHECK_FAILED, IO_TROUBLE
from .packet_input import LINKS, PSPPorts, packets_of, psp_ports
from .packet_view import console_for_packets, render


def dissect(
    what: Annotated[str, Parameter(allow_leading_hyphen=True)] = "-",
    /,
    *,
    keys: Path | None = None,
    psp_port: PSPPorts = None,
    link: Literal["raw", "ethernet", "sll", "sll2"] = "raw",
    count: Annotated[int, Parameter(name=("--count", "-c"))] = 0,
    diagram: bool = False,
    meanings: bool = False,
    data: int = 64,
    json: bool = False,
) -> int:
    """Show every header field of packets: name, value, the octets that it stands at, and the document that says so.

    Names are Wireshark's filter names where it has one. With keys the inside of ESP, WESP, WESPv2, EESP and PSP is
    shown too. Octets that make no sense are shown as far as they go, with one line that says what is wrong; the exit
    code is 1 then.

    Parameters
    ----------
    what
        A packet in hexadecimal, a capture file, or - for either on standard input.
    keys
        File of SAs, in wesper's TOML or Wireshark's esp_sa form, to look into what they protect; of PSP's associations
        and devices, in TOML.
    psp_port
        UDP destination port that is PSP's instead of 1000; may be given again for more.
    link
        What hexadecimal octets begin with; a capture says so itself.
    count
        Stop after so many packets; 0 shows all.
    diagram
        Draw bit diagrams in the RFCs' manner, with the values in them.
    meanings
        Say what each field is.
    data
        How many octets of a payload to show.
    json
        Print one JSON object.
    """
    keyring = None if keys is None else Keyring(*load_all_keys(keys))
    ports = psp_ports(psp_port)
    console = console_for_packets()
    truncated: list[CaptureError] = []
    shown = bad = 0
    if json:
        print(f'{{"schema": {SCHEMA}, "packets": [', end="")
    for stamp, link_type, octets in islice(packets_of(what, LINKS[link], truncated), count or None):
        dissection = take_apart(octets, link_type, keyring, ports)
        shown, bad = shown + 1, bad + bool(dissection.problem)
        if json:
            packet = {"number": shown, "timestamp_ns": stamp, **dissection.as_json()}
            print("," if shown > 1 else "", json_module.dumps(packet), sep="\n", end="")
            continue
        if shown > 1:
            console.print()
        title = _title(shown, stamp, len(octets))
        console.print(render(dissection, title=title, diagram=diagram, data_octets=data, meanings=meanings))
    if json:
        print("\n]}")
    if truncated:
        print(f"wesper: {truncated[0]}", file=sys.stderr)
        return IO_TROUBLE
    return CHECK_FAILED if bad else 0


def _title(number: int, stamp: int | None, octets: int) -> str:
    time = ""
    if stamp is not None:
        seconds, fraction = divmod(stamp, 1_000_000_000)
        time = f"  {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{fraction:09} UTC"
    return f"Packet {number}{time}  {octets} octets"
