"""The reference gateway: for reading. Associations in dictionaries, in front of an engine of PSP."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, NamedTuple

from ..engine.events import Event, EventKind
from ..engine.interface import MTU_AGE, SECOND
from ..protocols import ip
from ..protocols.ip import IPAddress
from ..protocols.modes import Mode
from ..protocols.psp import FIXED, UDP_HEADER, Profile, payload_octets
from ..sa import Direction, Policy, SAState
from ..sa.selectors import find
from ..verdict import Delivered, Dropped, DropReason, Verdict
from ..wire.numbers import IPV4, IPV6
from ..wire.psp import ICV
from .gateway import EVENTS, OUTBOUND_IDS, Gateway, GatewayProfile, GatewaySA, no_association, other_key, taken
from .guard import Replay, Watched
from .interface import Engine

_AUTHENTIC: Final = frozenset(
    (DropReason.PSP_SAMPLED, DropReason.PSP_EMPTY, DropReason.PSP_BAD_INNER, DropReason.PSP_ECN_DROP)
)
"""Drops of packets that have proved their key."""


@dataclass(slots=True)
class _Row:
    """An association at work.

    mtu_until: when what was learnt is forgotten, ns; None: nothing was.   guard: its replay rule; None: none.
    """

    id: int
    sa: GatewaySA
    look: Profile
    iv: int
    installed: int
    used: int
    last: int
    mtu: int
    guard: Watched | None = None
    mtu_until: int | None = None
    packets: int = 0
    octets: int = 0
    failed: int = 0
    soft_told: bool = False

    def reached(self, now: int, *, hard: bool) -> str:
        """Return the name of the limit that is reached, "" for none."""
        limits = self.sa.profile.hard if hard else self.sa.profile.soft
        second = now // SECOND
        return limits.reached(second - self.installed, self.octets, self.packets, second - self.used)


class ReferenceGateway(Gateway):
    """Not for several threads.

    engine: has the device keys that inbound associations are opened with, and counts for this gateway alone.
    """

    name: ClassVar[str] = "reference"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._lost_events = 0
        self._out: dict[int, _Row] = {}
        self._in: dict[int, _Row] = {}
        self._next_id = OUTBOUND_IDS
        self._policies: tuple[Policy, ...] = ()
        self._events: deque[Event] = deque()
        self._drops: Counter[DropReason] = Counter()

    @property
    def lost_events(self) -> int:
        return self._lost_events

    def set_device_keys(self, keys: Sequence[bytes | None]) -> None:
        for slot, key in zip((0, 1), keys, strict=True):
            self.engine.set_device_key(slot, key)

    def install(self, sa: GatewaySA, now: int = 0) -> int:
        second = now // SECOND
        outbound = sa.direction is Direction.OUT
        if not outbound and sa.spi in self._in:
            raise taken(sa)
        if not outbound and self.engine.derive_key(sa.spi, sa.profile.look.version) != sa.key:
            raise other_key(sa)
        id = self._next_id if outbound else sa.spi
        look = sa.profile.look
        row = _Row(id, sa, look, sa.sequence, second, second, sa.profile.last_sequence, look.mtu)
        if outbound:
            self._out[id] = row
            self._next_id += 1
        else:
            if sa.profile.replay.kind is not Replay.NONE:
                row.guard = Watched(sa.profile.replay, sa.sequence)
            self._in[id] = row
        return id

    def remove(self, sa: int) -> None:
        self._row(sa)
        (self._out if sa >= OUTBOUND_IDS else self._in).pop(sa)

    def state(self, sa: int) -> SAState:
        row = self._row(sa)
        replayed = 0 if row.guard is None else row.guard.replayed
        return SAState(row.iv, row.packets, row.octets, replayed, row.failed, row.mtu)

    def set_mtu(self, sa: int, mtu: int, now: int) -> None:
        row = self._out.get(sa)
        if row is None:
            raise no_association(sa)
        row.mtu, row.mtu_until = min(mtu, row.sa.profile.look.mtu), now + MTU_AGE

    # Packets

    def _protect(self, sa: int, packet: bytes, now: int, *, bare: bool) -> Verdict:
        row = self._out.get(sa)
        if row is None:
            return self._drop(DropReason.PSP_OUT_NO_KEY)
        self._age_mtu(row, now)
        limit = row.reached(now, hard=True)
        if limit:
            self._expire(row, limit, now)
            return self._drop(DropReason.PSP_OUT_EXPIRED)
        if row.iv >= row.last:
            return self._drop(DropReason.PSP_OUT_IV)
        look = row.look if row.mtu == row.look.mtu else replace(row.look, mtu=row.mtu)
        if bare:
            look = replace(look, mode=Mode.TRANSPORT, outer=None)
        # The IV counts as used before it is: a packet that is refused costs one, and none can ever come twice.
        row.iv += 1
        sent = self.engine.encapsulate(look, packet, row.sa.spi, row.sa.key, row.iv)
        if isinstance(sent, Dropped):
            return sent
        row.packets, row.octets, row.used = row.packets + 1, row.octets + payload_octets(sent), now // SECOND
        self._soften(row, now)
        return Delivered(sent, row.id, row.iv)

    def decapsulate(self, packet: bytes, now: int) -> Verdict:
        found = self.engine.decapsulate(packet)
        if isinstance(found, Dropped):
            if found.reason is DropReason.PSP_AUTH or found.reason in _AUTHENTIC:
                self._note_drop(found.reason, _shown(packet))
            return Dropped(found.reason)
        row = self._in.get(found.spi)
        if row is None or row.look.version != found.version:
            return self._drop(DropReason.PSP_NO_DEVICE_KEY)
        if not self._hears(row, found.iv, found.octets):
            return self._drop(DropReason.PSP_REPLAY)
        mode = Mode.TUNNEL if _shown(packet).next_header in (IPV4, IPV6) else Mode.TRANSPORT
        profile = row.sa.profile
        if mode is not profile.mode or found.cookie != profile.look.cookie or not _is_for(profile, found.packet):
            return self._drop(DropReason.SELECTOR_MISMATCH)
        return Delivered(found.packet, row.id, found.iv)

    def _note_drop(self, reason: DropReason, shown: _Shown) -> None:
        """Tell the association of a packet that an engine has dropped, if there is one."""
        row = self._in.get(shown.spi)
        if row is None or row.look.version != shown.version:
            return
        if reason is DropReason.PSP_AUTH:
            row.failed += 1
        else:
            self._hears(row, shown.iv, shown.octets)

    def _hears(self, row: _Row, iv: int, octets: int) -> bool:
        """Take note of an authentic packet, unless the association's replay rule knows it."""
        if row.guard is not None and not row.guard.accept(iv):
            return False
        row.packets, row.octets = row.packets + 1, row.octets + octets
        row.iv = max(row.iv, iv)
        return True

    # Policy, time, events, counters

    def set_policies(self, outbound: Sequence[Policy]) -> None:
        self._policies = tuple(outbound)

    def handle_timeout(self, now: int) -> None:
        for row in list(self._out.values()):
            self._soften(row, now)
            limit = row.reached(now, hard=True)
            if limit:
                self._expire(row, limit, now)

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def drops(self) -> dict[DropReason, int]:
        return dict(Counter(self.engine.drops()) + self._drops)

    def totals(self) -> dict[str, int]:
        return self.engine.totals()

    def _row(self, sa: int) -> _Row:
        row = (self._out if sa >= OUTBOUND_IDS else self._in).get(sa)
        if row is None:
            raise no_association(sa)
        return row

    def _has(self, sa: int) -> bool:
        return sa in self._out or sa in self._in

    def _profile(self, sa: int) -> GatewayProfile:
        return self._row(sa).sa.profile

    def _mtu(self, sa: int, now: int) -> int:
        row = self._out.get(sa)
        if row is None:
            raise no_association(sa)
        self._age_mtu(row, now)
        return row.mtu

    def _set_profile(self, sa: int, profile: GatewayProfile) -> None:
        row = self._row(sa)
        row.sa, row.look = replace(row.sa, profile=profile), profile.look

    def _reserve(self, sa: int, last: int) -> bool:
        row = self._out.get(sa)
        if row is None:
            return False
        row.last = last
        return True

    def _close_window(self, sa: int) -> bool:
        row = self._in.get(sa)
        if row is not None and row.guard is not None:
            row.guard.close()
        return row is not None

    def _look_up_policy(self, packet: bytes) -> tuple[Policy | None, int | None] | None:
        datagram = ip.parse(packet)
        if datagram is None:
            return None
        flow = ip.flow(datagram)
        found = find(self._policies, flow, outbound=True)
        return (None, None) if found is None else (found[1], found[1].sa_for(flow))

    def _recent_outbound(self, spi: int, remote: IPAddress) -> list[tuple[int, int]]:
        return [
            (row.id, row.iv)
            for row in self._out.values()
            if row.packets and row.sa.spi == spi and row.sa.profile.remote == remote
        ]

    def _age_mtu(self, row: _Row, now: int) -> None:
        if row.mtu_until is not None and now >= row.mtu_until:
            row.mtu, row.mtu_until = row.look.mtu, None
            self._tell(Event(EventKind.MTU_CHANGED, now, sa=row.id, mtu=row.mtu))

    def _soften(self, row: _Row, now: int) -> None:
        limit = "" if row.soft_told else row.reached(now, hard=False)
        if limit:
            row.soft_told = True
            self._tell(Event(EventKind.SOFT_EXPIRED, now, sa=row.id, limit=limit))

    def _expire(self, row: _Row, limit: str, now: int) -> None:
        del self._out[row.id]
        self._tell(Event(EventKind.HARD_EXPIRED, now, sa=row.id, limit=limit))

    def _count(self, reason: DropReason) -> None:
        self._drops[reason] += 1

    def _tell(self, event: Event) -> None:
        if len(self._events) < EVENTS:
            self._events.append(event)
        else:
            self._lost_events += 1


class _Shown(NamedTuple):
    """What stands in clear in a PSP packet.   octets: as rx_bytes counts them."""

    next_header: int
    version: int
    spi: int
    iv: int
    octets: int


def _shown(packet: bytes) -> _Shown:
    """Read the header of a packet whose form an engine has found good."""
    datagram = ip.parse(packet)
    assert datagram is not None  # the engine has looked
    head = datagram.packet[datagram.upper_at + UDP_HEADER :]
    spi, iv = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:FIXED], "big")
    return _Shown(head[0], (head[3] >> 2) & 15, spi, iv, len(head) - FIXED - ICV)


def _is_for(profile: GatewayProfile, packet: bytes) -> bool:
    """Whether an inner packet is among the traffic of its association."""
    if not profile.selectors:
        return True
    datagram = ip.parse(packet)
    assert datagram is not None  # release made it
    flow = ip.flow(datagram)
    return any(selector.matches(flow, outbound=False) for selector in profile.selectors)
