"""`wesper dissect`."""

from __future__ import annotations

import json as json_module
import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, cast

from cyclopts import Parameter

from ..errors import CaptureError, ConfigError
from ..keying import load_keys
from ..pcap import LinkType, open_capture
from ..pcap.classic import MAGICS
from ..pcap.dissect import Keyring
from ..pcap.dissect import dissect as take_apart
from ..pcap.tally import SCHEMA
from . import CHECK_FAILED, IO_TROUBLE
from .packet_view import console_for_packets, render

_LINKS = {"raw": LinkType.RAW, "ethernet": LinkType.ETHERNET, "sll": LinkType.LINUX_SLL, "sll2": LinkType.LINUX_SLL2}
_CAPTURES = (*MAGICS, b"\n\r\r\n", b"\x1f\x8b")  # pcap, pcapng, gzip


def dissect(
    what: Annotated[str, Parameter(allow_leading_hyphen=True)] = "-",
    /,
    *,
    keys: Path | None = None,
    link: Literal["raw", "ethernet", "sll", "sll2"] = "raw",
    count: Annotated[int, Parameter(name=("--count", "-c"))] = 0,
    diagram: bool = False,
    meanings: bool = False,
    data: int = 64,
    json: bool = False,
) -> int:
    """Show every header field of packets: name, value, the octets that it stands at, and the document that says so.

    Names are Wireshark's filter names where it has one. With keys the inside of ESP is shown too. Octets that make no
    sense are shown as far as they go, with one line that says what is wrong; the exit code is 1 then.

    Parameters
    ----------
    what
        A packet in hexadecimal, a capture file, or - for either on standard input.
    keys
        File of SAs, in wesper's TOML or Wireshark's esp_sa form, to look into ESP.
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
    keyring = None if keys is None else Keyring(load_keys(keys))
    console = console_for_packets()
    truncated: list[CaptureError] = []
    shown = bad = 0
    if json:
        print(f'{{"schema": {SCHEMA}, "packets": [', end="")
    for stamp, link_type, octets in islice(_packets(what, _LINKS[link], truncated), count or None):
        dissection = take_apart(octets, link_type, keyring)
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


def _packets(what: str, link_type: LinkType, truncated: list[CaptureError]) -> Iterator[tuple[int | None, int, bytes]]:
    """Yield (time, link type, octets) of each packet.   truncated: gets the error if a capture's end is missing."""
    if what == "-":
        start = cast(BufferedReader, sys.stdin.buffer).peek(4)[:4]
        path = "-"
    elif os.path.exists(what):
        with open(what, "rb") as file:
            start = file.read(4)
        path = what
    else:
        yield from ((None, link_type, octets) for octets in _hex_packets(what, "the argument"))
        return
    if not start or start.startswith(_CAPTURES):
        with open_capture(path, on_truncated=truncated.append) as capture:
            for record in capture:
                yield record.timestamp_ns, record.link_type, record.data
        return
    text = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    name = "<stdin>" if path == "-" else path
    yield from ((None, link_type, octets) for octets in _hex_packets(text.decode("latin-1"), name))


def _hex_packets(text: str, name: str) -> Iterator[bytes]:
    """Yield packets written in hexadecimal, a blank line between two.   Offsets as of `tcpdump -x` are passed over."""
    for part in re.split(r"\n[ \t\r]*\n", text.strip()):
        digits = re.sub(r"[\s:]", "", re.sub(r"^\s*0x[0-9a-fA-F]{4}:", "", part, flags=re.MULTILINE))
        try:
            yield bytes.fromhex(digits.removeprefix("0x"))
        except ValueError:
            expected = "a packet in hexadecimal, or the path of a capture"
            raise ConfigError("no such file, and not hexadecimal", path=name, expected=expected) from None


def _title(number: int, stamp: int | None, octets: int) -> str:
    time = ""
    if stamp is not None:
        seconds, fraction = divmod(stamp, 1_000_000_000)
        time = f"  {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{fraction:09} UTC"
    return f"Packet {number}{time}  {octets} octets"
