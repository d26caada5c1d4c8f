"""Packets that a command is given: in hexadecimal, as a capture file, or either on standard input."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Annotated, cast

from cyclopts import Parameter

from ..errors import CaptureError, ConfigError
from ..pcap import LinkType, open_capture
from ..pcap.classic import MAGICS
from ..wire.psp import PORT

LINKS = {"raw": LinkType.RAW, "ethernet": LinkType.ETHERNET, "sll": LinkType.LINUX_SLL, "sll2": LinkType.LINUX_SLL2}
PSPPorts = Annotated[list[int] | None, Parameter(name="--psp-port", negative=())]
_CAPTURES = (*MAGICS, b"\n\r\r\n", b"\x1f\x8b")  # pcap, pcapng, gzip


def psp_ports(given: list[int] | None) -> frozenset[int]:
    """Return the UDP destination ports that are PSP's: those given, or its own.   Raises ConfigError."""
    for port in given or ():
        if not 0 < port < 65536:
            raise ConfigError(str(port), key="--psp-port", expected="1..65535")
    return frozenset(given or (PORT,))


def keep_inputs(output: str, *inputs: str | Path) -> None:
    """Raise ConfigError if the output is one of the inputs, among them files that hold keys."""
    for path in inputs:
        if output != "-" and os.path.exists(output) and os.path.exists(path) and os.path.samefile(output, path):
            raise ConfigError("output and input are the same file", path=output, expected="another name")


def packets_of(
    what: str, link_type: LinkType, truncated: list[CaptureError], leave_out: str = "\0"
) -> Iterator[tuple[int | None, int, bytes]]:
    """Yield (time, link type, octets) of each packet.   truncated: gets the error if a capture's end is missing.

    leave_out: how the names of a capture's interfaces end whose packets are left out.
    """
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
                interface = capture.interfaces[record.interface] if record.interface < len(capture.interfaces) else None
                if interface is None or not (interface.name or "").endswith(leave_out):
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
