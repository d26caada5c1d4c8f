"""PSP with policy in front, as tunnels need it: associations both ways, packets led to them, limits, the path's MTU.

A device opens whatever its keys fit; a gateway takes only associations that it was told of, and of each only packets
that are its own. IVs are counters, one for each association, bounded from outside (`reserve`): what a restart goes on
from is on disk before an IV is used. `now` is integer nanoseconds on a monotonic axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from ..engine.events import Event, EventKind
from ..engine.interface import ICMP_PER_SECOND, LATELY, SECOND
from ..errors import ConfigError
from ..protocols import icmp, ip
from ..protocols.fragment import fragment
from ..protocols.ip import IPV4_HEADER, IPV6_HEADER, IPAddress
from ..protocols.modes import Mode
from ..protocols.psp import FIXED, INDEX_MASK, UDP_HEADER, Profile
from ..sa import Action, Direction, Lifetime, Policy, SAState, Selector
from ..verdict import PSP_COUNTERS, Bypassed, Dropped, DropReason, Verdict
from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6
from ..wire.numbers import NO_NEXT_HEADER, UDP
from ..wire.psp import VERSION_NAMES
from .guard import ReplayRule
from .interface import check_key

OUTBOUND_IDS: Final = 1 << 40  # outbound associations have ids from here on; an inbound one's id is its SPI
LAST_IV: Final = (1 << 64) - 2
EVENTS: Final = 4096  # that are kept


@dataclass(frozen=True, slots=True)
class GatewayProfile:
    """What the associations between two ends share, both ways.

    look: how packets look; its mtu is the path's.   local, remote: outer addresses.
    selectors: traffic that may pass; empty: any.   soft, hard: lifetimes of what is sent with: whoever receives keeps
    no account, as PSP has it.   replay: how the IVs of what is received are looked at.
    """

    look: Profile
    local: IPAddress
    remote: IPAddress
    selectors: tuple[Selector, ...] = ()
    soft: Lifetime = field(default_factory=Lifetime)
    hard: Lifetime = field(default_factory=Lifetime)
    replay: ReplayRule = field(default_factory=ReplayRule)

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

    sequence: the last IV used; inbound the highest one received, where a replay rule begins.   Raises ConfigError.
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


class Gateway(ABC):
    """Associations, policies, and packets through them.   Ids are integers, unique in a gateway."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def lost_events(self) -> int:
        """How many events had no room."""

    # Associations

    @abstractmethod
    def set_device_keys(self, keys: Sequence[bytes | None]) -> None:
        """Put in both device keys, of 32 octets or None.   What was installed under another key opens nothing more.

        Raises KeyMaterialError.
        """

    @abstractmethod
    def install(self, sa: GatewaySA, now: int = 0) -> int:
        """Add an association and return its id.

        Raises ConfigError if an inbound SPI is taken, or its key is not what the device keys make of it.
        """

    @abstractmethod
    def remove(self, sa: int) -> None:
        """Delete an association.   Raises ConfigError if there is none."""

    @abstractmethod
    def state(self, sa: int) -> SAState:
        """Return what an association has lived through; `sequence` is the IV.   Raises ConfigError if there is none."""

    @abstractmethod
    def set_mtu(self, sa: int, mtu: int, now: int) -> None:
        """Tell an outbound association its path's MTU.   It is forgotten after ten minutes (RFC 4301 §8.2.2)."""

    def set_profile(self, sa: int, profile: GatewayProfile) -> None:
        """Let an association go on with other outer addresses or ports.   Raises ConfigError.

        What its replay rule has seen stays, and so does the rule.
        """
        before = self._profile(sa)
        if before.look.version != profile.look.version:
            raise ConfigError(
                f"version {profile.look.version}", key="version", expected=f"{before.look.version}: its key is of that"
            )
        self._set_profile(sa, profile)

    def inner_mtu(self, sa: int, now: int = 0) -> int:
        """Return the largest inner packet of an outbound association.

        Tunnel: the whole packet. Transport: a packet whose IP header is plain. Raises ConfigError if there is none.
        """
        profile = self._profile(sa)
        around = profile.look.overhead + (profile.head_octets if profile.mode is Mode.TUNNEL else 0)
        return max(self._mtu(sa, now) - around, 0)

    def reserve(self, sa: int, last: int) -> None:
        """Let an outbound association use IVs up to `last` and no further.

        Packets beyond are dropped (PSP_OUT_IV); a later call raises the bound.   Raises ConfigError.
        """
        if not self._reserve(sa, min(last, LAST_IV)):
            raise no_association(sa)

    def close_window(self, sa: int) -> None:
        """Count all IVs up to the highest one as received, in an inbound association that takes each IV once.

        For keys that outlive a run, as `engine.Engine.close_window`. With another rule, or none, nothing changes.
        Raises ConfigError, also for an outbound one.
        """
        if not self._close_window(sa):
            raise no_association(sa)

    # Packets

    def encapsulate(self, sa: int, packet: bytes, now: int) -> Verdict:
        """Protect one packet with this association.

        Drops: the PSP_OUT reasons; PSP_OUT_NO_KEY if there is none, PSP_OUT_TOO_BIG says which size fits.
        """
        return self._protect(sa, packet, now, bare=False)

    def dummy(self, sa: int, payload: bytes, now: int) -> Verdict:
        """Make an authentic packet with nothing inside, which the peer counts and throws away (PSP_EMPTY).

        payload: any octets; lengthened to what Crypt Offset wants.   Drops: as encapsulate.
        """
        if not self._has(sa):
            return self._drop(DropReason.PSP_OUT_NO_KEY)
        profile = self._profile(sa)
        shown = FIXED + 4 * profile.look.crypt_offset_words - profile.look.header_octets
        packet = _without_next_header(profile, payload.ljust(max(len(payload), shown), b"\0"))
        return self._protect(sa, packet, now, bare=True)

    @abstractmethod
    def decapsulate(self, packet: bytes, now: int) -> Verdict:
        """Open one packet.

        Drops: NOT_FOR_US, the PSP reasons (PSP_NO_DEVICE_KEY where no association has this SPI and version; PSP_REPLAY
        by the association's replay rule), and SELECTOR_MISMATCH for an authentic packet of another mode or cookie, or
        outside the selectors. An authentic packet that nothing would be delivered of keeps the reason of that; if it
        came before, it counts under its association's replays and not as heard.
        """

    # Policy

    @abstractmethod
    def set_policies(self, outbound: Sequence[Policy]) -> None:
        """Replace the outbound policies, the first that matches counts."""

    def outbound(self, packet: bytes, now: int) -> list[Verdict]:
        """Do with a packet from the protected side what policy says.

        Returns one verdict; more where an IPv4 packet without DF had to be cut for its tunnel.
        Drops: OUT_DISCARD, OUT_NO_SA, and those of encapsulate.
        """
        found = self._look_up_policy(packet)
        if found is None:
            return [self._drop(DropReason.PSP_OUT_BAD_PACKET)]
        policy, sa = found
        if policy is None or policy.action is Action.DISCARD:
            return [self._drop(DropReason.OUT_DISCARD)]
        if policy.action is Action.BYPASS:
            return [Bypassed(packet)]
        datagram = ip.parse(packet)
        assert datagram is not None  # else nothing would have been found
        if sa is None or sa < OUTBOUND_IDS or not self._has(sa):
            self._tell(Event(EventKind.ACQUIRE, now, selector=policy.selector_for(ip.flow(datagram))))
            return [self._drop(DropReason.OUT_NO_SA)]
        room = self.inner_mtu(sa, now)
        if self._profile(sa).mode is Mode.TUNNEL and datagram.version == 4 and len(packet) > room:
            return [self.encapsulate(sa, piece, now) for piece in fragment(datagram, room) or [packet]]
        return [self.encapsulate(sa, packet, now)]

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
        for sa, last in self._recent_outbound(spi, ip.address(destination)):
            if 0 <= last - iv <= LATELY and mtu < self.state(sa).mtu:
                self.set_mtu(sa, mtu, now)
                self._tell(Event(EventKind.MTU_CHANGED, now, sa=sa, mtu=mtu))
                changed = True
        return changed

    # Time, events, counters

    @abstractmethod
    def handle_timeout(self, now: int) -> None:
        """Raise the events of all limits of time that are reached, and remove associations whose end has come."""

    @abstractmethod
    def next_event(self) -> Event | None:
        """Return the oldest event not yet fetched."""

    @abstractmethod
    def drops(self) -> dict[DropReason, int]:
        """Return how often each reason has dropped a packet; only those that have."""

    @abstractmethod
    def totals(self) -> dict[str, int]:
        """Return those of PSP_COUNTERS that no drop reason raises: packets and octets."""

    def counters(self) -> dict[str, int]:
        """Return all of PSP_COUNTERS, and those of /proc/net/xfrm_stat that policy has raised."""
        counts = dict.fromkeys(PSP_COUNTERS, 0) | self.totals()
        for reason, count in self.drops().items():
            if reason.counter:
                counts[reason.counter] = counts.get(reason.counter, 0) + count
        return counts

    # What the shared parts above need.

    _icmp_second = -1
    _icmp_count = 0

    @abstractmethod
    def _has(self, sa: int) -> bool:
        """Say whether there is an association of this id."""

    @abstractmethod
    def _profile(self, sa: int) -> GatewayProfile:
        """Return an association's profile.   Raises ConfigError if there is none."""

    @abstractmethod
    def _mtu(self, sa: int, now: int) -> int:
        """Return the MTU of an outbound association's path now.   Raises ConfigError if there is none."""

    @abstractmethod
    def _set_profile(self, sa: int, profile: GatewayProfile) -> None:
        """Give an association that there is another profile."""

    @abstractmethod
    def _reserve(self, sa: int, last: int) -> bool:
        """Bound the IVs of an outbound association; return whether there is one."""

    @abstractmethod
    def _close_window(self, sa: int) -> bool:
        """Count all IVs up to the highest one as received; return whether there is such an inbound association."""

    @abstractmethod
    def _protect(self, sa: int, packet: bytes, now: int, *, bare: bool) -> Verdict:
        """Protect a packet.   bare: it keeps its own IP header, whatever the association's mode is."""

    @abstractmethod
    def _look_up_policy(self, packet: bytes) -> tuple[Policy | None, int | None] | None:
        """Return the policy that matches and the association that it names; None if packet is not IP."""

    @abstractmethod
    def _count(self, reason: DropReason) -> None:
        """Raise the count of a drop that was decided outside the packet path."""

    @abstractmethod
    def _tell(self, event: Event) -> None:
        """Add an event."""

    @abstractmethod
    def _recent_outbound(self, spi: int, remote: IPAddress) -> list[tuple[int, int]]:
        """Return (id, last IV) of outbound associations with this SPI and outer destination that have sent any."""

    def _drop(self, reason: DropReason) -> Dropped:
        self._count(reason)
        return Dropped(reason)


def no_association(sa: int) -> ConfigError:
    """Return the complaint about an id that nobody has."""
    return ConfigError(f"no association has the id {sa}", key="sa", expected="an id that install returned")


def taken(sa: GatewaySA) -> ConfigError:
    """Return the complaint about an inbound SPI that is there already."""
    return ConfigError(f"SPI {sa.spi:#x} is taken", key="spi", expected="one that no installed association has")


def other_key(sa: GatewaySA) -> ConfigError:
    """Return the complaint about a key that the device keys do not make of its SPI."""
    return ConfigError(f"SPI {sa.spi:#x} has another key", key="spi", expected="one of these device keys")


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
