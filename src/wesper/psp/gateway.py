"""PSP with policy in front, as tunnels need it: associations both ways, packets led to them, limits, the path's MTU.

A device opens whatever its keys fit; a gateway takes only associations that it was told of, and of each only packets
that are its own. It stands on either engine, which has the device keys that inbound associations are opened with. IVs
are counters, one for each association, bounded from outside (`reserve`): what a restart goes on from is on disk before
an IV is used. `now` is integer nanoseconds on a monotonic axis.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from ..engine.events import Event, EventKind
from ..engine.interface import ICMP_PER_SECOND, LATELY, MTU_AGE, SECOND
from ..errors import ConfigError
from ..protocols import icmp, ip
from ..protocols.fragment import fragment
from ..protocols.ip import IPV4_HEADER, IPV6_HEADER, IPAddress
from ..protocols.modes import Mode
from ..protocols.psp import FIXED, INDEX_MASK, UDP_HEADER, Profile, payload_octets
from ..sa import Action, Direction, Lifetime, Policy, SAState, Selector
from ..sa.selectors import find
from ..verdict import Bypassed, Delivered, Dropped, DropReason, Verdict
from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6
from ..wire.numbers import IPV4, IPV6, NO_NEXT_HEADER, UDP
from ..wire.psp import ICV, VERSION_NAMES
from .interface import Engine, check_key

OUTBOUND_IDS: Final = 1 << 40  # outbound associations have ids from here on; an inbound one's id is its SPI
LAST_IV: Final = (1 << 64) - 2
_EVENTS: Final = 4096
_AUTHENTIC: Final = frozenset(
    (DropReason.PSP_SAMPLED, DropReason.PSP_EMPTY, DropReason.PSP_BAD_INNER, DropReason.PSP_ECN_DROP)
)
"""Drops of packets that have proved their key."""


@dataclass(frozen=True, slots=True)
class GatewayProfile:
    """What the associations between two ends share, both ways.

    look: how packets look; its mtu is the path's.   local, remote: outer addresses.
    selectors: traffic that may pass; empty: any.   soft, hard: lifetimes of what is sent with: whoever receives keeps
    no account, as PSP has it.
    """

    look: Profile
    local: IPAddress
    remote: IPAddress
    selectors: tuple[Selector, ...] = ()
    soft: Lifetime = field(default_factory=Lifetime)
    hard: Lifetime = field(default_factory=Lifetime)

    @property
    def suite(self) -> str:
        """The version's name."""
        return VERSION_NAMES[self.look.version]

    @property
    def mode(self) -> Mode:
        return self.look.mode

    @property
    def esn(self) -> bool:
        """Whether numbers have 64 bits: IVs have."""
        return True

    @property
    def last_sequence(self) -> int:
        """The highest IV."""
        return LAST_IV

    @property
    def head_octets(self) -> int:
        """Octets of the outer IP header, if it is plain."""
        return IPV6_HEADER if self.local.version == 6 else IPV4_HEADER


@dataclass(frozen=True, slots=True)
class GatewaySA:
    """One association, one way.   Its key never shows in its repr.

    sequence: the last IV used; inbound the highest one received, for who looks at it.   Raises ConfigError.
    """

    profile: GatewayProfile
    direction: Direction
    spi: int
    key: bytes = field(repr=False)
    sequence: int = 0

    def __post_init__(self) -> None:
        if not self.spi & INDEX_MASK or not 0 < self.spi < 1 << 32:
            raise ConfigError(f"SPI {self.spi:#x}", key="spi", expected="1..0xffffffff, and not 0x80000000")
        check_key(self.key, self.profile.look.version)
        if not 0 <= self.sequence <= LAST_IV:
            raise ConfigError(f"IV {self.sequence:#x}", key="sequence", expected=f"0..{LAST_IV:#x}")

    @property
    def salt(self) -> bytes:
        """None: the SPI stands in its place."""
        return b""

    @property
    def auth_key(self) -> bytes:
        """None."""
        return b""


@dataclass(slots=True)
class _Row:
    """An association at work.   mtu_until: when what was learnt is forgotten, ns; None: nothing was."""

    id: int
    sa: GatewaySA
    look: Profile
    iv: int
    installed: int
    used: int
    last: int
    mtu: int
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


class Gateway:
    """Associations, policies, and packets through them.   Ids are integers, unique in a gateway. Not for threads.

    engine: has the device keys that inbound associations are opened with, and counts for this gateway alone.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lost_events = 0
        self._out: dict[int, _Row] = {}
        self._in: dict[int, _Row] = {}
        self._next_id = OUTBOUND_IDS
        self._policies: tuple[Policy, ...] = ()
        self._events: deque[Event] = deque()
        self._drops: Counter[DropReason] = Counter()
        self._icmp_second, self._icmp_count = -1, 0

    @property
    def name(self) -> str:
        """The engine's."""
        return self.engine.name

    # Associations

    def set_device_keys(self, keys: Sequence[bytes | None]) -> None:
        """Put in both device keys, of 32 octets or None.   What was installed under another key opens nothing more.

        Raises KeyMaterialError.
        """
        for slot, key in zip((0, 1), keys, strict=True):
            self.engine.set_device_key(slot, key)

    def install(self, sa: GatewaySA, now: int = 0) -> int:
        """Add an association and return its id.

        Raises ConfigError if an inbound SPI is taken, or its key is not what the device keys make of it.
        """
        second = now // SECOND
        outbound = sa.direction is Direction.OUT
        if not outbound and sa.spi in self._in:
            raise ConfigError(f"SPI {sa.spi:#x} is taken", key="spi", expected="one that no installed association has")
        if not outbound and self.engine.derive_key(sa.spi, sa.profile.look.version) != sa.key:
            raise ConfigError(f"SPI {sa.spi:#x} has another key", key="spi", expected="one of these device keys")
        id = self._next_id if outbound else sa.spi
        look = sa.profile.look
        row = _Row(id, sa, look, sa.sequence, second, second, sa.profile.last_sequence, look.mtu)
        if outbound:
            self._out[id] = row
            self._next_id += 1
        else:
            self._in[id] = row
        return id

    def remove(self, sa: int) -> None:
        """Delete an association.   Raises ConfigError if there is none."""
        self._row(sa)
        (self._out if sa >= OUTBOUND_IDS else self._in).pop(sa)

    def state(self, sa: int) -> SAState:
        """Return what an association has lived through; `sequence` is the IV.   Raises ConfigError if there is none."""
        row = self._row(sa)
        return SAState(row.iv, row.packets, row.octets, 0, row.failed, row.mtu)

    def set_mtu(self, sa: int, mtu: int, now: int) -> None:
        """Tell an outbound association its path's MTU.   It is forgotten after ten minutes (RFC 4301 §8.2.2)."""
        row = self._row(sa)
        row.mtu, row.mtu_until = min(mtu, row.sa.profile.look.mtu), now + MTU_AGE

    def set_profile(self, sa: int, profile: GatewayProfile) -> None:
        """Let an association go on with other outer addresses or ports.   Raises ConfigError."""
        row = self._row(sa)
        row.sa, row.look = replace(row.sa, profile=profile), profile.look

    def inner_mtu(self, sa: int, now: int = 0) -> int:
        """Return the largest inner packet of an outbound association.

        Tunnel: the whole packet. Transport: a packet whose IP header is plain. Raises ConfigError if there is none.
        """
        row = self._row(sa)
        self._age_mtu(row, now)
        profile = row.sa.profile
        around = profile.look.overhead + (profile.head_octets if profile.mode is Mode.TUNNEL else 0)
        return max(row.mtu - around, 0)

    def reserve(self, sa: int, last: int) -> None:
        """Let an outbound association use IVs up to `last` and no further.

        Packets beyond are dropped (PSP_OUT_IV); a later call raises the bound.   Raises ConfigError.
        """
        row = self._out.get(sa)
        if row is None:
            raise no_association(sa)
        row.last = min(last, LAST_IV)

    def close_window(self, sa: int) -> None:
        """Do nothing: PSP keeps no window, and what is behind it has to notice packets that come twice."""

    # Packets

    def encapsulate(self, sa: int, packet: bytes, now: int) -> Verdict:
        """Protect one packet with this association.

        Drops: the PSP_OUT reasons; PSP_OUT_NO_KEY if there is none, PSP_OUT_TOO_BIG says which size fits.
        """
        row = self._out.get(sa)
        return self._drop(DropReason.PSP_OUT_NO_KEY) if row is None else self._protect(row, packet, now)

    def dummy(self, sa: int, payload: bytes, now: int) -> Verdict:
        """Make an authentic packet with nothing inside, which the peer counts and throws away (PSP_EMPTY).

        payload: any octets; lengthened to what Crypt Offset wants.   Drops: as encapsulate.
        """
        row = self._out.get(sa)
        if row is None:
            return self._drop(DropReason.PSP_OUT_NO_KEY)
        profile = row.sa.profile
        shown = FIXED + 4 * profile.look.crypt_offset_words - profile.look.header_octets
        packet = _without_next_header(profile, payload.ljust(max(len(payload), shown), b"\0"))
        return self._protect(row, packet, now, dummy=True)

    def decapsulate(self, packet: bytes, now: int) -> Verdict:
        """Open one packet.

        Drops: NOT_FOR_US, the PSP reasons (PSP_NO_DEVICE_KEY where no association has this SPI and version), and
        SELECTOR_MISMATCH for an authentic packet of another mode or cookie, or outside the selectors.
        """
        found = self.engine.decapsulate(packet)
        if isinstance(found, Dropped):
            if found.reason is DropReason.PSP_AUTH or found.reason in _AUTHENTIC:
                self._note_drop(found.reason, _shown(packet), now)
            return found
        row = self._in.get(found.spi)
        if row is None or row.look.version != found.version:
            return self._drop(DropReason.PSP_NO_DEVICE_KEY)
        self._heard(row, found.iv, found.octets, now)
        mode = Mode.TUNNEL if _shown(packet).next_header in (IPV4, IPV6) else Mode.TRANSPORT
        profile = row.sa.profile
        if mode is not profile.mode or found.cookie != profile.look.cookie or not _is_for(profile, found.packet):
            return self._drop(DropReason.SELECTOR_MISMATCH)
        return Delivered(found.packet, row.id, found.iv)

    # Policy

    def set_policies(self, outbound: Sequence[Policy]) -> None:
        """Replace the outbound policies, the first that matches counts."""
        self._policies = tuple(outbound)

    def outbound(self, packet: bytes, now: int) -> list[Verdict]:
        """Do with a packet from the protected side what policy says.

        Returns one verdict; more where an IPv4 packet without DF had to be cut for its tunnel.
        Drops: OUT_DISCARD, OUT_NO_SA, and those of encapsulate.
        """
        datagram = ip.parse(packet)
        if datagram is None:
            return [self._drop(DropReason.PSP_OUT_BAD_PACKET)]
        flow = ip.flow(datagram)
        found = find(self._policies, flow, outbound=True)
        policy = None if found is None else found[1]
        if policy is None or policy.action is Action.DISCARD:
            return [self._drop(DropReason.OUT_DISCARD)]
        if policy.action is Action.BYPASS:
            return [Bypassed(packet)]
        sa = policy.sa_for(flow)
        row = None if sa is None else self._out.get(sa)
        if row is None:
            self._tell(Event(EventKind.ACQUIRE, now, selector=policy.selector_for(flow)))
            return [self._drop(DropReason.OUT_NO_SA)]
        room = self.inner_mtu(row.id, now)
        if row.look.mode is Mode.TUNNEL and datagram.version == 4 and len(packet) > room:
            return [self._protect(row, piece, now) for piece in fragment(datagram, room) or [packet]]
        return [self._protect(row, packet, now)]

    def inbound(self, packet: bytes, now: int) -> Verdict:
        """Open a packet from the unprotected side; what is no PSP is dropped as IN_NO_POLICY."""
        verdict = self.decapsulate(packet, now)
        if isinstance(verdict, Dropped) and verdict.reason is DropReason.NOT_FOR_US:
            return self._drop(DropReason.IN_NO_POLICY)
        return verdict

    def icmp_error(self, packet: bytes, now: int) -> bool:
        """Take a "too big" message from the unprotected side; return whether an association's MTU has changed.

        Believed as `engine.Engine.icmp_error` believes it: only if it quotes SPI and IV of a packet sent lately.
        """
        second = now // SECOND
        if self._icmp_second != second:
            self._icmp_second, self._icmp_count = second, 0
        self._icmp_count += 1
        claim = icmp.read_too_big(packet) if self._icmp_count <= ICMP_PER_SECOND else None
        quoted = None if claim is None else icmp.quoted_packet(claim.quoted)
        if claim is None or quoted is None:
            return False
        destination, protocol, body = quoted
        head = body[UDP_HEADER : UDP_HEADER + FIXED]
        if protocol != UDP or len(head) < FIXED:
            return False
        spi, iv = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:], "big")
        mtu = max(claim.mtu, icmp.IPV4_MINIMUM_MTU if len(destination) == 4 else icmp.IPV6_MINIMUM_MTU)
        changed = False
        for row in self._out.values():
            is_ours = row.packets and row.sa.spi == spi and row.sa.profile.remote.packed == destination
            if is_ours and 0 <= row.iv - iv <= LATELY and mtu < row.mtu:
                self.set_mtu(row.id, mtu, now)
                self._tell(Event(EventKind.MTU_CHANGED, now, sa=row.id, mtu=mtu))
                changed = True
        return changed

    # Time, events, counters

    def handle_timeout(self, now: int) -> None:
        """Raise the events of all limits of time that are reached, and remove associations whose end has come."""
        for row in list(self._out.values()):
            self._soften(row, now)
            limit = row.reached(now, hard=True)
            if limit:
                self._expire(row, limit, now)

    def next_event(self) -> Event | None:
        """Return the oldest event not yet fetched."""
        return self._events.popleft() if self._events else None

    def drops(self) -> dict[DropReason, int]:
        """Return how often each reason has dropped a packet; only those that have."""
        return dict(Counter(self.engine.drops()) + self._drops)

    def counters(self) -> dict[str, int]:
        """Return all of PSP_COUNTERS, and those of /proc/net/xfrm_stat that policy has raised."""
        counts = self.engine.counters()
        for reason, count in self._drops.items():
            if reason.counter:
                counts[reason.counter] = counts.get(reason.counter, 0) + count
        return counts

    def _row(self, sa: int) -> _Row:
        row = (self._out if sa >= OUTBOUND_IDS else self._in).get(sa)
        if row is None:
            raise no_association(sa)
        return row

    def _protect(self, row: _Row, packet: bytes, now: int, *, dummy: bool = False) -> Verdict:
        self._age_mtu(row, now)
        limit = row.reached(now, hard=True)
        if limit:
            if row.id in self._out:
                self._expire(row, limit, now)
            return self._drop(DropReason.PSP_OUT_EXPIRED)
        if row.iv >= row.last:
            return self._drop(DropReason.PSP_OUT_IV)
        look = row.look if row.mtu == row.look.mtu else replace(row.look, mtu=row.mtu)
        if dummy:
            look = replace(look, mode=Mode.TRANSPORT, outer=None)
        # The IV counts as used before it is: a packet that is refused costs one, and none can ever come twice.
        row.iv += 1
        sent = self.engine.encapsulate(look, packet, row.sa.spi, row.sa.key, row.iv)
        if isinstance(sent, Dropped):
            return sent
        row.packets, row.octets, row.used = row.packets + 1, row.octets + payload_octets(sent), now // SECOND
        self._soften(row, now)
        return Delivered(sent, row.id, row.iv)

    def _note_drop(self, reason: DropReason, shown: _Shown, now: int) -> None:
        """Tell the association of a packet that an engine has dropped, if there is one."""
        row = self._in.get(shown.spi)
        if row is None or row.look.version != shown.version:
            return
        if reason is DropReason.PSP_AUTH:
            row.failed += 1
        else:
            self._heard(row, shown.iv, shown.octets, now)

    def _heard(self, row: _Row, iv: int, octets: int, now: int) -> None:
        row.packets, row.octets, row.used = row.packets + 1, row.octets + octets, now // SECOND
        row.iv = max(row.iv, iv)

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

    def _drop(self, reason: DropReason) -> Dropped:
        self._drops[reason] += 1
        return Dropped(reason)

    def _tell(self, event: Event) -> None:
        if len(self._events) < _EVENTS:
            self._events.append(event)
        else:
            self.lost_events += 1


def no_association(sa: int) -> ConfigError:
    """Return the complaint about an id that nobody has."""
    return ConfigError(f"no association has the id {sa}", key="sa", expected="an id that install returned")


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


def _without_next_header(profile: GatewayProfile, payload: bytes) -> bytes:
    """Return an IP packet between a profile's outer addresses that has No Next Header."""
    local, remote = profile.local.packed, profile.remote.packed
    if profile.local.version == 6:
        header6 = IPv6(
            payload_length=len(payload), next_header=NO_NEXT_HEADER, hop_limit=64, source=local, destination=remote
        )
        return header6.build() + payload
    header = IPv4(
        total_length=IPV4_HEADER + len(payload), df=1, ttl=64, protocol=NO_NEXT_HEADER, source=local, destination=remote
    )
    header.checksum = ip.checksum(header.build())
    return header.build() + payload
