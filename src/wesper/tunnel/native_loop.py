"""The fast loop: worker threads in Rust, one that reads the device, one for each link; Python decides what is rare.

The workers read super-packets and cut them, protect and open in place, and send and write many packets a call, where
device and kernel have offloads; else packet by packet, with sendmmsg and recvmmsg. What their path is not for they hand
over: packets without policy or SA, larger than their SA's MTU, for BYPASS or DISCARD, and datagrams that are no ESP.
What the engine's `outbound` and `inbound` make of those goes back through the same sockets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from .. import _native
from ..engine import Engine
from ..engine.native import NativeEngine
from ..errors import UnsupportedError, WesperError
from ..protocols.ip import IPAddress
from ..verdict import REASON_BY_CODE
from .device import Device
from .link import Link
from .loop import COUNTS, Loop, LoopOptions, Tapped, now_ns

_WHOLE = 1 << 16  # octets of a packet that a tap keeps
_FAR_MAC = bytes.fromhex("0257e5be0002")


class NativeLoop(Loop):
    """Worker threads around a native engine.   Its device may have vnet headers and several queues.

    Raises UnsupportedError for another engine, OSError if the kernel has no room for another descriptor.
    """

    name: ClassVar[str] = "native"
    _tap_octets = 0
    _running = False

    def __init__(
        self,
        engine: Engine,
        device: Device,
        links: Sequence[Link],
        *,
        addresses: Sequence[IPAddress] = (),
        options: LoopOptions | None = None,
    ) -> None:
        super().__init__(engine, device, links, addresses=addresses, options=options)
        if not isinstance(engine, NativeEngine):
            raise UnsupportedError("native workers", f"the native engine, not the {engine.name} one")
        ethernet = device.mac + _FAR_MAC if device.ethernet else None
        udp = "udp" in device.segmentation
        self._plane = _native.Dataplane(
            engine,
            [(queue, device.vnet_header, ethernet, udp) for queue in device.queues],
            [(link.kind, link.fd, link.local, link.port) for link in self.links],
            self.options.offloads,
        )

    def start(self) -> None:
        self._plane.start()
        self._running = True

    def stop(self, drain_seconds: float) -> None:
        if not self._running:
            return
        self._running = False
        self._plane.stop(drain_seconds)
        self._decide()

    def watch(self) -> Mapping[int, Callable[[], None]]:
        return {self._plane.slow_fd: self._decide}

    def counts(self) -> dict[str, int]:
        counts = dict.fromkeys(COUNTS, 0) | self.counted
        for name, number in self._plane.counts():
            counts[name] = counts.get(name, 0) + number
        return {name: counts[name] for name in COUNTS}

    def calls(self) -> dict[str, int]:
        """Return how often the workers called the kernel, and what the engine dropped on their way."""
        return {name: number for name, number in self._plane.counts() if name not in COUNTS}

    def offloads(self) -> list[tuple[Link, bool, bool]]:
        """Return, of each link, whether several datagrams go as one message, and whether they come so."""
        return [(link, *both) for link, both in zip(self.links, self._plane.offloads(), strict=True)]

    def tap(self, octets: int) -> None:
        if octets:
            self._plane.open_tap(_WHOLE, octets)
        else:
            self._plane.close_tap()

    def tapped(self) -> list[Tapped]:
        seen, lost = self._plane.seen()
        self.counted["tap_lost"] += lost
        since_epoch = time.time_ns() - now_ns()
        return [
            Tapped(
                moment + since_epoch,
                "inner" if inner else "outer",
                "out" if outbound else "in",
                packet,
                REASON_BY_CODE.get(code),
            )
            for moment, outbound, inner, _, packet, code in seen
        ]

    def send(self, packet: bytes) -> None:
        wrong = self._plane.send(packet)
        if wrong is None:
            self.counted["link_sent_packets"] += 1
            self.counted["link_sent_octets"] += len(packet)
        else:
            self.counted[wrong] += 1

    def write(self, packet: bytes) -> str | None:
        return self._plane.write(packet)

    def _decide(self) -> None:
        """Do with what the workers have left what policy says."""
        now = now_ns()
        for outbound, packet in self._plane.slow():
            if outbound:
                self.carry_out(packet, now)
            else:
                self.carry_in(packet, now)
        if self._running and self._plane.has_died():
            self._running = False
            try:
                self._plane.stop(0)
            except OSError as error:
                raise WorkerDied(str(error)) from None


class WorkerDied(WesperError):
    """A worker thread has ended though nobody told it to."""

    exit_code = 4
