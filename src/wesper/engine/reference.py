"""The reference engine: for reading, teaching and checking.

Its packet paths say, in the order of RFC 4303 §3.3 and §3.4, what the native engine does fast.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..crypto import block_encrypt
from ..errors import ConfigError
from ..protocols import Arrived, Opened, Outgoing, icmp, ip, modes, udp
from ..protocols.ecn import Alarm
from ..protocols.ip import Datagram, packed
from ..sa import SA, Direction, Fragmentation, Mode, Policy, Profile, SAState, SubSAState
from ..sa.selectors import find
from ..verdict import Delivered, Dropped, DropReason, Verdict
from ..wire.numbers import AGGFRAG, IPV4, NO_NEXT_HEADER, UDP
from .algorithms import ReferenceAlgorithms
from .association import Association, SubSA
from .batch import Packets, Results
from .demultiplexer import Carried, Demultiplexer
from .events import AUDITABLE, Event, EventKind
from .interface import MTU_AGE, SECOND, Engine, Options, split_keys

_OUTBOUND = 1 << 40  # ids: inbound the SPI, multicast ones from 2^32, outbound from 2^40
_MULTICAST = 1 << 32
_NO_SA = (1 << 64) - 1
_HALF_SPACE = 1 << 31  # of 32-bit sequence numbers: time for the next SA


class ReferenceEngine(Engine):
    """The readable engine, all Python."""

    name: ClassVar[str] = "reference"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.algorithms = ReferenceAlgorithms()
        self._sas: dict[int, Association] = {}
        # By SPI and, for multicast SAs, destination and source.
        self._inbound: dict[tuple[int, tuple[bytes, ...]], Association] = {}
        self._demultiplexer = Demultiplexer(self.options.udp_ports)
        self._serial = 0
        self._events: deque[Event] = deque()
        self._drops: Counter[DropReason] = Counter()
        self.lost_events = 0

    # SAs

    def install(self, sa: SA, now: int = 0) -> int:
        inbound = sa.direction is Direction.IN
        if inbound and _place(sa) in self._inbound:
            raise ConfigError(f"inbound SPI {sa.spi:#x} is taken", key="spi", expected="one that no installed SA has")
        if inbound and not sa.multicast:
            number = sa.spi
        else:
            number = (_MULTICAST if inbound else _OUTBOUND) + self._serial
            self._serial += 1
        association = Association(sa, number, now)
        self._sas[number] = association
        if inbound:
            self._inbound[_place(sa)] = association
            self._demultiplexer.expect(sa.profile, 1)
        return number

    def install_many(
        self, profile: Profile, direction: Direction, spis: NDArray[np.uint32], keys: NDArray[np.uint8], now: int = 0
    ) -> NDArray[np.uint64]:
        if spis.ndim != 1 or keys.ndim != 2 or len(spis) != len(keys):
            raise ConfigError("arrays that do not go together", key="keys", expected="one row a SPI")
        key, salt, auth = split_keys(profile, keys.shape[1])
        if direction is Direction.IN:
            numbers = spis.tolist()
            if len(set(numbers)) < len(numbers) or any((n, ()) in self._inbound for n in numbers):
                raise ConfigError("an inbound SPI is taken or given twice", key="spi", expected="each SPI once")
        rows = [row.tobytes() for row in keys]
        sas = [
            SA(profile, direction, int(spi), row[:key], row[key : key + salt], row[key + salt : key + salt + auth])
            for spi, row in zip(spis, rows, strict=True)
        ]
        return np.array([self.install(sa, now) for sa in sas], np.uint64)

    def remove(self, sa: int) -> None:
        association = self._association(sa)
        del self._sas[sa]
        spec = association.sa
        if spec.direction is Direction.IN:
            del self._inbound[_place(spec)]
            self._demultiplexer.expect(association.profile, -1)

    def state(self, sa: int) -> SAState:
        a = self._association(sa)
        return SAState(a.top, a.packets, a.octets, a.replays, a.failed, a.mtu)

    def sub_sa_state(self, sa: int, sub_sa: int) -> SubSAState:
        a = self._association(sa)
        found = a.sub_sas.get(sub_sa) if a.has_sub_sas or sub_sa else a.look(0)
        if found is None:
            raise self._no_such_sub_sa(sub_sa)
        return SubSAState(found.top, found.packets, found.octets)

    def find(self, spis: NDArray[np.uint32]) -> NDArray[np.uint64]:
        found = (self._inbound.get((int(spi), ())) for spi in spis)
        return np.array([_NO_SA if a is None else a.id for a in found], np.uint64)

    def infer(self, sa: int, low: int) -> int | None:
        return self._association(sa).infer(low)

    def inner_mtu(self, sa: int, now: int = 0) -> int:
        a = self._association(sa)
        outer = a.profile.outer
        version = 6 if outer is not None and outer.local.version == 6 else 4
        head = ip.IPV6_HEADER if version == 6 else ip.IPV4_HEADER
        inside = self._room(a, head, version, now)
        match a.profile.mode:
            case Mode.TUNNEL | Mode.IPTFS:
                return inside
            case Mode.BEET if a.profile.inner is not None:
                return inside + (ip.IPV6_HEADER if a.profile.inner.local.version == 6 else ip.IPV4_HEADER)
            case _:
                return inside + head

    def set_mtu(self, sa: int, mtu: int, now: int) -> None:
        a = self._association(sa)
        a.mtu, a.mtu_until = min(mtu, a.profile.mtu), now + MTU_AGE

    def _reserve(self, sa: int, last: int) -> bool:
        a = self._sas.get(sa)
        if a is None or a.sa.direction is not Direction.OUT:
            return False
        a.reserved = last
        return True

    def _close_window(self, sa: int) -> bool:
        a = self._sas.get(sa)
        if a is None or a.sa.direction is not Direction.IN:
            return False
        a.close()
        return True

    def _set_profile(self, sa: int, profile: Profile) -> None:
        a = self._association(sa)
        if a.sa.direction is Direction.IN:
            self._demultiplexer.expect(a.profile, -1)
            self._demultiplexer.expect(profile, 1)
        a.move(replace(a.sa, profile=profile))

    def _association(self, sa: int) -> Association:
        found = self._sas.get(sa)
        if found is None:
            raise self._no_such_sa(sa)
        return found

    def _profile(self, sa: int) -> Profile | None:
        found = self._sas.get(sa)
        return None if found is None else found.profile

    # Outbound: RFC 4303 §3.3

    def encapsulate(self, sa: int, packet: bytes, now: int, *, tfc: bytes = b"", mark: int = 0) -> Verdict:
        a = self._sas.get(sa)
        if a is None or a.sa.direction is not Direction.OUT:
            return self._drop(DropReason.OUT_NO_SA)
        if a.profile.mode is Mode.IPTFS:
            return self._protect(a, None, AGGFRAG, packet, tfc, mark, now)
        datagram = ip.parse(packet)
        if datagram is None:
            return self._drop(DropReason.OUT_BAD_PACKET)
        return self._protect(a, datagram, 0, b"", tfc, mark, now)

    def dummy(self, sa: int, payload: bytes, now: int) -> Verdict:
        a = self._sas.get(sa)
        if a is None or a.sa.direction is not Direction.OUT:
            return self._drop(DropReason.OUT_NO_SA)
        return self._protect(a, None, NO_NEXT_HEADER, payload, b"", 0, now)

    def _protect(
        self,
        a: Association,
        datagram: Datagram | None,
        next_header: int,
        octets: bytes,
        tfc: bytes,
        mark: int,
        now: int,
    ) -> Verdict:
        """Protect a packet and its TFC padding; or, without a packet, octets of this kind."""
        profile, protocol, second = a.profile, a.protocol, now // SECOND
        if self._is_expired(a, second, now):
            return self._drop(DropReason.OUT_EXPIRED)
        flow = a.flow(datagram, mark)
        sub_sa = a.look(flow if a.has_sub_sas else 0)
        sequence = sub_sa.sequence + 1
        identification = modes.outer_identification(sequence, a.sa.spi, flow if a.has_sub_sas else 0)
        if datagram is not None:
            enclosed = modes.enclose(profile.mode, datagram, profile.outer, profile.inner, identification)
            if isinstance(enclosed, DropReason):
                return self._drop(enclosed)
        elif profile.outer is None or (next_header == NO_NEXT_HEADER and not protocol.can_send_dummies(profile)):
            return self._drop(DropReason.OUT_MODE)
        else:
            enclosed = modes.enclose_octets(next_header, octets, profile.outer, identification)
        if tfc and (profile.mode is not Mode.TUNNEL or not protocol.takes_tfc):
            return self._drop(DropReason.OUT_MODE)
        payload = enclosed.payload + tfc

        version = enclosed.head[0] >> 4
        room = self._room(a, len(enclosed.head), version, now)
        may_cut = profile.fragmentation is Fragmentation.AFTER and datagram is not None and not datagram.dont_fragment
        if len(payload) > (self._payload_room(a, len(enclosed.head), version, 65535) if may_cut else room):
            inside = room if datagram is None else room + len(datagram.packet) - len(enclosed.payload)
            return self._drop(DropReason.OUT_TOO_BIG, inside)
        if profile.pad_to and datagram is not None:
            payload += bytes(max(min(profile.pad_to, room) - len(payload), 0))

        # RFC 4303 §3.3.3: never let the number cycle; OURS: not even where the peer does no anti-replay.
        if sequence > profile.last_sequence:
            return self._drop_out(a, DropReason.OUT_SEQUENCE_OVERFLOW, sub_sa, now)
        if sequence > a.reserved:
            return self._drop(DropReason.OUT_NOT_RESERVED)
        sub_sa = a.make(flow if a.has_sub_sas else 0)
        sub_sa.sequence = sequence
        out = Outgoing(
            a.sa.spi,
            sequence,
            flow,
            a.sa.iv if a.sa.iv is not None and a.cipher.iv_octets else self._iv(a, sequence),
            enclosed.next_header,
            payload,
            len(enclosed.payload),
            datagram,
            version,
            in_udp=profile.encapsulation is not None,
        )
        body = protocol.seal(profile, a.keys(protocol.key_info(profile, a.sa.spi, sequence, flow)), out)
        number = protocol.ip_protocol(profile)
        if profile.encapsulation is not None:
            port = protocol.source_port(profile, flow, profile.encapsulation.local_port)
            around = replace(profile.encapsulation, local_port=port)
            body, number = udp.encapsulate(around, *enclosed.addresses, protocol.marker() + body), UDP
        self._account(a, sub_sa, len(payload), second, now)
        return Delivered(enclosed.finish(number, body), a.id, sequence, flow)

    def _iv(self, a: Association, sequence: int) -> bytes:
        if a.cipher.iv_from_counter:
            return struct.pack(">Q", sequence)  # unique, also where ESN is off; the IV of RFC 8750 §4 is the same
        if a.cipher.iv_octets == 0:
            return b""
        # RFC 3602 §3: unpredictable; a counter under a key of its own is (NIST SP 800-38A appendix C).
        return block_encrypt(self.options.iv_key, struct.pack(">QQ", a.id, sequence))

    def _room(self, a: Association, head: int, version: int, now: int) -> int:
        """Return the octets of payload that the path's MTU leaves."""
        if a.mtu_until and now >= a.mtu_until:
            a.mtu, a.mtu_until = a.profile.mtu, 0
            self._tell(Event(EventKind.MTU_CHANGED, now, sa=a.id, mtu=a.mtu))
        return self._payload_room(a, head, version, a.mtu)

    def _payload_room(self, a: Association, head: int, version: int, mtu: int) -> int:
        in_udp = a.profile.encapsulation is not None
        around = head + (udp.HEADER + len(a.protocol.marker()) if in_udp else 0)
        return a.protocol.inner_mtu(a.profile, version, in_udp, mtu - around)

    def _drop_out(self, a: Association, reason: DropReason, sub_sa: SubSA, now: int) -> Dropped:
        outer = a.profile.outer
        if self.options.audit:
            ends = (packed(outer.local), packed(outer.remote)) if outer is not None else (b"", b"")
            self._tell(
                Event(
                    EventKind.AUDIT,
                    now,
                    sa=a.id,
                    reason=reason,
                    spi=a.sa.spi,
                    sequence=sub_sa.sequence & 0xFFFFFFFF,
                    source=ends[0],
                    destination=ends[1],
                )
            )
        return self._drop(reason)

    # Inbound: RFC 4303 §3.4

    def decapsulate(self, packet: bytes, now: int) -> Verdict:
        datagram = ip.parse(packet)
        if datagram is None:
            return self._drop(DropReason.BAD_IP)
        carried = self._demultiplexer.sort(datagram)
        if isinstance(carried, DropReason):
            return self._drop_in(carried, now, datagram)
        located = carried.protocol.locate(carried.body)
        if isinstance(located, DropReason):
            return self._drop_in(located, now, datagram)
        spi, low = located.spi, located.low or 0
        a = self._find(carried, spi, datagram)
        if a is None:
            return self._drop_in(DropReason.NO_SA, now, datagram, spi, low, located.flow)
        profile, protocol, second = a.profile, a.protocol, now // SECOND

        def drop(reason: DropReason) -> Dropped:
            return self._drop_in(reason, now, datagram, spi, low, located.flow, a)

        if (carried.ports is None) is not (profile.encapsulation is None):
            return drop(DropReason.ENCAP_MISMATCH)
        if self._is_expired(a, second, now):
            return drop(DropReason.EXPIRED)
        arrived = protocol.read(profile, carried.body, datagram.version, carried.ports is not None)
        if isinstance(arrived, DropReason):
            return drop(arrived)
        low = (arrived.number or 0) & 0xFFFFFFFF

        # §3.4.3: verify the window before, update it after the ICV.
        sequence, window = a.number(arrived), a.look(arrived.sub_sa).window
        if sequence is None or (window is not None and not window.check(sequence)):
            a.replays += 1
            return drop(DropReason.REPLAY)
        opened = self._open(a, arrived, sequence)
        if isinstance(opened, DropReason):
            a.failed += 1
            a.failures_in_a_row += 1
            resynchronised = self._resynchronise(a, arrived, low, second)
            if resynchronised is None:
                return drop(opened)
            sequence, opened = resynchronised
            a.failed -= 1
            self._tell(Event(EventKind.RESYNCHRONISED, now, sa=a.id, sequence=low))
        a.failures_in_a_row = 0
        sub_sa = a.make(arrived.sub_sa)
        advanced = sub_sa.accept(sequence)
        self._account(a, sub_sa, len(opened.payload), second, now)
        if sub_sa.window is not None and advanced and carried.ports is not None:
            self._follow_peer(a, arrived.sub_sa, (datagram.header.source, carried.ports[0]), now)

        if opened.tear_down:
            self._tell(Event(EventKind.TEAR_DOWN, now, sa=a.id, reason=opened.reason, session=arrived.flow))
        if opened.reason is DropReason.UNKNOWN_OPTION:
            self._tell_option(a, datagram, carried, arrived, now)
        if opened.reason is not None:
            return drop(opened.reason)
        if opened.next_header == NO_NEXT_HEADER:
            return drop(DropReason.DUMMY)
        inner, alarm = modes.release(
            profile.mode,
            datagram,
            datagram.upper_at,
            datagram.upper_link,
            opened.next_header,
            opened.payload,
            profile.outer,
            profile.inner,
        )
        if alarm is not Alarm.NONE:
            shown = opened.payload[1] if opened.next_header == IPV4 else opened.payload[1] >> 4
            self._tell(
                Event(EventKind.ECN_ALARM, now, sa=a.id, limit=alarm.value, inner=shown & 3, outer=datagram.header.ecn)
            )
        if isinstance(inner, DropReason):
            return drop(inner)
        # RFC 4301 §5.2 step 4: the inner packet has to be one that this SA is for.
        if profile.selectors:
            packet_inside = ip.parse(inner)
            if packet_inside is None:
                return drop(DropReason.BAD_INNER)
            flow = ip.flow(packet_inside)
            if not any(s.matches(flow, outbound=False) for s in profile.selectors):
                return drop(DropReason.SELECTOR_MISMATCH)
        return Delivered(inner, a.id, sequence, arrived.flow)

    def _find(self, carried: Carried, spi: int, datagram: Datagram) -> Association | None:
        """RFC 4303 §3.4.2: longest match first."""
        destination, source = datagram.header.destination, datagram.header.source
        for ends in ((destination, source), (destination,), ()):
            found = self._inbound.get((spi, ends))
            if found is not None:
                return found if found.protocol is carried.protocol else None
        return None

    def _open(self, a: Association, arrived: Arrived, sequence: int) -> Opened | DropReason:
        return a.protocol.open(a.profile, a.keys(arrived.key_info), arrived, sequence)

    def _resynchronise(self, a: Association, arrived: Arrived, low: int, second: int) -> tuple[int, Opened] | None:
        """RFC 4303 appendix A3: after many failures in a row, look for the high half further on."""
        options = self.options
        if (
            not (a.profile.esn and a.profile.resynchronise and a.profile.window)
            or a.protocol.whole_numbers
            or a.failures_in_a_row < options.resync_failures
            or a.resync_second == second
        ):
            return None
        a.resync_second = second
        high = a.top >> 32
        for step in range(1, options.resync_tries + 1):
            candidate = (high + step) << 32 | low
            if candidate >> 64:
                break
            opened = self._open(a, arrived, candidate)
            if not isinstance(opened, DropReason):
                return candidate, opened
        return None

    def _follow_peer(self, a: Association, number: int, at: tuple[bytes, int], now: int) -> None:
        """RFC 7296 §2.23: only the newest packet of a replay-protected SA says where the peer is."""
        sub_sa, around, outer = a.make(number), a.profile.encapsulation, a.profile.outer
        expected, sub_sa.peer = sub_sa.peer, at
        if expected is None and outer is not None and around is not None:
            # draft-ietf-ipsecme-eesp-03 §6: a Sub SA's own port is learnt from its first authentic packet.
            port = around.remote_port
            has_own_port = a.protocol.source_port(a.profile, number, port) != port
            expected = packed(outer.remote), at[1] if has_own_port else port
        if expected is not None and expected != at:
            self._tell(Event(EventKind.PEER_MOVED, now, sa=a.id, address=at[0], port=at[1], session=number))

    def _tell_option(self, a: Association, datagram: Datagram, carried: Carried, arrived: Arrived, now: int) -> None:
        """Tell of an option that asks for an ICMP message: 10, or 11 but for multicast (WESPv2 §2.2.2)."""
        option, header = arrived.option, datagram.header
        assert option is not None
        action = option.type >> 6
        if action == 2 or (action == 3 and not ip.is_multicast(header.destination)):
            pointer = carried.at + option.at
            self._tell(
                Event(
                    EventKind.UNKNOWN_OPTION,
                    now,
                    sa=a.id,
                    source=header.source,
                    destination=header.destination,
                    pointer=pointer,
                    packet=datagram.packet[: icmp.MOST_QUOTED],
                )
            )

    def _drop_in(
        self,
        reason: DropReason,
        now: int,
        datagram: Datagram,
        spi: int = 0,
        low: int = 0,
        session: int = 0,
        a: Association | None = None,
    ) -> Dropped:
        if self.options.audit and reason in AUDITABLE:
            header = datagram.header
            self._tell(
                Event(
                    EventKind.AUDIT,
                    now,
                    sa=None if a is None else a.id,
                    reason=reason,
                    spi=spi,
                    sequence=low,
                    session=session,
                    source=header.source,
                    destination=header.destination,
                    flow_label=getattr(header, "flow_label", 0),
                )
            )
        return self._drop(reason)

    # Lifetimes

    def _is_expired(self, a: Association, second: int, now: int) -> bool:
        if not a.expired:
            limit = a.limit(a.hard, second)
            if limit:
                self._expire(a, limit, now)
        return a.expired

    def _expire(self, a: Association, limit: str, now: int) -> None:
        a.expired = True
        self._tell(Event(EventKind.HARD_EXPIRED, now, sa=a.id, limit=limit))

    def _account(self, a: Association, sub_sa: SubSA, octets: int, second: int, now: int) -> None:
        a.packets += 1
        a.octets += octets
        sub_sa.packets += 1
        sub_sa.octets += octets
        a.used = second
        if not a.soft_told:
            limit = a.limit(a.soft, second)
            if not limit and not a.profile.esn and a.sa.direction is Direction.OUT and sub_sa.sequence >= _HALF_SPACE:
                limit = "sequence"
            if limit:
                self._soften(a, limit, now)
        limit = a.limit(a.hard, second)
        if limit:
            self._expire(a, limit, now)

    def _soften(self, a: Association, limit: str, now: int) -> None:
        a.soft_told = True
        self._tell(Event(EventKind.SOFT_EXPIRED, now, sa=a.id, limit=limit))

    def deadline(self) -> int | None:
        seconds = (a.next_second() for a in self._sas.values())
        first = min((s for s in seconds if s is not None), default=None)
        return None if first is None else first * SECOND

    def handle_timeout(self, now: int) -> None:
        second = now // SECOND
        for number in sorted(self._sas):
            a = self._sas[number]
            if not a.expired and not a.soft_told:
                limit = a.limit(a.soft, second)
                if limit:
                    self._soften(a, limit, now)
            if self._is_expired(a, second, now):
                self.remove(number)

    # Batches: the same, one by one

    def encapsulate_many(
        self, sas: NDArray[np.uint64] | int, packets: Packets, now: int, marks: NDArray[np.uint32] | int = 0
    ) -> Results:
        ids = sas.tolist() if isinstance(sas, np.ndarray) else [int(sas)] * len(packets)
        if len(ids) != len(packets):
            raise ConfigError(f"{len(ids)} SA ids for {len(packets)} packets", key="sas", expected="one a packet")
        named = marks.tolist() if isinstance(marks, np.ndarray) else [int(marks)] * len(packets)
        if len(named) != len(packets):
            raise ConfigError(f"{len(named)} marks for {len(packets)} packets", key="marks", expected="one a packet")
        return _results(
            [self.encapsulate(sa, packet, now, mark=mark) for sa, packet, mark in zip(ids, packets, named, strict=True)]
        )

    def decapsulate_many(self, packets: Packets, now: int) -> Results:
        return _results([self.decapsulate(packet, now) for packet in packets])

    # Policy, events, counters

    def set_policies(self, outbound: Sequence[Policy], inbound: Sequence[Policy] = ()) -> None:
        self._policies = (tuple(outbound), tuple(inbound))

    def _lookup_policy(self, packet: bytes, outbound: bool) -> tuple[int | None, int | None] | None:
        datagram = ip.parse(packet)
        if datagram is None:
            return None
        flow = ip.flow(datagram)
        found = find(self._policies[0 if outbound else 1], flow, outbound=outbound)
        return (None, None) if found is None else (found[0], found[1].sa_for(flow))

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def drops(self) -> dict[DropReason, int]:
        return dict(self._drops)

    def _count(self, reason: DropReason) -> None:
        self._drops[reason] += 1

    def _tell(self, event: Event) -> None:
        # Anybody can cause audits: half of the room stays free for events that somebody has to act on.
        room = (self.options.events + 1) // 2 if event.kind is EventKind.AUDIT else self.options.events
        if len(self._events) < room:
            self._events.append(event)
        else:
            self.lost_events += 1

    def _recent_outbound(self, spi: int, remote: bytes) -> list[tuple[int, int]]:
        return [
            (a.id, a.top)
            for a in self._sas.values()
            if a.sa.direction is Direction.OUT
            and a.packets
            and a.sa.spi == spi
            and (a.profile.outer is None or packed(a.profile.outer.remote) == remote)
        ]


def _place(sa: SA) -> tuple[int, tuple[bytes, ...]]:
    """Return where an inbound SA stands in the table that packets are looked up in."""
    return sa.spi, tuple(map(packed, sa.multicast))


def _results(verdicts: list[Verdict]) -> Results:
    nothing = Delivered(b"", 0, 0)
    out = [verdict if isinstance(verdict, Delivered) else nothing for verdict in verdicts]
    return Results(
        Packets.of([delivered.packet for delivered in out]),
        np.array([verdict.reason.code if isinstance(verdict, Dropped) else 0 for verdict in verdicts], np.uint8),
        np.array([delivered.sa for delivered in out], np.uint64),
        np.array([delivered.sequence for delivered in out], np.uint64),
        np.array([delivered.flow for delivered in out], np.uint64),
    )
