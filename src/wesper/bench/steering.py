"""What steering is worth: the flows of one SA over two workers beside one, their sockets filled before they begin."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from typing import Any, Final

import numpy as np

from ..engine import Engine, Options, Packets
from ..errors import WesperError
from ..host.link import Link, open_link
from ..lab import Lab
from ..nic import attach, flow_plans
from ..sa import SA, Direction, EESPFormat, FlowKind, FlowPolicy, Mode, Outer, Profile, UDPEncapsulation, WESPv2Format
from .measure import Row

_FLOWS: Final = 10_000
_INNER: Final = 1400
_TRUE_OCTETS: Final = 4608  # what the kernel charges a socket's buffer for such a datagram
_BUFFER: Final = 64 << 20  # octets: long enough for the scheduler to find a core for each worker
_SO_RCVBUFFORCE: Final = 33
_FILLINGS: Final = 3
_SENDER_PORT: Final = 4501
_HERE: Final = ip_address("127.0.0.1")
_BY_TUPLE: Final = FlowPolicy(FlowKind.FIVE_TUPLE)
_PROTOCOLS: Final[dict[str, dict[str, Any]]] = {
    "WESPv2": {"protocol": "wespv2", "format": WESPv2Format(flow_identifier=_BY_TUPLE)},
    "EESP": {"protocol": "eesp", "format": EESPFormat(session=_BY_TUPLE)},
    "ESP": {"protocol": "esp"},
}


class SteeringFailed(WesperError):
    """What was to be measured did not come about."""

    exit_code = 4


def rows() -> list[Row]:
    """Return the rows. They run in a lab of one host, where any user may have large socket buffers."""
    found = []
    for name in _PROTOCOLS:
        is_named = name != "ESP"
        found += [
            Row(
                "Steering the flows of one SA",
                f"{name}, 1400 octets, 10,000 flows: two workers",
                "packets/s",
                partial(_in_lab, _rate, name, 2),
                1.7 if is_named else None,
                partial(_in_lab, _rate, name, 1),
                "one worker",
            ),
            Row(
                "Steering the flows of one SA",
                f"{name}: the busier worker's part of the flows, percent",
                "",
                partial(_in_lab, _part, name),
                55 if is_named else None,
                at_most=True,
            ),
        ]
    return found


def _in_lab(measure: Callable[..., float], *args: Any) -> float:
    with Lab() as lab:
        return lab.host("a").call(measure, *args, timeout=300)


def _rate(protocol: str, workers: int) -> float:
    """Return packets a second that workers take out of full sockets, open and write, nothing being sent meanwhile."""
    with _Ends(protocol, workers) as ends:
        best = 0.0
        for _ in range(_FILLINGS):
            packets = ends.fill()
            seconds = ends.plane.drain()
            best = max(best, packets / seconds)
        ends.check()
        return best


def _part(protocol: str) -> float:
    """Return the larger part of the flows, in percent, that one of two sockets gets."""
    with _Ends(protocol, 2) as ends:
        return 100 * max(ends.flows_of(one) for one in ends.sockets) / _FLOWS


class _Ends:
    """A sender's SA, and workers with the receiver's."""

    def __init__(self, protocol: str, workers: int) -> None:
        from .. import _native
        from ..engine.native import NativeEngine

        self._sent = 0
        with contextlib.ExitStack() as stack:
            self._link: Link = stack.enter_context(contextlib.closing(open_link("udp4", _HERE, sockets=workers)))
            for each in (self._link.opened, *self._link.group):
                each.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            self._out = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            self._out.connect((str(_HERE), self._link.port))
            null = stack.enter_context(open("/dev/null", "r+b", buffering=0))
            self.sockets = [self._link.opened, *self._link.group]
            if len(self.sockets) > 1:
                attach(self.sockets, flow_plans())
            self._sender, self._receiver = NativeEngine(), NativeEngine(Options(shards=workers))
            self._sa = _install(self._sender, Direction.OUT, protocol, self._link.port)
            self._in = _install(self._receiver, Direction.IN, protocol, self._link.port)
            shares = workers > 1
            links = [
                ("udp4", each.fileno(), _HERE, self._link.port, shares, shard)
                for shard, each in enumerate(self.sockets)
            ]
            self.plane = _native.Dataplane(self._receiver, [(null.fileno(), False, None, False)], links, False)
            self._stack = stack.pop_all()

    def __enter__(self) -> _Ends:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self) -> int:
        """Send as many packets as there is room for, each of the next flow; return how many."""
        room = self._link.opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _TRUE_OCTETS
        count = room * len(self.sockets) * 9 // 10  # the sockets' parts are not quite the same
        self._send(count)
        return count

    def flows_of(self, one: socket.socket) -> int:
        """Send a packet of each flow that no socket was sent before; return how many came to one of them."""
        if not self._sent:
            self._send(_FLOWS, short=True)
        came = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                one.recv(1)
                came += 1
        return came

    def check(self) -> None:
        """Raise SteeringFailed if a packet was lost, dropped, or came to the other worker."""
        counts = dict(self.plane.counts())
        opened = self._receiver.state(self._in).packets
        if (counts["link_received_packets"], opened) != (self._sent, self._sent) or counts["link_unsteered_packets"]:
            raise SteeringFailed(
                f"of {self._sent} packets {counts['link_received_packets']} came, {opened} were opened, "
                f"{counts['link_unsteered_packets']} by the wrong worker"
            )

    def _send(self, count: int, *, short: bool = False) -> None:
        inner = Packets.of(
            [_inner(flow, 64 if short else _INNER) for flow in (index % _FLOWS for index in range(count))]
        )
        sealed = self._sender.encapsulate_many(self._sa, inner, 0).packets
        for index in range(count):
            self._out.send(sealed[index][28:])
        self._sent += count


def _install(engine: Engine, direction: Direction, protocol: str, port: int) -> int:
    ports = (_SENDER_PORT, port) if direction is Direction.OUT else (port, _SENDER_PORT)
    settings: dict[str, Any] = {"window": 1 << 16, "esn": True, **_PROTOCOLS[protocol]}
    profile = Profile(
        "aes-gcm-16", Mode.TUNNEL, outer=Outer(_HERE, _HERE), encapsulation=UDPEncapsulation(*ports), **settings
    )
    return engine.install(SA(profile, direction, 0x1000, bytes(range(16)), b"salt"))


def _inner(flow: int, octets: int) -> bytes:
    """An UDP datagram of a flow; checksums are nobody's business here."""
    head = np.zeros(28, np.uint8)
    head[[0, 8, 9, 12, 16]] = (0x45, 64, 17, 10, 10)
    head[2:4] = octets >> 8, octets & 0xFF
    head[15], head[19] = 1, 2
    head[20:22] = flow >> 8, flow & 0xFF
    return head.tobytes() + bytes(octets - 28)
