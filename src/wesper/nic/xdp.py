"""Counting flows without a key, in the driver: an XDP program in C, written from a protocol's layout.

It reads what stands at fixed places and nothing else: a look at the IP version, at the protocol or port, a load for the
SPI, and one for the flow's name. `Counter` has clang compile it, iproute2 load it (the kernel's verifier looks at it
then) and bpftool read its map; attaching needs CAP_NET_ADMIN and CAP_BPF, so real root.
Source: Linux `Documentation/bpf/`. Fixed places are those behind IPv4 without options, IPv6 without extension headers.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ..errors import ConfigError, UnsupportedError, WesperError
from ..wire.arithmetic import formula
from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6
from ..wire.layout import Layout, Place, places
from ..wire.layouts import LAYOUTS
from ..wire.udp import UDP

_TOOLS: Final = {"clang": "clang", "ip": "iproute2", "bpftool": "bpftool"}


class XDPError(WesperError):
    """A tool did not do what it was asked for; its words are the message."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class FlowCount:
    """What one flow of one SA has sent.   flow: its name on the wire; 0 for a protocol that has none."""

    protocol: str
    spi: int
    flow: int
    packets: int
    octets: int


def source(flows: Mapping[str, str]) -> str:
    """Return the program's C.

    flows: of each protocol's name (`wire.layouts`) the filter name of the field that names its flows; "": it has none.
    A packet whose SPI moves is counted by its flow alone.
    Raises UnsupportedError if a field does not stand at a fixed place, ConfigError for names that are not known.
    """
    for name in flows:
        if name not in LAYOUTS:
            raise ConfigError(f"protocol {name!r}", key="flows", expected=" or ".join(LAYOUTS))
    numbered = list(enumerate(flows.items()))
    # Who shares a port is told apart by a field; ESP takes what is left.
    numbered.sort(key=lambda each: LAYOUTS[each[1][0]].tell is None)
    blocks = [
        _block(number, LAYOUTS[name], field, version, udp)
        for number, (name, field) in numbered
        for version in (4, 6)
        for udp in (False, True)
        if (LAYOUTS[name].udp_port if udp else LAYOUTS[name].ip_protocol) is not None
    ]
    listed = "\n".join(f" *   {number}: {LAYOUTS[name].title}" for number, name in enumerate(flows))
    program = resources.files(__package__).joinpath("flows.c").read_text(encoding="utf-8")
    return program.replace("@PROTOCOLS@", listed).replace("@BLOCKS@", "\n".join(blocks))


def _block(number: int, layout: Layout, flow: str, version: int, udp: bool) -> str:
    """Return the lines that look for one protocol over one kind of outer headers. `at` points to the outer header."""
    found = {place.name: place for place in places(layout, version, udp)}
    checks, last = [f"ethertype == 0x{0x0800 if version == 4 else 0x86DD:04x}"], 0
    if version == 4:
        checks += ["at[0] == 0x45", "(U16(at + 6) & 0x1fff) == 0"]  # no options; the first fragment or the only one
    checks.append(f"at[{9 if version == 4 else 6}] == {17 if udp else layout.ip_protocol}")
    start = IPv4.SIZE if version == 4 else IPv6.SIZE
    if udp:
        checks.append(f"U16(at + {start + 2}) == {layout.udp_port}")
        checks += [f"at[{start + UDP.SIZE + i}] == 0x{octet:02x}" for i, octet in enumerate(layout.marker)]
    if layout.tell is not None:
        name, value = layout.tell
        octet, spare, width = _within_octet(next(p for p in found.values() if p.field.name == name))
        last = octet + 1
        checks.append(f"(at[{octet}] >> {spare} & 0x{(1 << width) - 1:x}) == {value}")
    spi = next((p for p in found.values() if p.field.name == "spi" and p.bit is not None), None)
    reads = {"spi": "0" if spi is None else f"U32(at + {spi.octet})", "flow": "0"}
    last = max(last, 0 if spi is None or spi.octet is None else spi.octet + 4)
    if flow:
        reads["flow"], end = _read_flow(layout, flow, found)
        last = max(last, end)
    title = f"{layout.title} over IPv{version}{' and UDP' if udp else ''}"
    condition = " &&\n\t    ".join(checks)
    return f"""
\t/* {title} */
\tif (at + {max(last, start + UDP.SIZE)} <= end && {condition})
\t\treturn count({number}, {reads["spi"]}, {reads["flow"]}, end - begin);"""


def _read_flow(layout: Layout, flow: str, found: Mapping[str, Place]) -> tuple[str, int]:
    """Return the expression for a flow's name, and the octets that it needs from the outer header on."""
    if flow not in found:
        raise ConfigError(f"no field {flow!r} in {layout.name}", key="flows", expected=" or ".join(found))
    place = found[flow]
    if place.bit is None or place.octet is None:
        raise UnsupportedError(f"counting by {flow}", f"a field at a fixed place; this one is {place.why}")
    at, width = place.octet, place.field.bits
    if place.field.variable:
        octets = _length(place, found)
        read = f"({octets}) >= 8 ? U64(at + {at}) : ({octets}) >= 4 ? U32(at + {at}) : 0"
        if place.only_if:
            kind = next(part.options.first for part in layout.parts if part.options is not None)
            read = f"at[{at - 2}] != {kind} ? 0 : {read}"
        return read, at + 8
    if place.bit % 8 or width not in (8, 16, 32, 64):
        raise UnsupportedError(f"counting by {flow}", "a field of 8, 16, 32 or 64 whole bits")
    return f"U{width}(at + {at})", at + width // 8


def _length(place: Place, found: Mapping[str, Place]) -> str:
    """Return a variable field's length in C, from fields of the same header within one octet each."""
    if place.field.length is None:
        raise UnsupportedError(f"counting by {place.name}", "a field whose length the packet tells")
    length = formula(place.field.length)
    text = length.text
    for name in length.fields:
        source_place = next(p for p in found.values() if p.header is place.header and p.field.name == name)
        octet, spare, width = _within_octet(source_place)
        text = text.replace(f"h.{name}", f"(at[{octet}] >> {spare} & 0x{(1 << width) - 1:x})")
    return text


def _within_octet(place: Place) -> tuple[int, int, int]:
    assert place.bit is not None
    return place.bit // 8, 8 - place.bit % 8 - place.field.bits, place.field.bits


class Counter:
    """An XDP program on one interface, counting until it is closed.

    Raises UnsupportedError without root or a tool, XDPError with a tool's words where it refuses.
    """

    def __init__(self, interface: str, flows: Mapping[str, str], *, generic: bool = True) -> None:
        """Compile, load and attach.

        interface: its name.   flows: as of `source`.
        generic: behind the driver (works on every interface); else in it.
        """
        text = source(flows)
        missing = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
        if missing:
            raise UnsupportedError("an XDP program", f"Debian's {' and '.join(missing)}")
        self._interface, self._names = interface, list(flows)
        self._mode = "xdpgeneric" if generic else "xdpdrv"
        with tempfile.TemporaryDirectory(prefix="wesper-xdp-") as folder:
            path = Path(folder) / "flows.c"
            path.write_text(text)
            headers = f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"  # asm/types.h
            _run(
                "clang",
                "-O2",
                "-g",
                "-target",
                "bpf",
                "-Wall",
                "-I",
                headers,
                "-c",
                str(path),
                "-o",
                f"{folder}/flows.o",
            )
            _run("ip", "link", "set", "dev", interface, self._mode, "obj", f"{folder}/flows.o", "sec", "xdp")
        self._map: int | None = self._find_map()

    def counts(self) -> list[FlowCount]:
        """Return what has been counted, most packets first."""
        if self._map is None:
            return []
        entries = json.loads(_run("bpftool", "--json", "map", "dump", "id", str(self._map)))
        found = []
        for entry in entries:
            key = bytes(int(octet, 16) for octet in entry["key"])
            values = [bytes(int(octet, 16) for octet in each["value"]) for each in entry["values"]]
            protocol, spi, flow = struct.unpack("=IIQ", key)
            packets, octets = (sum(column) for column in zip(*(struct.unpack("=QQ", v) for v in values), strict=True))
            found.append(FlowCount(self._names[protocol], spi, flow, packets, octets))
        return sorted(found, key=lambda each: (-each.packets, each.protocol, each.spi, each.flow))

    def close(self) -> None:
        """Take the program off; closing again does nothing."""
        if self._map is not None:
            self._map = None
            _run("ip", "link", "set", "dev", self._interface, self._mode, "off")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find_map(self) -> int:
        links = json.loads(_run("ip", "--json", "--details", "link", "show", "dev", self._interface))
        number = links[0]["xdp"]["prog"]["id"]
        program = json.loads(_run("bpftool", "--json", "prog", "show", "id", str(number)))
        return int(program["map_ids"][0])


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        if "Operation not permitted" in done.stderr:
            raise UnsupportedError("an XDP program", "root (CAP_NET_ADMIN and CAP_BPF)")
        raise XDPError(f"{words[0]}: {told[0] if told else f'ended with {done.returncode}'}")
    return done.stdout
