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

from .. import crypto
from ..crypto import block_encrypt
from ..errors import ConfigError
from ..protocols import PROTOCOLS, Opened, esp, ip, modes, udp
from ..protocols.ecn import Alarm
from ..protocols.ip import Datagram, packed
from ..sa import SA, Direction, Fragmentation, Mode, Policy, Profile, SAState
from ..sa.selectors import find
from ..verdict import Delivered, Dropped, DropReason, Verdict
from ..wire.numbers import IPV4, NO_NEXT_HEADER, UDP
from .association import Association
from .batch import Packets, Results
from .events import AUDITABLE, Event, EventKind
from .interface import MTU_AGE, SECOND, Algorithms, Engine, Options, split_keys

_OUTBOUND = 1 << 40  # ids: inbound the SPI, multicast ones from 2^32, outbound from 2^40
_MULTICAST = 1 << 32
_NO_SA = (1 << 64) - 1
_HALF_SPACE = 1 << 31  # of 32-bit sequence numbers: time for the next SA


class _ReferenceAlgorithms(Algorithms):
    def associated(self, suite: str, spi: int, sequence: int, esn: bool, iv: bytes) -> bytes:
        return esp.authenticated(crypto.suite(suite), spi, sequence, esn, iv)[0]

    def seal(
        self, suite: str, key: bytes, salt: bytes, auth_key: bytes, iv: bytes, associated: bytes, plaintext: bytes
    ) -> bytes:
        return crypto.transform(crypto.suite(suite), key, salt, auth_key).seal(iv, associated, plaintext)

    def open(
        self, suite: str, key: bytes, salt: bytes, auth_key: bytes, iv: bytes, associated: bytes, sealed: bytes
    ) -> bytes | None:
        try:
            return crypto.transform(crypto.suite(suite), key, salt, auth_key).open(iv, associated, sealed)
        except crypto.InvalidTag:
            return None

    def cbc(self, key: bytes, iv: bytes, data: bytes, *, decrypt: bool = False) -> bytes:
        return crypto.cbc(key, iv, data, decrypt=decrypt)

    def hmac(self, suite: str, auth_key: bytes, data: bytes) -> bytes:
        return crypto.hmac_tag(crypto.suite(suite), auth_key, data)


class ReferenceEngine(Engine):
    """The readable engine, all Python."""

    name: ClassVar[str] = "reference"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.algorithms = _ReferenceAlgorithms()
        self._sas: dict[int, Association] = {}
        # By protocol, SPI and, for multicast SAs, destination and source.
        self._inbound: dict[tuple[str, int, tuple[bytes, ...]], Association] = {}
        self._ports: Counter[int] = Counter(self.options.udp_ports)
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
            self._listen(sa.profile, 1)
        return number

    def install_many(
        self, profile: Profile, direction: Direction, spis: NDArray[np.uint32], keys: NDArray[np.uint8], now: int = 0
    ) -> NDArray[np.uint64]:
        if spis.ndim != 1 or keys.ndim != 2 or len(spis) != len(keys):
            raise ConfigError("arrays that do not go together", key="keys", expected="one row a SPI")
        key, salt, auth = split_keys(profile, keys.shape[1])
        if direction is Direction.IN:
            numbers = spis.tolist()
            if len(set(numbers)) < len(numbers) or any((profile.protocol, n, ()) in self._inbound for n in numbers):
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
            self._listen(association.profile, -1)

    def state(self, sa: int) -> SAState:
        a = self._association(sa)
        return SAState(a.top, a.packets, a.octets, a.replays, a.failed, a.mtu)

    def find(self, spis: NDArray[np.uint32]) -> NDArray[np.uint64]:
        found = (self._inbound.get((esp.PROTOCOL.name, int(spi), ())) for spi in spis)
        return np.array([_NO_SA if a is None else a.id for a in found], np.uint64)

    def infer(self, sa: int, low: int) -> int | None:
        return self._association(sa).infer(low)

    def inner_mtu(self, sa: int, now: int = 0) -> int:
        a = self._association(sa)
        outer = a.profile.outer
        head = ip.IPV6_HEADER if outer is not None and outer.local.version == 6 else ip.IPV4_HEADER
        inside = self._room(a, head, now)
        match a.profile.mode:
            case Mode.TUNNEL:
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
        if a.window is not None:
            a.window.close()
        return True

    def _set_profile(self, sa: int, profile: Profile) -> None:
        a = self._association(sa)
        if a.sa.direction is Direction.IN:
            self._listen(a.profile, -1)
            self._listen(profile, 1)
        a.sa, a.profile, a.peer = replace(a.sa, profile=profile), profile, None

    def _listen(self, profile: Profile, users: int) -> None:
        if profile.encapsulation is not None:
            self._ports[profile.encapsulation.local_port] += users

    def _association(self, sa: int) -> Association:
        found = self._sas.get(sa)
        if found is None:
            raise self._no_such_sa(sa)
        return found

    def _profile(self, sa: int) -> Profile | None:
        found = self._sas.get(sa)
        return None if found is None else found.profile

    # Outbound: RFC 4303 §3.3

    def encapsulate(self, sa: int, packet: bytes, now: int, *, tfc: bytes = b"") -> Verdict:
        a = self._sas.get(sa)
        if a is None or a.sa.direction is not Direction.OUT:
            return self._drop(DropReason.OUT_NO_SA)
        datagram = ip.parse(packet)
        if datagram is None:
            return self._drop(DropReason.OUT_BAD_PACKET)
        return self._protect(a, datagram, tfc, now)

    def dummy(self, sa: int, payload: bytes, now: int) -> Verdict:
        a = self._sas.get(sa)
        if a is None or a.sa.direction is not Direction.OUT:
            return self._drop(DropReason.OUT_NO_SA)
        return self._protect(a, None, payload, now)

    def _protect(self, a: Association, datagram: Datagram | None, more: bytes, now: int) -> Verdict:
        """Protect a packet and its TFC padding, or, without a packet, a dummy.   more: the padding, or its payload."""
        profile, second = a.profile, now // SECOND
        if self._is_expired(a, second, now):
            return self._drop(DropReason.OUT_EXPIRED)
        sequence = a.sequence + 1
        identification = modes.outer_identification(sequence, a.sa.spi)
        enclosed = modes.enclose(profile.mode, datagram, profile.outer, profile.inner, identification)
        if isinstance(enclosed, DropReason):
            return self._drop(enclosed)
        if more and profile.mode is not Mode.TUNNEL:
            return self._drop(DropReason.OUT_MODE)
        payload = enclosed.payload + more

        room = self._room(a, len(enclosed.head), now)
        may_cut = profile.fragmentation is Fragmentation.AFTER and datagram is not None and not datagram.dont_fragment
        if len(payload) > (self._most(a, len(enclosed.head)) if may_cut else room):
            inside = room if datagram is None else room + len(datagram.packet) - len(enclosed.payload)
            return self._drop(DropReason.OUT_TOO_BIG, inside)
        if profile.pad_to and datagram is not None:
            payload += bytes(max(min(profile.pad_to, room) - len(payload), 0))

        # RFC 4303 §3.3.3: never let the number cycle; OURS: not even where the peer does no anti-replay.
        if sequence > profile.last_sequence:
            return self._drop_out(a, DropReason.OUT_SEQUENCE_OVERFLOW, now)
        if sequence > a.reserved:
            return self._drop(DropReason.OUT_NOT_RESERVED)
        a.sequence = sequence
        iv = a.sa.iv if a.sa.iv is not None and a.cipher.iv_octets else self._iv(a, sequence)
        body = a.protocol.encapsulate(
            a.cipher, a.keys, a.sa.spi, sequence, profile.esn, iv, enclosed.next_header, payload
        )
        protocol = a.protocol.ip_protocol
        if profile.encapsulation is not None:
            body, protocol = udp.encapsulate(profile.encapsulation, *enclosed.addresses, body), UDP
        self._account(a, len(payload), second, now)
        return Delivered(enclosed.finish(protocol, body), a.id, sequence)

    def _iv(self, a: Association, sequence: int) -> bytes:
        if a.cipher.iv_from_counter:
            return struct.pack(">Q", sequence)  # unique, also where ESN is off; the IV of RFC 8750 §4 is the same
        if a.cipher.iv_octets == 0:
            return b""
        # RFC 3602 §3: unpredictable; a counter under a key of its own is (NIST SP 800-38A appendix C).
        return block_encrypt(self.options.iv_key, struct.pack(">QQ", a.id, sequence))

    def _room(self, a: Association, head: int, now: int) -> int:
        """Return the octets of payload that the path's MTU leaves."""
        if a.mtu_until and now >= a.mtu_until:
            a.mtu, a.mtu_until = a.profile.mtu, 0
            self._tell(Event(EventKind.MTU_CHANGED, now, sa=a.id, mtu=a.mtu))
        return self._payload_room(a, head, a.mtu)

    def _most(self, a: Association, head: int) -> int:
        """Return the octets of payload that an IP packet can hold."""
        return self._payload_room(a, head, 65535)

    def _payload_room(self, a: Association, head: int, mtu: int) -> int:
        around = head + (udp.HEADER if a.profile.encapsulation is not None else 0)
        return a.protocol.inner_mtu(a.cipher, mtu - around)

    def _drop_out(self, a: Association, reason: DropReason, now: int) -> Dropped:
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
                    sequence=a.sequence & 0xFFFFFFFF,
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
        located = self._locate(datagram)
        if isinstance(located, DropReason):
            return self._drop_in(located, now, datagram)
        protocol_name, body, spi, low, ports = located
        a = self._find(protocol_name, spi, datagram)
        if a is None:
            return self._drop_in(DropReason.NO_SA, now, datagram, spi, low)
        profile, second = a.profile, now // SECOND

        def drop(reason: DropReason) -> Dropped:
            return self._drop_in(reason, now, datagram, spi, low, a)

        if (ports is None) is not (profile.encapsulation is None):
            return drop(DropReason.ENCAP_MISMATCH)
        if self._is_expired(a, second, now):
            return drop(DropReason.EXPIRED)
        if not a.protocol.fits(a.cipher, body):
            return drop(DropReason.TRUNCATED)

        # §3.4.3: verify the window before, update it after the ICV.
        sequence = a.infer(low)
        if sequence is None or (a.window is not None and not a.window.check(sequence)):
            a.replays += 1
            return drop(DropReason.REPLAY)
        opened = self._open(a, body, sequence)
        if isinstance(opened, DropReason):
            a.failed += 1
            a.failures_in_a_row += 1
            resynchronised = self._resynchronise(a, body, low, second)
            if resynchronised is None:
                return drop(opened)
            sequence, opened = resynchronised
            a.failed -= 1
            self._tell(Event(EventKind.RESYNCHRONISED, now, sa=a.id, sequence=low))
        a.failures_in_a_row = 0
        advanced = a.window is None or sequence > a.window.top
        if a.window is None:
            a.sequence = max(a.sequence, sequence)
        else:
            a.window.accept(sequence)
        self._account(a, len(opened.payload), second, now)
        if a.window is not None and advanced and ports is not None:
            self._follow_peer(a, datagram, ports[0], now)

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
            arrived = ip.parse(inner)
            if arrived is None:
                return drop(DropReason.BAD_INNER)
            flow = ip.flow(arrived)
            if not any(s.matches(flow, outbound=False) for s in profile.selectors):
                return drop(DropReason.SELECTOR_MISMATCH)
        return Delivered(inner, a.id, sequence)

    def _locate(self, datagram: Datagram) -> tuple[str, bytes, int, int, tuple[int, int] | None] | DropReason:
        """Find the protocol: its name, octets, SPI, low sequence half, and UDP ports if it came in UDP."""
        body = datagram.packet[datagram.upper_at :]
        ports = None
        if datagram.upper == UDP:
            if datagram.offset == 0:
                ports = udp.ports(body)
                if ports is None or not self._ports[ports[1]]:
                    return DropReason.NOT_FOR_US
            if datagram.fragment:
                return DropReason.FRAGMENT
            content = udp.content(body)
            if isinstance(content, DropReason):
                return content
            body = content
            protocol = esp.PROTOCOL
        else:
            by_number = next((p for p in PROTOCOLS.values() if p.ip_protocol == datagram.upper), None)
            if by_number is None:
                return DropReason.NOT_FOR_US
            protocol = by_number
            if datagram.fragment:
                return DropReason.FRAGMENT
        head = protocol.locate(body)
        if isinstance(head, DropReason):
            return head
        return protocol.name, body, *head, ports

    def _find(self, protocol: str, spi: int, datagram: Datagram) -> Association | None:
        """RFC 4303 §3.4.2: longest match first."""
        destination, source = datagram.header.destination, datagram.header.source
        for ends in ((destination, source), (destination,), ()):
            found = self._inbound.get((protocol, spi, ends))
            if found is not None:
                return found
        return None

    def _open(self, a: Association, body: bytes, sequence: int) -> Opened | DropReason:
        return a.protocol.decapsulate(a.cipher, a.keys, body, sequence, a.profile.esn, a.profile.check_padding)

    def _resynchronise(self, a: Association, body: bytes, low: int, second: int) -> tuple[int, Opened] | None:
        """RFC 4303 appendix A3: after many failures in a row, look for the high half further on."""
        options = self.options
        if (
            not (a.profile.esn and a.profile.resynchronise and a.window is not None)
            or a.failures_in_a_row < options.resync_failures
            or a.resync_second == second
        ):
            return None
        a.resync_second = second
        high = a.window.top >> 32
        for step in range(1, options.resync_tries + 1):
            candidate = (high + step) << 32 | low
            if candidate >> 64:
                break
            opened = self._open(a, body, candidate)
            if not isinstance(opened, DropReason):
                return candidate, opened
        return None

    def _follow_peer(self, a: Association, datagram: Datagram, port: int, now: int) -> None:
        """RFC 7296 §2.23: only the newest packet of a replay-protected SA says where the peer is."""
        at = (datagram.header.source, port)
        expected = a.peer
        if expected is None and a.profile.outer is not None and a.profile.encapsulation is not None:
            expected = (packed(a.profile.outer.remote), a.profile.encapsulation.remote_port)
        a.peer = at
        if expected is not None and expected != at:
            self._tell(Event(EventKind.PEER_MOVED, now, sa=a.id, address=at[0], port=at[1]))

    def _drop_in(
        self,
        reason: DropReason,
        now: int,
        datagram: Datagram,
        spi: int = 0,
        low: int = 0,
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

    def _account(self, a: Association, octets: int, second: int, now: int) -> None:
        a.packets += 1
        a.octets += octets
        a.used = second
        if not a.soft_told:
            limit = a.limit(a.soft, second)
            if not limit and not a.profile.esn and a.sa.direction is Direction.OUT and a.sequence >= _HALF_SPACE:
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

    def encapsulate_many(self, sas: NDArray[np.uint64] | int, packets: Packets, now: int) -> Results:
        ids = sas.tolist() if isinstance(sas, np.ndarray) else [int(sas)] * len(packets)
        if len(ids) != len(packets):
            raise ConfigError(f"{len(ids)} SA ids for {len(packets)} packets", key="sas", expected="one a packet")
        return _results([self.encapsulate(sa, packet, now) for sa, packet in zip(ids, packets, strict=True)])

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
            (a.id, a.sequence)
            for a in self._sas.values()
            if a.sa.direction is Direction.OUT
            and a.packets
            and a.sa.spi == spi
            and (a.profile.outer is None or packed(a.profile.outer.remote) == remote)
        ]


def _place(sa: SA) -> tuple[str, int, tuple[bytes, ...]]:
    """Return where an inbound SA stands in the table that packets are looked up in."""
    return sa.profile.protocol, sa.spi, tuple(map(packed, sa.multicast))


def _results(verdicts: list[Verdict]) -> Results:
    nothing = Delivered(b"", 0, 0)
    out = [verdict if isinstance(verdict, Delivered) else nothing for verdict in verdicts]
    return Results(
        Packets.of([delivered.packet for delivered in out]),
        np.array([verdict.reason.code if isinstance(verdict, Dropped) else 0 for verdict in verdicts], np.uint8),
        np.array([delivered.sa for delivered in out], np.uint64),
        np.array([delivered.sequence for delivered in out], np.uint64),
    )
