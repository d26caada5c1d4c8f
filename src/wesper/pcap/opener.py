"""Packets opened with the SAs of a key file, whatever the file leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..engine import Engine, Options, Packets, open_engine
from ..errors import ConfigError
from ..keying import Encapsulated, StaticSA
from ..protocols import PROTOCOLS, WESP_VERSIONS, ip, udp
from ..protocols.ip import IPAddress
from ..sa import Mode, SAState
from ..verdict import REASON_BY_CODE, DropReason
from ..wire.numbers import DESTINATION_OPTIONS, ESP, FRAGMENT, HOP_BY_HOP, ROUTING, UDP, WESP
from ..wire.udp import IPSEC_NAT_T_PORT
from .opened import Opened

MAX_FOUND = 4096
"""SAs with an SPI that the file leaves open and packets have shown; the oldest goes first."""

HALVES = (0, 1, -1)
"""Where the first packet's high half may be, from the one that the key file says on: the capture need not begin where
the file does.
"""

_WESPS = frozenset(protocol.name for protocol in WESP_VERSIONS.values())
_EXTENSIONS = frozenset((HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS))
_WITH_FLOWS = frozenset(("wespv2", "eesp"))
_TRIES = 6
_MAX_CHANGES = 64
_WORTH_A_LOOK = frozenset(
    reason.code for reason in (DropReason.NO_SA, DropReason.ENCAP_MISMATCH, DropReason.BAD_INNER, DropReason.AUTH)
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A packet's place in the world.   flow: as it is shown, None: it is not.   ports: of the UDP around it."""

    protocol: str
    spi: int
    low: int
    flow: int | None
    source: IPAddress
    destination: IPAddress
    ports: tuple[int, int] | None


@dataclass(slots=True)
class _Installed:
    """An SA in the engine.   key: what finds it here.   changes: how often it was put in anew."""

    key: tuple[object, ...]
    sa: StaticSA
    spi: int
    id: int
    mode: Mode
    changes: int = 0


class Opener:
    """Opens packets in batches.

    An SA goes into the engine when its first packet comes: that packet tells what the file leaves open (SPI, addresses,
    UDP, mode) and where the low half of the sequence number stands. Replayed packets are opened too, unless
    anti_replay.
    """

    def __init__(self, sas: Sequence[StaticSA], engine: str | None = None, *, anti_replay: bool = False) -> None:
        ports = frozenset({IPSEC_NAT_T_PORT}.union(*(sa.udp_ports for sa in sas)))
        self.engine: Engine = open_engine(engine, Options(udp_ports=ports, events=1))
        self._ports, self._anti_replay = set(ports), anti_replay
        # By number in an IP header; WESP's is told by its version.
        self._numbers = {ESP: "esp"} | {sa.ip_protocol: sa.protocol for sa in sas}
        self._protocols = {sa.protocol for sa in sas}
        self._by_spi: dict[int, list[StaticSA]] = {}
        self._open_spi = [sa for sa in sas if sa.spi is None]
        for sa in sas:
            if sa.spi is not None:
                self._by_spi.setdefault(sa.spi, []).append(sa)
        self._installed: dict[tuple[object, ...], _Installed] = {}
        self._by_id: dict[int, _Installed] = {}
        self._found: dict[tuple[object, ...], _Installed] = {}

    def open(self, packets: Sequence[bytes]) -> list[Opened]:
        """Open packets, in order.   packets: from their IP headers, reassembled."""
        done: list[Opened] = [Opened(DropReason.NOT_FOR_US)] * len(packets)
        todo = list(range(len(packets)))
        for left in range(_TRIES, -1, -1):
            again = []
            results = self.engine.decapsulate_many(Packets.of(packets[place] for place in todo), 0)
            codes, ids, numbers = results.codes.tolist(), results.sas.tolist(), results.sequences.tolist()
            changed: set[tuple[object, ...]] = set()
            for index, (place, code) in enumerate(zip(todo, codes, strict=True)):
                if code == 0:
                    by = self._by_id[ids[index]]
                    flow = _flow(by.sa.protocol, packets[place]) if by.sa.protocol in _WITH_FLOWS else ""
                    done[place] = Opened(None, results.packets[index], by.sa, by.spi, numbers[index], flow=flow)
                    continue
                done[place] = Opened(self._reason(packets[place], REASON_BY_CODE[code]))
                worth = code in _WORTH_A_LOOK or (code == 1 and self.concerns(packets[place]))
                if left and worth and self._learn(packets[place], REASON_BY_CODE[code], changed):
                    again.append(place)
            if not again:
                break
            todo = again
        return done

    def find(self, packet: bytes) -> tuple[StaticSA, SAState | None] | None:
        """Return the SA that a packet names, and what it has lived through if it has opened any, None if there is none.

        packet: from its IP header.   Of an SA with Sub SAs it is the packet's that tells its numbers.
        """
        seen = self._look(packet)
        if not isinstance(seen, _Seen):
            return None
        for key in ((seen.protocol, seen.spi), (seen.protocol, seen.spi, seen.source, seen.destination)):
            if key in self._installed:
                there = self._installed[key]
                return there.sa, self._state(there, seen.flow or 0)
        fitting = (sa for sa in self._by_spi.get(seen.spi, []) + self._open_spi if sa.protocol == seen.protocol)
        found = next((sa for sa in fitting if sa.carries(seen.spi, seen.source, seen.destination)), None)
        return None if found is None else (found, None)

    def _state(self, there: _Installed, flow: int) -> SAState | None:
        state, terms = self.engine.state(there.id), there.sa.terms
        if not terms.ways.has_sub_sas(terms):
            return state
        try:
            sub_sa = self.engine.sub_sa_state(there.id, flow)
        except ConfigError:  # it begins with its first packet
            return None
        return replace(state, sequence=sub_sa.sequence, packets=sub_sa.packets, octets=sub_sa.octets)

    def concerns(self, packet: bytes) -> bool:
        """Whether a packet, which need not be whole, says that it is of a protocol of ours."""
        protocol, _ = _upper(packet)
        return protocol in self._numbers or self._from_our_port(packet)

    def _from_our_port(self, packet: bytes) -> bool:
        """Whether a UDP packet comes from a port of ours: behind a NAT the other port is any."""
        protocol, at = _upper(packet)
        return protocol == UDP and at + 2 <= len(packet) and (packet[at] << 8 | packet[at + 1]) in self._ports

    def _look(self, packet: bytes) -> _Seen | DropReason | None:
        """Return what a packet shows, or why it shows nothing; None: it is of no protocol of the file's."""
        datagram = ip.parse(packet)
        if datagram is None or datagram.fragment:
            return None
        body, ports = datagram.packet[datagram.upper_at :], None
        if datagram.upper == UDP:
            ports = udp.ports(body)
            if ports is None or self._ports.isdisjoint(ports):
                return None
            carried = udp.carried(body)
            if isinstance(carried, DropReason):
                return None
            marker, body = carried
            unmarked = "eesp" if "eesp" in self._protocols and body[0] & 0x80 else "esp"
            name = _wesp(body) if marker else unmarked
        else:
            name = _wesp(body) if datagram.upper == WESP else self._numbers.get(datagram.upper, "")
        if name not in self._protocols:
            is_wesp = name in _WESPS or (not name and datagram.upper in (UDP, WESP))
            return DropReason.BAD_VERSION if is_wesp and self._protocols & _WESPS else None
        located = PROTOCOLS[name].locate(body)
        if isinstance(located, DropReason):
            return located
        ends = ip.address(datagram.header.source), ip.address(datagram.header.destination)
        return _Seen(name, located.spi, located.low or 0, PROTOCOLS[name].shown_flow(body), *ends, ports)

    def _reason(self, packet: bytes, reason: DropReason) -> DropReason:
        """Return why a packet was dropped; its protocol may have had no SA in the engine yet that would expect it."""
        if reason not in (DropReason.NOT_FOR_US, DropReason.NO_SA):
            return reason
        seen = self._look(packet)
        if seen is None:
            return reason
        return seen if isinstance(seen, DropReason) else DropReason.NO_SA

    def _learn(self, packet: bytes, reason: DropReason, changed: set[tuple[object, ...]]) -> bool:
        """Put in, or put right, the SA that this packet shows.   Returns whether another try is worth it.

        changed: SAs put right in this round already; the packets after the first just try again.
        """
        seen = self._look(packet)
        if not isinstance(seen, _Seen):
            return False
        candidates = self._by_spi.get(seen.spi, []) + self._open_spi
        several = len(candidates) > 1
        key = (seen.protocol, seen.spi, seen.source, seen.destination) if several else (seen.protocol, seen.spi)
        if key in changed:
            return True
        there = self._installed.get(key)
        mode = Mode.TUNNEL
        if there is None:
            fitting = (s for s in candidates if s.protocol == seen.protocol)
            first = next((s for s in fitting if s.carries(seen.spi, seen.source, seen.destination)), None)
            if first is None:
                return False
            sa = first
        else:
            sa, mode = there.sa, there.mode
            if there.changes >= _MAX_CHANGES or not self._may_change(there, reason):
                return False
            if reason is DropReason.BAD_INNER:
                mode = Mode.TRANSPORT
        if not self._put(key, there, sa, seen, mode, several):
            return False
        changed.add(key)
        return True

    def _may_change(self, there: _Installed, reason: DropReason) -> bool:
        """Whether the file leaves open what made an SA drop a packet."""
        if reason is DropReason.BAD_INNER:
            return there.sa.mode is None and there.mode is Mode.TUNNEL
        if reason is DropReason.AUTH:
            half_is_sent = PROTOCOLS[there.sa.protocol].whole_numbers
            return there.sa.esn and not half_is_sent and not self.engine.state(there.id).packets
        return reason is DropReason.ENCAP_MISMATCH and there.sa.encapsulation is Encapsulated.AS_SEEN

    def _put(
        self, key: tuple[object, ...], there: _Installed | None, sa: StaticSA, seen: _Seen, mode: Mode, several: bool
    ) -> bool:
        changes = 0 if there is None else there.changes + 1
        so_far = sa
        if there is not None and self.engine.state(there.id).packets:
            so_far = replace(sa, sequence=self.engine.state(there.id).sequence)
        elif sa.esn and (step := HALVES[changes % len(HALVES)]):
            so_far = replace(sa, sequence=max((sa.sequence >> 32) + step, 0) << 32)
        try:
            spec = so_far.receiver(
                seen.spi,
                seen.source,
                seen.destination,
                seen.ports,
                seen.low,
                mode=mode,
                anti_replay=self._anti_replay,
                multicast=several,
            )
        except ConfigError:
            return False  # an SPI that no SA may have (RFC 4303 §2.1)
        if there is not None:
            self._remove(there)
        new = _Installed(key, sa, seen.spi, self.engine.install(spec), mode, changes)
        self._installed[key] = self._by_id[new.id] = new
        if seen.ports is not None:
            self._ports.add(seen.ports[1])
        if sa.spi is None:
            self._found[key] = new
            if len(self._found) > MAX_FOUND:
                self._remove(next(iter(self._found.values())))
        return True

    def _remove(self, there: _Installed) -> None:
        self.engine.remove(there.id)
        self._found.pop(there.key, None)
        del self._installed[there.key], self._by_id[there.id]


def _flow(protocol: str, packet: bytes) -> str:
    """Return how an authentic packet names its flow, for people."""
    upper, at = _upper(packet)
    ways = PROTOCOLS[protocol]
    flow = ways.shown_flow(packet[at + (udp.HEADER + len(ways.marker()) if upper == UDP else 0) :])
    if flow is None:
        return ""
    return f"Session ID {flow}" if protocol == "eesp" else f"flow identifier {flow:#x}"


def _wesp(body: bytes) -> str:
    """Return which WESP a packet is, "" if none that is known.   body: from its first octet."""
    named = WESP_VERSIONS.get(body[3] >> 6) if len(body) > 3 else None
    return "" if named is None else named.name


def _upper(packet: bytes) -> tuple[int, int]:
    """Return protocol and place of what follows the IP headers; -1 if too short.

    packet: need not be whole, but extension headers are not looked at then.
    """
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        return packet[9], 4 * (packet[0] & 15)
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        datagram = ip.parse(packet) if packet[6] in _EXTENSIONS else None
        return (packet[6], 40) if datagram is None else (datagram.upper, datagram.upper_at)
    return -1, 0
