"""What carries packets between the device and the links, through an engine: one interface, two ways to do it.

`ReferenceLoop` is plain Python in the daemon's own thread. `NativeLoop` has worker threads in Rust and gives Python
only what is rare, which is decided here for both: packets that are too big, that no SA carries, that are cut.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import ClassVar, Final, Literal, NamedTuple

from ..host.link import Link
from ..host.tun import Device
from ..protocols import icmp
from ..verdict import Bypassed, Delivered, Dropped, DropReason
from .carrier import Carrier

COUNTS: Final[Mapping[str, str]] = {
    "device_read_packets": "packets that this host wanted protected, cut to the size of the wire",
    "device_read_octets": "their octets, from the inner IP header on",
    "device_written_packets": "packets given to this host, as they were on the wire",
    "device_written_octets": "their octets, from the inner IP header on",
    "link_received_packets": "packets from the unprotected side",
    "link_received_octets": "their octets, from the outer IP header on",
    "link_unsteered_packets": "of them, those that came to another worker than their flow's, and cost it time",
    "link_sent_packets": "packets sent on the unprotected side",
    "link_sent_octets": "their octets, from the outer IP header on",
    "device_full": "lost: this host takes packets more slowly than they come",
    "device_down": "lost: somebody has set the interface down",
    "device_refused": "lost: the kernel refused to take the packet",
    "device_bad_offload": "lost: a super-packet that its own headers contradict",
    "device_not_ip": "frames from the device that are neither IPv4 nor IPv6",
    "link_bad_datagram": "lost: longer than a packet, or from nowhere",
    "link_full": "lost: the unprotected side takes packets more slowly than they come",
    "link_too_big": "lost: larger than the MTU of the interface on the way out",
    "link_unreachable": "lost: no route, address or socket to send it from",
    "bypassed": "lost: policy lets it pass unprotected, which routes have to do",
    "slow": "packets that Python decided about, in either direction",
    "slow_lost": "lost: too many of those at once",
    "icmp_too_big": "messages to this host about packets that are too big",
    "icmp_unknown_option": "messages to peers about options that are not known here",
    "tap_lost": "packets that a capture had no room for",
}
"""Every count of a loop, and what it says; drops by an engine are the engine's own (`Engine.drops`)."""


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """Settings of a loop.

    offloads: super-packets at the device and UDP GSO/GRO at the links, where the kernel has them.
    workers: queues of a TUN device, each with a thread of the native loop; a socket of a link has one too.
    """

    offloads: bool = True
    workers: int = 1


class Tapped(NamedTuple):
    """One packet as a loop saw it.

    time_ns: since the epoch.   side: inner on the device's, outer on the links'.   direction: out from this host.
    packet: from its IP header on.   reason: why it was dropped, None if it was not.
    """

    time_ns: int
    side: Literal["inner", "outer"]
    direction: Literal["out", "in"]
    packet: bytes
    reason: DropReason | None


class Loop(ABC):
    """Carries packets until it is stopped.

    engine, device, links: the caller's; it closes the latter two, after `stop`.
    All methods are called from one thread, the daemon's; a loop may have threads of its own, which touch no Python.
    Time is `time.monotonic_ns()`, for the engine too.
    """

    name: ClassVar[str]

    def __init__(
        self,
        engine: Carrier,
        device: Device,
        links: Sequence[Link],
        *,
        options: LoopOptions | None = None,
    ) -> None:
        self.engine, self.device, self.links = engine, device, tuple(links)
        self.options = options or LoopOptions()
        self.counted: Counter[str] = Counter()

    @abstractmethod
    def start(self) -> None:
        """Begin to carry.   The device is up and the engine has its SAs; both may change at any time later."""

    @abstractmethod
    def stop(self, drain_seconds: float) -> None:
        """Take nothing more from the device, deliver what still arrives for so long, and end.   Idempotent."""

    @abstractmethod
    def watch(self) -> Mapping[int, Callable[[], None]]:
        """Return the descriptors to wait for (readable) and what to call then; a call does a bounded piece of work."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Return all of COUNTS."""

    @abstractmethod
    def tap(self, octets: int) -> None:
        """Keep copies of the packets that pass, up to so many octets of them; 0: no more."""

    @abstractmethod
    def tapped(self) -> list[Tapped]:
        """Return the copies kept since the last call, and forget them."""

    def send(self, packet: bytes) -> None:
        """Send a packet of the unprotected side by the link that it belongs to.   packet: from its outer IP header."""
        link = self.link_for(packet)
        wrong = "link_unreachable" if link is None else link.send(packet)
        if wrong is None:
            self.counted["link_sent_packets"] += 1
            self.counted["link_sent_octets"] += len(packet)
        else:
            self.counted[wrong] += 1

    def deliver(self, packet: bytes) -> None:
        """Give this host a packet.   packet: from its IP header."""
        wrong = self.write(packet)
        if wrong is None:
            self.counted["device_written_packets"] += 1
            self.counted["device_written_octets"] += len(packet)
        else:
            self.counted[wrong] += 1

    def write(self, packet: bytes) -> str | None:
        """Write one packet to the device, plain; with a vnet header if it wants one.   See `Device.write`."""
        return self.device.write(packet)

    def link_for(self, packet: bytes) -> Link | None:
        """Return the link that a packet of the unprotected side leaves by, None if there is none.

        The first of its IP version and kind whose port (or IP protocol) and address are the packet's source, or any.
        """
        version = packet[0] >> 4
        protocol, source, at = (packet[9], packet[12:16], 20) if version == 4 else (packet[6], packet[8:24], 40)
        is_udp = protocol == 17
        port = (packet[at] << 8 | packet[at + 1]) if is_udp else protocol
        for link in self.links:
            if link.version == version and link.is_udp is is_udp and link.port == port:
                own = link.local.packed
                if own == source or not any(own) or not any(source):
                    return link
        return None

    def carry_out(self, packet: bytes, now: int) -> DropReason | None:
        """Do with a packet from the device what policy says; return why it was dropped, None if it was not.

        packet: from its IP header.   Cut into pieces, it counts as dropped if one of them was.
        """
        dropped = None
        for verdict in self.engine.outbound(packet, now):
            match verdict:
                case Delivered(protected):
                    self.send(protected)
                case Bypassed():
                    self.counted["bypassed"] += 1
                case Dropped(reason, mtu):
                    dropped = dropped or reason
                    if reason in (DropReason.OUT_TOO_BIG, DropReason.PSP_OUT_TOO_BIG):
                        self._answer_too_big(packet, mtu)
        return dropped

    def carry_in(self, packet: bytes, now: int) -> DropReason | None:
        """Do with a packet from a link what policy says; return why it was dropped, None if it was not.

        packet: from its outer IP header.
        """
        verdict = self.engine.inbound(packet, now)
        match verdict:
            case Delivered(inner):
                self.deliver(inner)
            case Bypassed():
                self.counted["bypassed"] += 1
            case Dropped(reason):
                return reason
        return None

    def _answer_too_big(self, packet: bytes, mtu: int) -> None:
        version = packet[0] >> 4
        # What comes from an address of this host's own is a martian to it: the packet's destination speaks.
        behind = packet[16:20] if version == 4 else packet[24:40]
        message = icmp.packet_too_big(packet, mtu, ip_address(behind))
        if message is not None:
            self.counted["icmp_too_big"] += 1
            self.deliver(message)


def now_ns() -> int:
    """Return the time that loops and engines of tunnels go by."""
    return time.monotonic_ns()
