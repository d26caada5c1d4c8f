"""The demonstration from end to end: build, talk, protect, talk again, watch, open, forge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from ..bench.connections import QUICK_COUNTS, Point, PointFailed, measure_connections, mebibytes
from ..engine import native_is_built
from ..errors import UnsupportedError
from ..keying import PSPKeys, StaticSA
from ..lab import Interface, Lab, Node, routed
from ..protocols import ip
from ..verdict import DropReason
from .counted import Counting
from .findings import Findings, Forged, Passage, Protected
from .forge import forgeries, send
from .opened import open_capture_with
from .traffic import MARKER, bulk, datagrams
from .tshark import MISSING, declared_fields, has_dissector, named_fields, second_opinion
from .tshark import is_here as has_tshark
from .tunnel import Tunnel
from .wire import LABELS, Seen, carried, packets, read

PROTOCOLS: Final = {
    "esp": "A tunnel of ESP",
    "psp": "The same through a tunnel of PSP",
    "wesp": "Headers that a network can read: WESP",
    "wespv2": "Headers that a network can read: WESPv2",
    "eesp": "Headers that a network can read: EESP",
}
"""Protocols in the order in which they are shown, each with its step's title."""
ECHOES = 200
SIZES = (18, 484, 1256)
"""Octets of the datagrams' payloads: with IPv4 and UDP headers 46, 512 and 1284."""
FLOWS = 8
"""Source ports that send datagrams."""
STREAM_OCTETS = 3 << 20
SPEED_S = 1.0
FORGED = 50


class Teller(Protocol):
    """Who shows what goes on.   Each step ends where the next begins."""

    def step(self, title: str) -> None:
        """Begin a step."""

    def say(self, text: str) -> None:
        """Tell what a step has found."""


@dataclass(slots=True)
class Story:
    """What the report is made of.   messages: by way, a packet with the marker, or one that can have carried it."""

    findings: Findings
    messages: dict[str, bytes] = field(default_factory=dict)


def run(output: Path, teller: Teller, *, engine: str | None = None) -> Story:
    """Run the whole demonstration.   output: folder for captures and keys.   engine: of the tunnels.

    Raises UnsupportedError where there are no namespaces, TrafficLost if the hosts can't talk, and what the tunnel's
    commands raise.
    """
    output.mkdir(parents=True, exist_ok=True)
    teller.step("Two hosts and a router between them")
    with routed() as lab:
        a, r, b = lab
        teller.say(f"a {a.address}  –  router {r.address}, {r.interfaces[1].address()}  –  b {b.address}")
        stage = _Stage(lab, a, r, b, teller)
        teller.step("They talk in the clear, and the router watches")
        plain = output / "clear.pcapng"
        clear, _ = stage.passage(b.address, plain, frozenset())
        teller.say(f"{clear.seen.frames.total():,} frames seen, {clear.seen.marked.total():,} of them show the marker")
        message = _marked(plain)
        story = Story(Findings(clear, []), {"in the clear": message})
        for protocol, title in PROTOCOLS.items():
            teller.step(title)
            folder = output / protocol
            with Tunnel(a, b, folder, engine, protocol) as tunnel:
                story.findings.tunnels.append(stage.protected(tunnel, folder, engine))
                story.findings.engine = tunnel.engine
            story.messages[LABELS[protocol]] = _as_long(folder / "wire.pcapng", protocol, a.address, message)
        story.findings.points = _points(teller, engine)
        return story


def _points(teller: Teller, engine: str | None) -> list[Point]:
    """Measure what connections cost, up to a million; none without the native engine."""
    teller.step("What live connections cost, by PSP and by ESP")
    if engine == "reference" or not native_is_built():
        teller.say("left out: takes the native engine")
        return []
    try:
        points, left_out = measure_connections(QUICK_COUNTS, 1)
    except PointFailed as failure:  # memory that is short, most likely: no fault of the tunnels
        teller.say(f"left out: {failure}")
        return []
    for name, reason in left_out:
        teller.say(f"left out: {name}: {reason}")
    for point in points[-1:]:
        of_psp, of_esp = (point.psp.sender, point.psp.receiver), (point.esp.sender, point.esp.receiver)
        teller.say(
            f"{point.connections:,} of them, sender and receiver: PSP {' and '.join(map(mebibytes, of_psp))}, "
            f"ESP {' and '.join(map(mebibytes, of_esp))}"
        )
    return points


class _Stage:
    """Has the hosts say the same on each way."""

    def __init__(self, lab: Lab, a: Node, r: Node, b: Node, teller: Teller) -> None:
        self._lab, self._a, self._router, self._b, self._teller = lab, a, r, b, teller
        self._watched: Interface = r.interfaces[0]
        self._said: set[str] = set()

    def passage(
        self, address: str, capture: Path, spis: frozenset[int], protocol: str = ""
    ) -> tuple[Passage, dict[int, int] | None]:
        """Send everything once while the router watches, and then a stream as fast as it goes.

        protocol: have the router count its flows, too; returns what it has counted, None if it can not.
        """
        with self._packets_as_on_a_wire(), self._counting(protocol) as counting:
            with self._lab.capture(capture, [self._watched]) as watching:
                round_trips = self._a.ping(address, count=ECHOES)
                arrived = datagrams(self._a, self._b, address, SIZES, FLOWS)
                stream = bulk(self._a, self._b, address, octets=STREAM_OCTETS)
            counted = None if counting is None else counting.flows()
        if watching.overrun:
            self._teller.say(f"{watching.overrun:,} frames came faster than they could be written")
        speed = bulk(self._a, self._b, address, seconds=SPEED_S)
        sent = len(SIZES) * FLOWS
        return Passage(read(capture, MARKER, spis), round_trips, (sent, arrived), stream, speed), counted

    def protected(self, tunnel: Tunnel, folder: Path, engine: str | None) -> Protected:
        """Have them say it through a tunnel, open what the router saw, and forge.   folder: for what it leaves."""
        say, protocol, label = self._teller.say, tunnel.protocol, LABELS[tunnel.protocol]
        for command in tunnel.commands:
            say(command)
        say(tunnel.described)
        self._a.ping(tunnel.far_address)
        tunnel.await_quiet()  # a dummy after counting has begun, and before capturing has, would be counted alone
        wire = folder / "wire.pcapng"
        passage, counted = self.passage(tunnel.far_address, wire, tunnel.spis, protocol)
        seen = passage.seen
        say(
            f"{seen.frames.total():,} frames seen, {seen.of(protocol):,} of them {label}, {_others(seen, protocol)}; "
            f"{seen.marked.total():,} show the marker"
        )
        keys = tunnel.keys
        tunnel.save_keys(folder / "keys.toml")
        opened = open_capture_with(keys, wire, folder / "opened.pcapng", MARKER, engine=engine)
        dummies = f", {opened.dummies} of them dummies" if opened.dummies else ""
        say(f"opened with the keys: {opened.authentic:,}{dummies}; inside {opened.marked:,} show the marker")
        found = Protected(protocol, tunnel.suite, tunnel.spi_out, passage, opened, [], [], counted=counted)
        self._ask_tshark(found, keys, wire)
        self._tell_flows(found)
        found.forged = self._forge(tunnel, folder)
        for each in found.forged:
            say(f"{each.how}: {each.dropped} of {each.sent} dropped as {each.reason.verdict}")
        found.afterwards = self._a.ping(tunnel.far_address, count=5)
        return found

    def _ask_tshark(self, found: Protected, keys: list[StaticSA] | PSPKeys, wire: Path) -> None:
        if not has_tshark():
            self._say_once(MISSING)
        elif not has_dissector(found.protocol):
            assert not isinstance(keys, PSPKeys)
            found.tshark = second_opinion(keys, wire)
            if found.tshark is not None:
                self._teller.say(f"tshark opens {found.tshark[1]:,}")
        else:
            names = declared_fields(found.protocol, _sent(wire, found.protocol, self._a.address)[0], keys)
            found.named = named_fields(found.protocol, wire, names)
            assert found.named is not None
            shown = min(found.named.values())
            self._teller.say(f"tshark names {len(names)} fields in {shown:,} packets: {', '.join(names)}")

    def _tell_flows(self, found: Protected) -> None:
        told, counted = found.told_apart, ""
        ways = [f"{told.spis} by SPI", f"{told.ports} by UDP port"]
        if told.names is not None:
            ways.append(f"{told.names} by name")
        if found.counted is not None:
            total, flows = sum(found.counted.values()), len(found.counted)
            counted = f"; its kernel counts {total:,} packets in {flows} flow{'s' * (flows != 1)}"
        self._teller.say(f"of {told.flows} flows from a the router tells apart {', '.join(ways)}{counted}")

    def _forge(self, tunnel: Tunnel, folder: Path) -> list[Forged]:
        # Of numbers that are in the window yet: an older one is taken for one of the next 2^32 (RFC 4303 appendix
        # A2) and fails at the ICV.
        fresh = folder / "before-forging.pcapng"
        with self._lab.capture(fresh, [self._watched]):
            self._a.ping(tunnel.far_address, count=FORGED)
        sent = _sent(fresh, tunnel.protocol, self._a.address)[-FORGED:]
        found = []
        for forgery in forgeries(tunnel.protocol, sent, tunnel.unknown_spi):
            before = tunnel.drops(tunnel.far).get(forgery.reason.name, 0)
            send(self._router, forgery.packets)
            after = tunnel.await_drops(tunnel.far, forgery.reason, before + len(forgery.packets))
            dropped = after.get(forgery.reason.name, 0) - before
            found.append(Forged(forgery.how, forgery.reason, len(forgery.packets), dropped))
        return found

    @contextmanager
    def _counting(self, protocol: str) -> Iterator[Counting | None]:
        """Have the router's interface count flows, where that can be; else say once what it needs."""
        if not protocol:
            yield None
            return
        try:
            counting = Counting(self._watched, protocol)
        except UnsupportedError as error:
            self._say_once(f"not counted in the kernel as well: {error}")
            yield None
            return
        with counting:
            yield counting

    def _say_once(self, text: str) -> None:
        """Tell what is missing, which is so with every tunnel."""
        if text not in self._said:
            self._said.add(text)
            self._teller.say(text)

    @contextmanager
    def _packets_as_on_a_wire(self) -> Iterator[None]:
        """Have the links carry frames no longer than their MTU: a router has no packets of 64 KiB to look at."""
        ends = [end for link in self._lab.links.values() for end in link.ends]
        for end in ends:
            end.set_offloads(segmentation=False, checksum=False)
        try:
            yield
        finally:
            for end in ends:
                end.set_offloads(segmentation=True, checksum=True)


def _sent(wire: Path, protocol: str, source: str) -> list[bytes]:
    """Return a protocol's packets of a capture that come from an address."""
    octets = bytes(map(int, source.split(".")))
    found = []
    for packet in packets(wire):
        datagram = ip.parse(packet) if packet[12:16] == octets else None
        way = DropReason.NOT_FOR_US if datagram is None else carried(datagram)
        if not isinstance(way, DropReason) and way[0] == protocol:
            found.append(packet)
    return found


def _as_long(wire: Path, protocol: str, source: str, inside: bytes) -> bytes:
    """Return a packet of a tunnel that can have carried this one: the shortest that is longer."""
    return min((packet for packet in _sent(wire, protocol, source) if len(packet) > len(inside)), key=len)


def _marked(capture: Path) -> bytes:
    """Return the first datagram of a capture that holds the marker more than once."""
    return next(packet for packet in packets(capture) if packet.count(MARKER) > 1)


def _others(seen: Seen, protocol: str) -> str:
    foreign = seen.foreign(protocol)
    if foreign:
        return ", ".join(f"{count} {kind}" for kind, count in foreign.items())
    rest = seen.frames.total() - seen.of(protocol)
    return f"{rest} ARP or neighbour discovery" if rest else "and nothing else"
