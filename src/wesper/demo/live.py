"""The demonstration from end to end: build, talk, protect, talk again, watch, open, forge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..bench.connections import QUICK_COUNTS, Point, PointFailed, measure_connections, mebibytes
from ..engine import native_is_built
from ..keying import save_keys, save_private
from ..keying.psp_toml import write_received
from ..lab import Interface, Lab, Node, routed
from ..wire.numbers import ESP, UDP
from .findings import Findings, Forged, Passage, PSPFindings
from .forge import Forgery, forgeries, psp_forgeries, send
from .opened import open_capture_with, second_opinion
from .traffic import MARKER, bulk, datagrams
from .tunnel import Tunnel
from .wire import Seen, packets, read

ECHOES = 60
SIZES = (18, 484, 1256)
"""Octets of the datagrams' payloads: with IPv4 and UDP headers 46, 512 and 1284."""
STREAM_OCTETS = 6 << 20
SPEED_S = 3.0
FORGED = 50


class Teller(Protocol):
    """Who shows what goes on.   Each step ends where the next begins."""

    def step(self, title: str) -> None:
        """Begin a step."""

    def say(self, text: str) -> None:
        """Tell what a step has found."""


@dataclass(slots=True)
class Story:
    """What the report is made of.   message: a packet with the marker in the clear, and one of each tunnel."""

    findings: Findings
    message: tuple[bytes, ...]


def run(output: Path, teller: Teller, *, engine: str | None = None) -> Story:
    """Run the whole demonstration.   output: folder for captures and keys.   engine: of the tunnel.

    Raises UnsupportedError where there are no namespaces, TrafficLost if the hosts can't talk, and what the tunnel's
    commands raise.
    """
    output.mkdir(parents=True, exist_ok=True)
    teller.step("Two hosts and a router between them")
    with routed() as lab:
        a, r, b = lab
        teller.say(f"a {a.address}  –  router {r.address}, {r.interfaces[1].address()}  –  b {b.address}")
        stage = _Stage(lab, a, b, r.interfaces[0], teller)
        teller.step("They talk in the clear, and the router watches")
        plain = output / "clear.pcapng"
        clear = stage.passage(b.address, plain, lambda: read(plain, MARKER, (), ()))
        teller.say(f"{clear.seen.frames.total():,} frames seen, {clear.seen.marked.total():,} of them show the marker")
        teller.step("The tunnel comes up")
        with Tunnel(a, b, output / "tunnel", engine) as tunnel:
            for command in tunnel.commands:
                teller.say(command)
            teller.say(tunnel.described)
            teller.step("They talk through the tunnel, and the router watches")
            wire = output / "wire.pcapng"
            protected = stage.passage(tunnel.far_address, wire, lambda: read(wire, MARKER, tunnel.ports, tunnel.spis))
            seen = protected.seen
            teller.say(f"{seen.frames.total():,} frames seen, {seen.esp():,} of them ESP, {_others(seen)}")
            teller.say(f"{seen.marked.total():,} of them show the marker")
            teller.step("The capture of the wire, opened with the keys")
            keys = output / "keys.toml"
            keys.unlink(missing_ok=True)
            save_keys(tunnel.sas, keys)
            opened = open_capture_with(tunnel.sas, wire, output / "opened.pcapng", MARKER, engine=engine)
            dummies = f", {opened.dummies} of them dummies" if opened.dummies else ""
            teller.say(f"wesper opens {opened.authentic:,}{dummies}; inside {opened.marked:,} show the marker")
            tshark = second_opinion(tunnel.sas, wire)
            teller.say(f"tshark opens {tshark[1]:,}" if tshark else "tshark is not here (apt-get install tshark)")
            teller.step("The router forges packets")
            # Of numbers that are in the window yet: an older one is taken for one of the next 2^32 (RFC 4303 appendix
            # A2) and fails at the ICV.
            fresh = output / "before-forging.pcapng"
            with lab.capture(fresh, [r.interfaces[0]]):
                a.ping(tunnel.far_address, count=FORGED)
            forged = _forge(r, tunnel, forgeries(_sent(fresh, a.address)[-FORGED:], tunnel.unknown_spi))
            for each in forged:
                teller.say(f"{each.how}: {each.dropped} of {each.sent} dropped as {each.reason.verdict}")
            afterwards = a.ping(tunnel.far_address, count=5)
            findings = Findings(
                clear, protected, opened, tshark, forged, afterwards, tunnel.suite, tunnel.engine, tunnel.drops(b)
            )
        findings.psp = _psp(stage, lab, output, engine)
        findings.points = _points(teller, engine)
        message = _marked(plain)
        longer = (_as_long(each, a.address, message) for each in (wire, output / "psp-wire.pcapng"))
        return Story(findings, (message, *longer))


def _psp(stage: _Stage, lab: Lab, output: Path, engine: str | None) -> PSPFindings:
    """Have the hosts say the same through a PSP tunnel."""
    teller = stage.teller
    a, r, b = lab
    teller.step("The same through a PSP tunnel")
    with Tunnel(a, b, output / "psp-tunnel", engine, "psp") as tunnel:
        for command in tunnel.commands:
            teller.say(command)
        teller.say(tunnel.described)
        wire = output / "psp-wire.pcapng"
        protected = stage.passage(
            tunnel.far_address, wire, lambda: read(wire, MARKER, (), tunnel.spis, tunnel.psp_ports)
        )
        seen = protected.seen
        teller.say(f"{seen.frames.total():,} frames seen, {seen.psp():,} of them PSP, {_others(seen)}")
        keys = output / "psp-keys.toml"
        save_private(keys, write_received((each, "") for each in tunnel.associations.associations))
        opened = open_capture_with(tunnel.associations, wire, output / "psp-opened.pcapng", MARKER, engine=engine)
        teller.say(
            f"{seen.marked.total():,} of them show the marker; opened with the keys, {opened.authentic:,} do not fail, "
            f"and {opened.marked:,} show it"
        )
        forged = _forge(r, tunnel, psp_forgeries(_sent(wire, a.address)[-FORGED:], 0x80000001))
        for each in forged:
            teller.say(f"{each.how}: {each.dropped} of {each.sent} dropped as {each.reason.verdict}")
        return PSPFindings(protected, opened, forged, a.ping(tunnel.far_address, count=5), f"PSP, {tunnel.suite}")


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

    def __init__(self, lab: Lab, a: Node, b: Node, watched: Interface, teller: Teller) -> None:
        self._lab, self._a, self._b, self._watched, self.teller = lab, a, b, watched, teller

    def passage(self, address: str, capture: Path, look: Callable[[], Seen]) -> Passage:
        """Send everything once while the router watches, and then a stream as fast as it goes."""
        with self._packets_as_on_a_wire(), self._lab.capture(capture, [self._watched]) as watching:
            round_trips = self._a.ping(address, count=ECHOES)
            arrived = datagrams(self._a, self._b, address, SIZES)
            stream = bulk(self._a, self._b, address, octets=STREAM_OCTETS)
        if watching.overrun:
            self.teller.say(f"{watching.overrun:,} frames came faster than they could be written")
        speed = bulk(self._a, self._b, address, seconds=SPEED_S)
        return Passage(look(), round_trips, (len(SIZES), arrived), stream, speed)

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


def _forge(router: Node, tunnel: Tunnel, invented: Sequence[Forgery]) -> list[Forged]:
    found = []
    for forgery in invented:
        before = tunnel.drops(tunnel.far)
        send(router, forgery.packets)
        after = tunnel.await_drops(
            tunnel.far, forgery.reason, before.get(forgery.reason.name, 0) + len(forgery.packets)
        )
        dropped = after.get(forgery.reason.name, 0) - before.get(forgery.reason.name, 0)
        found.append(Forged(forgery.how, forgery.reason, len(forgery.packets), dropped))
    return found


def _sent(wire: Path, source: str) -> list[bytes]:
    """Return the packets of a capture of the tunnel that come from an address."""
    octets = bytes(map(int, source.split(".")))
    return [packet for packet in packets(wire) if packet[12:16] == octets and packet[9] in (ESP, UDP)]


def _as_long(wire: Path, source: str, inside: bytes) -> bytes:
    """Return a packet of the tunnel that can have carried this one: the shortest that is longer."""
    return min((packet for packet in _sent(wire, source) if len(packet) > len(inside)), key=len)


def _marked(capture: Path) -> bytes:
    """Return the first datagram of a capture that holds the marker more than once."""
    return next(packet for packet in packets(capture) if packet.count(MARKER) > 1)


def _others(seen: Seen) -> str:
    foreign = seen.foreign()
    if foreign:
        return ", ".join(f"{count} {kind}" for kind, count in foreign.items())
    rest = seen.frames.total() - seen.esp() - seen.psp()
    return f"{rest} ARP or neighbour discovery" if rest else "and nothing else"
