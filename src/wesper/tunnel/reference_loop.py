"""The plain loop: Python in the daemon's own thread, packet by packet, with either engine."""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Literal

from ..host.link import Link
from ..verdict import Delivered, Dropped, DropReason
from .loop import COUNTS, Loop, Tapped, now_ns

BATCH = 64  # packets from one descriptor before the others have their turn


class ReferenceLoop(Loop):
    """Reads, asks the engine, writes.   Its device has no vnet header."""

    name: ClassVar[str] = "reference"
    _taken: deque[Tapped] | None = None
    _room = _used = 0
    _running = False

    def start(self) -> None:
        self._running = True

    def stop(self, drain_seconds: float) -> None:
        if not self._running:
            return
        self._running = False
        until = time.monotonic() + drain_seconds
        poll = select.poll()
        by_descriptor = {link.fd: link for link in self.links if link.receives}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN)
        while (left := until - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(left * 1000):
                self._inward(by_descriptor[descriptor])

    def watch(self) -> Mapping[int, Callable[[], None]]:
        return {
            self.device.fd: self._outward,
            **{link.fd: partial(self._inward, link) for link in self.links if link.receives},
        }

    def counts(self) -> dict[str, int]:
        return {name: self.counted[name] for name in COUNTS}

    def tap(self, octets: int) -> None:
        self._taken = deque() if octets else None
        self._room, self._used = octets, 0

    def tapped(self) -> list[Tapped]:
        if self._taken is None:
            return []
        taken, self._taken, self._used = self._taken, deque(), 0
        return list(taken)

    def send(self, packet: bytes) -> None:
        self._keep("outer", "out", packet, None)
        super().send(packet)

    def deliver(self, packet: bytes) -> None:
        self._keep("inner", "in", packet, None)
        super().deliver(packet)

    def _outward(self) -> None:
        now = now_ns()
        for _ in range(BATCH):
            packet = self.device.read()
            if packet is None:
                return
            if not packet:
                self.counted["device_not_ip"] += 1
                continue
            self.counted["device_read_packets"] += 1
            self.counted["device_read_octets"] += len(packet)
            place, at = len(self._taken or ()), time.time_ns()
            reason = self.carry_out(packet, now)
            if self._taken is not None:  # before what has become of it
                self._keep("inner", "out", packet, reason, place, at)

    def _inward(self, link: Link) -> None:
        now = now_ns()
        for _ in range(BATCH):
            packet = link.receive()
            if packet is None:
                return
            self.counted["link_received_packets"] += 1
            self.counted["link_received_octets"] += len(packet)
            if self._taken is None:
                self.carry_in(packet, now)
                continue
            verdict = self.engine.inbound(packet, now)
            self._keep("outer", "in", packet, verdict.reason if isinstance(verdict, Dropped) else None)
            if isinstance(verdict, Delivered):
                self.deliver(verdict.packet)

    def _keep(
        self,
        side: Literal["inner", "outer"],
        direction: Literal["out", "in"],
        packet: bytes,
        reason: DropReason | None,
        place: int | None = None,
        at: int | None = None,
    ) -> None:
        """Copy a packet, if copies are wanted.   place: among those taken; None: last.   at: ns since the epoch."""
        if self._taken is None:
            return
        if self._used + len(packet) > self._room:
            self.counted["tap_lost"] += 1
            return
        self._used += len(packet)
        seen = Tapped(at or time.time_ns(), side, direction, packet, reason)
        self._taken.insert(len(self._taken) if place is None else place, seen)
