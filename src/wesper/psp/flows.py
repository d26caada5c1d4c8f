"""The connections of a host as its packets see them: which association may carry what, and what becomes of a packet.

No I/O and no clock. The device opens every packet of a live device key, whoever made it; here it is asked whose
association that was. One peer's associations get into no other's connections, and into no other port of its own.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import Packets
from ..protocols.psp import Opened
from ..verdict import REASON_BY_CODE
from ..wire.numbers import TCP, UDP
from . import inner
from .device import Device
from .table import TransmitTable

FlowKind = Literal["datagram", "stream"]
_PROTOCOLS: Final[dict[FlowKind, int]] = {"datagram": UDP, "stream": TCP}


class FlowDrop(enum.Enum):
    """Why a host does not hand an authentic packet on, or does not send one: what is counted, and a sentence."""

    NO_CONNECTION = "no_connection", "the association belongs to no connection"
    WRONG_VERSION = "wrong_version", "not the version that the association was agreed for"
    WRONG_ADDRESS = "wrong_address", "the inner addresses are not those of the association's connection"
    WRONG_PROTOCOL = "wrong_protocol", "neither TCP nor UDP, or not what the connection carries"
    WRONG_PORT = "wrong_port", "the inner ports are not those of the association's connection"
    BAD_DATAGRAM = "bad_datagram", "the inner UDP length or checksum is wrong"
    QUEUE_FULL = "queue_full", "the process that the connection is of does not read fast enough"
    NOT_OURS = "not_ours", "a packet on the streams' interface that is of no stream"
    TOO_BIG = "too_big", "larger than the path takes"
    LINK_FULL = "link_full", "the sending socket is full"
    UNREACHABLE = "unreachable", "no route, or the peer's host said so"

    def __init__(self, count: str, sentence: str) -> None:
        self.count, self.sentence = count, sentence


@dataclass(eq=False, slots=True)
class Flow:
    """One connection.   Addresses: 4 or 16 octets.   row: of the transmit table.   spis: what the peer sends with.

    udp_port: where the peer takes PSP.   identity: of the peer.   most: octets of a datagram that fit the path.
    ended: both sides of a stream have closed it, or one has reset it.   made_at, heard_at: when, ns.
    number: counts up, in the order in which they were made.
    """

    kind: FlowKind
    local: bytes
    peer: bytes
    local_port: int
    peer_port: int
    version: int
    row: int
    udp_port: int
    identity: str = ""
    most: int = 0
    spis: set[int] = field(default_factory=set)
    made_at: int = 0
    heard_at: int = 0
    number: int = 0
    packets_in: int = 0
    packets_out: int = 0
    ended: bool = False
    _closed: int = 0  # bit 0: we have sent FIN, bit 1: the peer has
    _expects: int = 0  # the sequence number that our kernel takes next
    _sent: int = 0  # what it has sent
    _established: bool = False

    @property
    def ends(self) -> tuple[bytes, bytes, int, int]:
        """Addresses and ports, our own first."""
        return self.local, self.peer, self.local_port, self.peer_port

    def sees(self, packet: bytes, at: int, outgoing: bool) -> None:
        """Follow a stream's life by a segment that passes."""
        seen = inner.segment(packet, at)
        if outgoing:
            if not self._established or (seen.next - self._sent) & 0xFFFFFFFF < 1 << 31:
                self._sent = seen.next
            if seen.flags & inner.ACK:
                self._expects, self._established = seen.acknowledgment, True
        if seen.flags & inner.RST:
            self.ended = True
        elif seen.flags & inner.FIN:
            self._closed |= 1 if outgoing else 2
            self.ended = self.ended or self._closed == 3

    def reset(self) -> bytes:
        """Return the segment that tells our own kernel that a stream is over."""
        return inner.reset(self.peer, self.local, self.peer_port, self.local_port, self._expects, self._sent)


class Outgoing(NamedTuple):
    """A packet that is to leave.   inside: before, outside: after protection, both from the IP header on."""

    flow: Flow
    inside: bytes
    outside: bytes


class Flows:
    """All connections of a host.   Not for several threads.

    device: opens.   table: has a row for each connection to send with.   counts: packets dropped here, by name.
    """

    def __init__(self, device: Device, table: TransmitTable) -> None:
        self._device, self._table = device, table
        self._by_spi: dict[int, Flow] = {}
        self._by_ends: dict[tuple[FlowKind, tuple[bytes, bytes, int, int]], Flow] = {}
        self.counts: Counter[str] = Counter()
        self._made = 0

    def __len__(self) -> int:
        return len(self._by_ends)

    def __iter__(self) -> Iterator[Flow]:
        return iter(list(self._by_ends.values()))

    def newest(self, before: int | None = None) -> Iterator[Flow]:
        """Yield the connections, the newest first.   before: only those with smaller numbers.

        Nothing may be added or removed meanwhile.
        """
        for flow in reversed(self._by_ends.values()):
            if before is None or flow.number < before:
                yield flow

    def has(self, kind: FlowKind, ends: tuple[bytes, bytes, int, int]) -> bool:
        """Tell whether there is a connection between these addresses and ports."""
        return (kind, ends) in self._by_ends

    def add(self, flow: Flow) -> None:
        """Take a connection up."""
        self._made += 1
        flow.number = self._made
        self._by_ends[flow.kind, flow.ends] = flow

    def own(self, flow: Flow, spi: int) -> None:
        """Let the peer send with an association of our device on this connection."""
        flow.spis.add(spi)
        self._by_spi[spi] = flow

    def disown(self, spi: int) -> None:
        """Take what comes with an association no more."""
        flow = self._by_spi.pop(spi, None)
        if flow is not None:
            flow.spis.discard(spi)

    def forget_slot(self, slot: int) -> None:
        """Disown all associations of a device key that is gone: its SPIs will come again under the next one."""
        for spi in [each for each in self._by_spi if each >> 31 == slot]:
            self.disown(spi)

    def remove(self, flow: Flow) -> None:
        """Let go of a connection and what it owns; its row in the table is the caller's to remove."""
        if self._by_ends.get((flow.kind, flow.ends)) is flow:
            del self._by_ends[flow.kind, flow.ends]
        for spi in list(flow.spis):
            self.disown(spi)

    def count(self, drop: FlowDrop, packets: int = 1) -> None:
        """Count packets that are dropped."""
        self.counts[drop.count] += packets

    # Inward

    def received(self, packets: Sequence[bytes], now: int) -> list[tuple[Flow, bytes]]:
        """Open packets from the network, and return each one's connection with what it brings.

        That is a datagram's payload, or the whole IP packet of a segment. What is dropped on the way is counted, by
        the device or here.
        """
        if len(packets) == 1:
            opened = self._device.decapsulate(packets[0])
            if not isinstance(opened, Opened):
                return []
            found = self._deliver(opened.packet, opened.spi, opened.version, now)
            if isinstance(found, FlowDrop):
                self.count(found)
                return []
            return [found]
        batch = self._device.decapsulate_many(Packets.of(list(packets)))
        codes, spis, versions = batch.codes.tolist(), batch.spis.tolist(), batch.versions.tolist()
        out = []
        for place, code in enumerate(codes):
            if not code:
                found = self._deliver(batch.packets[place], spis[place], versions[place], now)
                if isinstance(found, FlowDrop):
                    self.count(found)
                else:
                    out.append(found)
        return out

    def _deliver(self, packet: bytes, spi: int, version: int, now: int) -> tuple[Flow, bytes] | FlowDrop:
        flow = self._by_spi.get(spi)
        if flow is None:
            return FlowDrop.NO_CONNECTION
        if version != flow.version:
            return FlowDrop.WRONG_VERSION
        ends = inner.ends(packet)
        if ends is None or ends.protocol != _PROTOCOLS[flow.kind]:
            return FlowDrop.WRONG_PROTOCOL
        if ends.source != flow.peer or ends.destination != flow.local:
            return FlowDrop.WRONG_ADDRESS
        if ends.source_port != flow.peer_port or ends.destination_port != flow.local_port:
            return FlowDrop.WRONG_PORT
        if flow.kind == "stream":
            flow.sees(packet, ends.at, outgoing=False)
            brought = packet
        else:
            payload = inner.datagram_payload(packet, ends)
            if payload is None:
                return FlowDrop.BAD_DATAGRAM
            brought = payload
        flow.heard_at = now
        flow.packets_in += 1
        return flow, brought

    # Outward

    def datagrams(self, flow: Flow, payloads: Sequence[bytes], now: int) -> list[Outgoing]:
        """Return the packets that carry datagrams on a connection."""
        packets = [inner.datagram(*flow.ends, payload) for payload in payloads]
        flow.packets_out += len(packets)
        return self._sealed([flow] * len(packets), flow.row, packets, now)

    def segments(self, packets: Iterable[bytes], now: int) -> list[Outgoing]:
        """Return the packets that carry what our kernel has sent into the streams' interface."""
        kept: list[bytes] = []
        flows: list[Flow] = []
        for packet in packets:
            ends = inner.ends(packet)
            if ends is None or ends.protocol != TCP:
                self.count(FlowDrop.NOT_OURS)
                continue
            key = (ends.source, ends.destination, ends.source_port, ends.destination_port)
            flow = self._by_ends.get(("stream", key))
            if flow is None:
                self.count(FlowDrop.NOT_OURS)
                continue
            flow.sees(packet, ends.at, outgoing=True)
            flow.heard_at = now
            flow.packets_out += 1
            kept.append(packet)
            flows.append(flow)
        return self._sealed(flows, np.array([flow.row for flow in flows], np.uint64), kept, now) if kept else []

    def _sealed(
        self, flows: Sequence[Flow], rows: NDArray[np.uint64] | int, packets: list[bytes], now: int
    ) -> list[Outgoing]:
        sent = self._table.encapsulate_many(rows, Packets.of(packets), now)
        out = []
        for flow, inside, code, outside in zip(flows, packets, sent.codes.tolist(), sent.packets, strict=True):
            if code:
                self.counts[f"out_{REASON_BY_CODE[code].verdict}"] += 1
            else:
                out.append(Outgoing(flow, inside, outside))
        return out
