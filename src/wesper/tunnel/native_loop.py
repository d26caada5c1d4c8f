"""The fast loop: worker threads in Rust, one that reads the device, one for each link; Python decides what is rare.

The workers read super-packets and cut them, protect and open in place, and send and write many packets a call, where
device and kernel have offloads; else packet by packet, with sendmmsg and recvmmsg. What their path is not for they hand
over: packets without policy or SA, larger than their SA's MTU, for BYPASS or DISCARD, and datagrams that are no ESP.
What the engine's `outbound` and `inbound` make of those goes back through the same sockets.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from .. import _native
from ..engine.native import NativeEngine
from ..errors import UnsupportedError, WesperError
from ..host.link import Link
from ..host.tun import Device
from ..psp.native_gateway import NativeGateway
from ..verdict import REASON_BY_CODE
from .carrier import Carrier
from .loop import COUNTS, Loop, LoopOptions, Tapped, now_ns

_WHOLE = 1 << 16  # octets of a packet that a tap keeps
_FAR_MAC = bytes.fromhex("0257e5be0002")


class NativeLoop(Loop):
    """Worker threads around a native engine.   Its device may have vnet headers and several queues.

    The workers have copies of the descriptors until `stop`; what is to be told of them can be asked for afterwards too.
    Raises UnsupportedError for another engine, OSError if the kernel has no room for another descriptor.
    """

    name: ClassVar[str] = "native"

    def __init__(
        self,
        engine: Carrier,
        device: Device,
        links: Sequence[Link],
        *,
        options: LoopOptions | None = None,
    ) -> None:
        super().__init__(engine, device, links, options=options)
        core = engine.core if isinstance(engine, NativeGateway) else engine
        if not isinstance(core, NativeEngine | _native.PspGateway):
            raise UnsupportedError("native workers", f"the native engine, not the {engine.name} one")
        ethernet = device.mac + _FAR_MAC if device.ethernet else None
        udp = "udp" in device.segmentation
        self._plane: _native.Dataplane | None = _native.Dataplane(
            core,
            [(queue, device.vnet_header, ethernet, udp) for queue in device.queues],
            [
                *(
                    (link.kind, link.fd, link.local, link.port, bool(link.group), 0 if link.receives else None)
                    for link in self.links
                ),
                # Behind all others: packets go out by the first that fits.
                *(
                    (link.kind, each.fileno(), link.local, link.port, True, shard)
                    for link in self.links
                    for shard, each in enumerate(link.group, 1)
                ),
            ],
            self.options.offloads,
        )
        self._offloads = self._plane.offloads()
        self._last_counts: list[tuple[str, int]] = []
        self._last_tapped: list[Tapped] = []
        self._rare: list[Tapped] | None = None
        self._rare_room = 0

    def start(self) -> None:
        if self._plane is not None:
            self._plane.start()

    def stop(self, drain_seconds: float) -> None:
        plane = self._plane
        if plane is None:
            return
        try:
            plane.stop(drain_seconds)
        except OSError as error:
            raise WorkerDied(f"a worker of the tunnel has ended: {error}") from None
        finally:
            self._decide_all(plane)
            self._last_tapped, self._last_counts, self._offloads = self.tapped(), plane.counts(), plane.offloads()
            self._plane = None  # and with it its copies of the descriptors: the interface can go

    def watch(self) -> Mapping[int, Callable[[], None]]:
        return {} if self._plane is None else {self._plane.slow_fd: self._decide}

    def counts(self) -> dict[str, int]:
        total = Counter(self.counted)
        for name, number in self._counted_by_workers():
            total[name] += number
        return {name: total[name] for name in COUNTS}

    def calls(self) -> dict[str, int]:
        """Return how often the workers called the kernel, and how many packets the engine dropped on their way."""
        return {name: number for name, number in self._counted_by_workers() if name not in COUNTS}

    def offloads(self) -> list[tuple[Link, bool, bool]]:
        """Return, of each link, whether several datagrams go as one message, and whether they come so."""
        found = self._offloads if self._plane is None else self._plane.offloads()
        return [(link, *both) for link, both in zip(self.links, found, strict=False)]

    def tap(self, octets: int) -> None:
        if self._plane is None:
            return
        self._rare = [] if octets else None
        self._rare_room = octets
        if octets:
            self._plane.open_tap(_WHOLE, octets)
        else:
            self._plane.close_tap()

    def tapped(self) -> list[Tapped]:
        if self._plane is None:
            last, self._last_tapped = self._last_tapped, []
            return last
        seen, lost = self._plane.seen()
        self.counted["tap_lost"] += lost
        since_epoch = time.time_ns() - now_ns()
        found = [
            Tapped(
                moment + since_epoch,
                "inner" if inner else "outer",
                "out" if outbound else "in",
                packet,
                REASON_BY_CODE.get(code),
            )
            for moment, outbound, inner, _, packet, code in seen
        ]
        if self._rare:
            self._rare_room += sum(len(each.packet) for each in self._rare)
            found = sorted([*found, *self._rare], key=lambda each: each.time_ns)
            self._rare = []
        return found

    def send(self, packet: bytes) -> None:
        wrong = "link_unreachable" if self._plane is None else self._plane.send(packet)
        if wrong is None:
            self.counted["link_sent_packets"] += 1
            self.counted["link_sent_octets"] += len(packet)
        else:
            self.counted[wrong] += 1

    def write(self, packet: bytes) -> str | None:
        return "device_down" if self._plane is None else self._plane.write(packet)

    def _counted_by_workers(self) -> list[tuple[str, int]]:
        return self._last_counts if self._plane is None else self._plane.counts()

    def _decide(self) -> None:
        """Do with what the workers have left what policy says.   Raises WorkerDied."""
        if self._plane is None:
            return
        self._decide_all(self._plane)
        if self._plane.has_died():
            self.stop(0)

    def _decide_all(self, plane: _native.Dataplane) -> None:
        now = now_ns()
        for outbound, packet in plane.slow():
            at = time.time_ns()
            reason = self.carry_out(packet, now) if outbound else self.carry_in(packet, now)
            if self._rare is not None:
                seen = (
                    Tapped(at, "inner", "out", packet, reason)
                    if outbound
                    else Tapped(at, "outer", "in", packet, reason)
                )
                self._keep(seen)

    def _keep(self, seen: Tapped) -> None:
        """Keep what became of a rare case, if there is room."""
        assert self._rare is not None
        if len(seen.packet) > self._rare_room:
            self.counted["tap_lost"] += 1
            return
        self._rare_room -= len(seen.packet)
        self._rare.append(seen)


class WorkerDied(WesperError):
    """A worker thread has ended though nobody told it to."""

    exit_code = 4
