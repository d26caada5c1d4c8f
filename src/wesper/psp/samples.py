"""Sampled packets: what a receiver notes of a packet with the S bit, the field's active probe.

A record says when and by which way a packet came, what stood in its header, and how long it was under way, where the
sender's IVs are a clock that this host's agrees with. Records lie in a ring: the newest stay.
Source: PSP Architecture Specification, "PSP Header Version 0", S and D; docs/psp.md.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from ..protocols import ip
from ..wire.udp import UDP
from .clock import Clock, open_clock

ROOM: Final = 1024
PLAUSIBLE_NS: Final = 60_000_000_000
"""A difference beyond it is no time under way: the sender's IVs are no clock, or the clocks disagree."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled packet.

    time_ns: since the epoch.   source, destination, source_port, destination_port: of the outer headers: the path.
    hop_limit: what is left of it.   octets: of the whole packet.   spi, iv, version, cookie: of its PSP header.
    dropped: the sender wanted it thrown away.   latency_ns: from its IV, None where that is no time.
    """

    time_ns: int
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    source_port: int
    destination_port: int
    hop_limit: int
    octets: int
    spi: int
    iv: int
    version: int
    cookie: int | None
    dropped: bool
    latency_ns: int | None

    def as_json(self) -> dict[str, Any]:
        """Return it with stable names."""
        return {
            "time_ns": self.time_ns,
            "source": str(self.source),
            "destination": str(self.destination),
            "source_port": self.source_port,
            "destination_port": self.destination_port,
            "hop_limit": self.hop_limit,
            "octets": self.octets,
            "spi": self.spi,
            "iv": self.iv,
            "version": self.version,
            "cookie": None if self.cookie is None else f"{self.cookie:016x}",
            "dropped": self.dropped,
            "latency_ns": self.latency_ns,
        }


class Samples:
    """The newest records.   Calls from several threads are safe.

    room: how many are kept.   clock: this host's, to compare IVs with; None: the one that IVs are made of here.
    wall: nanoseconds since the epoch.
    """

    def __init__(self, room: int = ROOM, *, clock: Clock | None = None, wall: Callable[[], int] = time.time_ns) -> None:
        self._ring: deque[Sample] = deque(maxlen=room)
        self._clock, self._wall = clock, wall
        self._lock = threading.Lock()
        self.seen = 0
        """All that there were, those too that newer ones have pushed out."""

    def note(self, packet: bytes, spi: int, iv: int, version: int, cookie: int | None, *, dropped: bool) -> None:
        """Note an authentic packet.   packet: from the outer IP header."""
        datagram = ip.parse(packet)
        if datagram is None:
            return  # no packet that an engine has opened
        if self._clock is None:
            self._clock = open_clock()
        try:
            late = self._clock.now() - iv
        except OSError:
            late = PLAUSIBLE_NS
        header, ports = datagram.header, UDP.parse(packet, datagram.upper_at)
        sample = Sample(
            self._wall(),
            ip_address(header.source),
            ip_address(header.destination),
            ports.source_port,
            ports.destination_port,
            header.hop_limit if datagram.version == 6 else header.ttl,  # type: ignore[union-attr]
            len(datagram.packet),
            spi,
            iv,
            version,
            cookie,
            dropped,
            late if abs(late) < PLAUSIBLE_NS else None,
        )
        with self._lock:
            self.seen += 1
            self._ring.append(sample)

    def newest(self, count: int | None = None) -> list[Sample]:
        """Return records, the newest last.   count: so many of them."""
        with self._lock:
            kept = list(self._ring)
        return kept if count is None else kept[max(len(kept) - count, 0) :]

    def as_json(self, count: int = 100) -> dict[str, Any]:
        """Return what `wesper status --json` shows."""
        return {"seen": self.seen, "newest": [sample.as_json() for sample in self.newest(count)]}
