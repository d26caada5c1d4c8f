"""The one interface of both engines.

An engine holds SAs and policies and turns packets into verdicts. It opens no socket, reads no clock and never sleeps:
`now` is integer nanoseconds on a monotonic axis. What a packet may never do is raise: it is delivered, bypassed or
dropped for one counted reason. Exceptions are for the caller's mistakes.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, KeyMaterialError
from ..protocols import PROTOCOLS, icmp, ip, udp
from ..protocols.fragment import fragment
from ..sa import DF, SA, Action, Direction, Fragmentation, Mode, Policy, Profile, SAState, SubSAState
from ..verdict import COUNTERS, Bypassed, Delivered, Dropped, DropReason, Verdict
from ..wire.numbers import UDP
from ..wire.udp import IPSEC_NAT_T_PORT
from .batch import Packets, Results
from .events import Event, EventKind

SECOND = 1_000_000_000
MTU_AGE = 600 * SECOND  # RFC 4301 §8.2.2: a learnt MTU is forgotten now and then
ICMP_PER_SECOND = 100  # unauthenticated messages that are looked at
MOST_SHARDS = 64
LATELY = 1 << 16  # packets: how far back one may lie that an ICMP message quotes


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of an engine.

    iv_key: 16 octets that make CBC's unpredictable IVs (AES of SA id and sequence number); random unless given.
    udp_ports: local ports where ESP in UDP is looked for, besides those of installed SAs.
    audit: put auditable drops among the events.
    events: how many are kept; further ones are counted as lost.
    resync_failures, resync_tries: after so many ICV failures in a row, at most once a second, try so many high halves
    (RFC 4303 appendix A3).
    shards: how many threads can open packets at once, 1..64; each sees packets of its flows alone
    (`wesper.nic.SteeringPlan` leads them there). The reference engine has one, whatever is asked for.
    """

    iv_key: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)
    udp_ports: frozenset[int] = frozenset({IPSEC_NAT_T_PORT})
    audit: bool = False
    events: int = 1024
    resync_failures: int = 64
    resync_tries: int = 16
    shards: int = 1

    def __post_init__(self) -> None:
        if len(self.iv_key) != 16:
            raise KeyMaterialError(f"{len(self.iv_key)} octets", key="iv_key", expected="16 octets")
        if not 1 <= self.shards <= MOST_SHARDS:
            raise ConfigError(f"{self.shards} shards", key="shards", expected=f"1..{MOST_SHARDS}")


class Algorithms(ABC):
    """An engine's own algorithms, for known answers: what its SAs run on, without SA, mode or padding around it."""

    @abstractmethod
    def associated(self, suite: str, spi: int, sequence: int, esn: bool, iv: bytes) -> bytes:
        """Return what ESP authenticates in front of the ciphertext."""

    @abstractmethod
    def seal(
        self, suite: str, key: bytes, salt: bytes, auth_key: bytes, iv: bytes, associated: bytes, plaintext: bytes
    ) -> bytes:
        """Return ciphertext and ICV.   Raises KeyMaterialError."""

    @abstractmethod
    def open(
        self, suite: str, key: bytes, salt: bytes, auth_key: bytes, iv: bytes, associated: bytes, sealed: bytes
    ) -> bytes | None:
        """Return the plaintext, None if the ICV does not fit.   Raises KeyMaterialError."""

    @abstractmethod
    def cbc(self, key: bytes, iv: bytes, data: bytes, *, decrypt: bool = False) -> bytes:
        """Return data through AES-CBC without integrity.   data: whole blocks."""

    @abstractmethod
    def sub_sa_key(
        self, kdf: str, root_key: bytes, session_id: int, key_octets: int, salt_octets: int
    ) -> tuple[bytes, bytes]:
        """Return key and salt of an EESP Sub SA.   kdf: of `protocols.eesp_keys.SSKDFS`.   Raises KeyMaterialError."""

    @abstractmethod
    def stateless_key(self, master: bytes, spi: int, device_id: int, epoch: int) -> tuple[bytes, bytes]:
        """Return key and salt of a device's epoch in an EESP-SL-1 group.   Raises KeyMaterialError."""

    @abstractmethod
    def hmac(self, suite: str, auth_key: bytes, data: bytes) -> bytes:
        """Return the MAC of a suite with a separate one, cut to its ICV."""


class Engine(ABC):
    """SAs, policies, and packets through them.

    Ids of SAs are opaque integers, unique in an engine. Not to be used from two threads at once, unless an engine
    says so.
    """

    name: ClassVar[str]
    options: Options
    algorithms: Algorithms
    lost_events: int

    # SAs

    @abstractmethod
    def install(self, sa: SA, now: int = 0) -> int:
        """Add an SA and return its id.   Raises ConfigError if an inbound SPI is taken."""

    @abstractmethod
    def install_many(
        self, profile: Profile, direction: Direction, spis: NDArray[np.uint32], keys: NDArray[np.uint8], now: int = 0
    ) -> NDArray[np.uint64]:
        """Add SAs that share a profile and return their ids.

        spis: (n,).   keys: (n, octets): each row key, then salt (RFC 4106 §8.1) or the HMAC's key (RFC 7296 §2.17);
        of EESP's Sub SAs the root key, of stateless groups the master keys.
        Cost: one pass; the native engine makes no Python object for an SA.
        Raises ConfigError, and then has added none.
        """

    @abstractmethod
    def remove(self, sa: int) -> None:
        """Delete an SA.   The native engine wipes its keys; Python can't.   Raises ConfigError if there is none."""

    @abstractmethod
    def state(self, sa: int) -> SAState:
        """Return what the SA has lived through.   Raises ConfigError if there is none."""

    def sub_sa_state(self, sa: int, sub_sa: int) -> SubSAState:
        """Return what a Sub SA has lived through; an SA that has none counts as its own Sub SA 0.

        Raises ConfigError if there is no such SA, or no packet of such a Sub SA yet.
        """
        state = self.state(sa)
        if sub_sa:
            raise self._no_such_sub_sa(sub_sa)
        return SubSAState(state.sequence, state.packets, state.octets)

    @abstractmethod
    def find(self, spis: NDArray[np.uint32]) -> NDArray[np.uint64]:
        """Return the ids of inbound SAs by SPI, 2^64-1 where there is none.   Multicast SAs are not looked at."""

    @abstractmethod
    def infer(self, sa: int, low: int) -> int | None:
        """Return the full number that an inbound SA takes a received low half for, None if there is none.

        Source: RFC 4303 appendix A2. Raises ConfigError if there is no such SA.
        """

    @abstractmethod
    def inner_mtu(self, sa: int, now: int = 0) -> int:
        """Return the largest inner packet of an outbound SA.

        Tunnel: the whole packet. Transport and BEET: a packet whose IP header has neither options nor extension
        headers; BEET: of the inner pair's version; transport: of the outer pair's, IPv4 if there is none.
        """

    @abstractmethod
    def set_mtu(self, sa: int, mtu: int, now: int) -> None:
        """Tell an outbound SA its path's MTU.   It is forgotten after ten minutes (RFC 4301 §8.2.2)."""

    def reserve(self, sa: int, last: int) -> None:
        """Let an outbound SA use numbers up to `last` and no further; without this call, up to its last one.

        For keys that outlive a run: what a restart goes on from has to be on disk before a number is used
        (RFC 4106 §3.1). Packets beyond are dropped (OUT_NOT_RESERVED) and the SA lives on; a later call raises the
        bound, or lowers it.
        last: 0..2^64-1; of every Sub SA.   Raises ConfigError, also for an inbound SA.
        """
        if not 0 <= last < 1 << 64:
            raise ConfigError(f"sequence number {last}", key="last", expected="0..2^64-1")
        if not self._reserve(sa, last):
            raise ConfigError(f"no outbound SA has the id {sa}", key="sa", expected="an id that install returned")

    def close_window(self, sa: int) -> None:
        """Count all numbers up to the highest one as received, in an inbound SA with anti-replay.

        For keys that outlive a run: in the window of an SA just installed nothing counts as seen, so that packets of an
        earlier run would be taken once more.
        Raises ConfigError, also for an outbound SA.
        """
        if not self._close_window(sa):
            raise ConfigError(f"no inbound SA has the id {sa}", key="sa", expected="an id that install returned")

    def set_profile(self, sa: int, profile: Profile) -> None:
        """Let an SA go on between other outer addresses or UDP ports: a peer behind a NAT has moved.

        Keys, numbers, window, counts, lifetimes and MTU stay. From now on PEER_MOVED is about the new place.
        profile: the SA's own but for local and remote of its outer addresses and its UDP ports.
        Raises ConfigError.   Source: RFC 7296 §2.23.
        """
        before = self._profile(sa)
        if before is None:
            raise self._no_such_sa(sa)
        _check_same_but_ends(before, profile)
        self._set_profile(sa, profile)

    # Packets

    @abstractmethod
    def encapsulate(self, sa: int, packet: bytes, now: int, *, tfc: bytes = b"", mark: int = 0) -> Verdict:
        """Protect one packet with this SA.

        packet: from its IP header, TTL already decremented if this host forwards; in mode iptfs an AGGFRAG payload.
        tfc: octets to append, tunnel mode only, not with EESP.
        mark: 0..2^32-1, what flows are named by if the SA's policy says so (`FlowKind.MARK`).
        Drops: OUT_BAD_PACKET, OUT_NO_SA, OUT_EXPIRED, OUT_MODE, OUT_TOO_BIG, OUT_SEQUENCE_OVERFLOW,
        OUT_NOT_RESERVED.
        """

    @abstractmethod
    def dummy(self, sa: int, payload: bytes, now: int) -> Verdict:
        """Make a packet that the peer throws away (RFC 4303 §2.6).

        In tunnel mode; with EESP in other modes, if the profile has outer addresses, and in tunnel mode with a crypt
        offset only, since its optimized format has no Next Header.
        payload: any octets; a Linux peer wants at least one.
        """

    @abstractmethod
    def decapsulate(self, packet: bytes, now: int) -> Verdict:
        """Open one packet.

        packet: from its IP header, reassembled.
        Drops: all inbound reasons but IN_NO_POLICY and IN_DISCARD.
        """

    @abstractmethod
    def encapsulate_many(
        self, sas: NDArray[np.uint64] | int, packets: Packets, now: int, marks: NDArray[np.uint32] | int = 0
    ) -> Results:
        """Protect packets, in order.   sas: (n,) ids, or one for all.   marks: (n,), or one for all."""

    @abstractmethod
    def decapsulate_many(self, packets: Packets, now: int) -> Results:
        """Open packets, in order."""

    # Policy

    @abstractmethod
    def set_policies(self, outbound: Sequence[Policy], inbound: Sequence[Policy] = ()) -> None:
        """Replace the SPD: outbound entries (SPD-S, SPD-O in one order), and SPD-I for what arrives without IPsec."""

    @abstractmethod
    def _lookup_policy(self, packet: bytes, outbound: bool) -> tuple[int | None, int | None] | None:
        """Return (index of the matching policy, id of the SA that PROTECT names); None if packet is not IP."""

    # Time, events, counters

    @abstractmethod
    def deadline(self) -> int | None:
        """Return when the next SA reaches a limit of time, in ns; None if none will.

        Cost: O(SAs) if any has such a limit.
        """

    @abstractmethod
    def handle_timeout(self, now: int) -> None:
        """Raise the events of all limits of time that are reached, and remove SAs whose hard lifetime is over."""

    @abstractmethod
    def next_event(self) -> Event | None:
        """Return the oldest event not yet fetched."""

    @abstractmethod
    def drops(self) -> dict[DropReason, int]:
        """Return how often each reason has dropped a packet; only those that have.

        NOT_FOR_US also counts what `inbound` then hands to SPD-I.
        """

    @abstractmethod
    def _count(self, reason: DropReason) -> None:
        """Raise the count of a drop that was decided outside the engine's packet path."""

    @abstractmethod
    def _tell(self, event: Event) -> None:
        """Add an event."""

    @abstractmethod
    def _recent_outbound(self, spi: int, remote: bytes) -> list[tuple[int, int]]:
        """Return (id, last number sent) of the outbound SAs with this SPI and outer destination that have sent any."""

    def counters(self) -> dict[str, int]:
        """Return all counters of /proc/net/xfrm_stat, in the kernel's order."""
        counts = dict.fromkeys(COUNTERS, 0)
        for reason, number in self.drops().items():
            if reason.counter:
                counts[reason.counter] += number
        return counts

    def outbound(self, packet: bytes, now: int, *, mark: int = 0) -> list[Verdict]:
        """Do with a packet from the protected side what policy says (RFC 4301 §5.1).

        mark: as `encapsulate` takes it.
        Returns one verdict; more where an IPv4 packet without DF had to be cut.
        Drops: OUT_BAD_PACKET, OUT_DISCARD, OUT_NO_SA (and an ACQUIRE event: there is no SA yet, or no longer), and
        those of encapsulate.
        """
        found = self._lookup_policy(packet, True)
        if found is None:
            return [self._drop(DropReason.OUT_BAD_PACKET)]
        index, sa = found
        if index is None:
            return [self._drop_unmatched(DropReason.OUT_DISCARD, packet, now)]
        policy = self._policies[0][index]
        if policy.action is Action.DISCARD:
            return [self._drop(DropReason.OUT_DISCARD)]
        if policy.action is Action.BYPASS:
            return [Bypassed(packet)]
        if sa is None or self._profile(sa) is None:
            datagram = ip.parse(packet)
            assert datagram is not None
            self._tell(Event(EventKind.ACQUIRE, now, selector=policy.selector_for(ip.flow(datagram))))
            return [self._drop(DropReason.OUT_NO_SA)]
        return self._send(sa, packet, now, mark)

    def _send(self, sa: int, packet: bytes, now: int, mark: int) -> list[Verdict]:
        """Protect a packet, cut where it has to be and may be (RFC 4301 §8.2.1)."""
        profile = self._profile(sa)
        if profile is not None and _is_cut_before(profile):
            mtu = self.inner_mtu(sa, now)
            datagram = ip.parse(packet) if len(packet) > mtu else None
            if datagram is not None and datagram.version == 4:
                return [self.encapsulate(sa, piece, now, mark=mark) for piece in fragment(datagram, mtu) or [packet]]
        verdict = self.encapsulate(sa, packet, now, mark=mark)
        if not isinstance(verdict, Delivered) or len(verdict.packet) <= (mtu := self.state(sa).mtu):
            return [verdict]
        outer = ip.parse(verdict.packet)
        assert outer is not None
        cut = fragment(outer, mtu, verdict.sequence & 0xFFFFFFFF) or [verdict.packet]
        return [Delivered(piece, sa, verdict.sequence, verdict.flow) for piece in cut]

    def inbound(self, packet: bytes, now: int) -> Verdict:
        """Do with a packet from the unprotected side what policy says (RFC 4301 §5.2).

        ESP goes to its SA and then through the SA's selectors; anything else through SPD-I.
        Drops: those of decapsulate but NOT_FOR_US, IN_NO_POLICY, IN_DISCARD.
        """
        verdict = self.decapsulate(packet, now)
        if not isinstance(verdict, Dropped) or verdict.reason is not DropReason.NOT_FOR_US:
            return verdict
        found = self._lookup_policy(packet, False)
        index = None if found is None else found[0]
        if index is None:
            return self._drop_unmatched(DropReason.IN_NO_POLICY, packet, now)
        if self._policies[1][index].action is Action.BYPASS:
            return Bypassed(packet)
        return self._drop(DropReason.IN_DISCARD)

    def icmp_error(self, packet: bytes, now: int) -> bool:
        """Take a "too big" message from the unprotected side; return whether an SA's MTU has changed.

        Unauthenticated: believed only if it quotes a packet that an SA of ours sent lately, never below 576 (IPv4) or
        1280 (IPv6), and never to raise the MTU. Source: RFC 4301 §8.2.
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
        mtu = max(claim.mtu, icmp.IPV4_MINIMUM_MTU if len(destination) == 4 else icmp.IPV6_MINIMUM_MTU)
        changed = False
        for sa in self._senders_of(destination, protocol, body):
            if mtu < self.state(sa).mtu:
                self.set_mtu(sa, mtu, now)
                self._tell(Event(EventKind.MTU_CHANGED, now, sa=sa, mtu=mtu))
                changed = True
        return changed

    def _senders_of(self, destination: bytes, number: int, body: bytes) -> list[int]:
        """Return the outbound SAs that have sent a quoted packet lately.   number: of its IP protocol."""
        found = []
        for protocol in PROTOCOLS.values():
            marker = protocol.marker() if number == UDP else b""
            inside = body[udp.HEADER :] if number == UDP else body
            located = protocol.quoted(inside[len(marker) :]) if inside.startswith(marker) else None
            if located is None:
                continue
            for sa, last in self._recent_outbound(located.spi, destination):
                profile = self._profile(sa)
                if profile is None or profile.ways is not protocol:
                    continue
                if number not in (UDP, protocol.ip_protocol(profile)):
                    continue
                if located.low is not None and protocol.sends_numbers(profile):
                    if protocol.has_sub_sas(profile):
                        last = self._last_of(sa, located.flow)
                    age = (last - located.low) & 0xFFFFFFFF
                    if age > LATELY or age >= last:
                        continue
                found.append(sa)
        return found

    def _last_of(self, sa: int, sub_sa: int) -> int:
        """Return the last number that a Sub SA has sent, 0 if none."""
        try:
            return self.sub_sa_state(sa, sub_sa).sequence
        except ConfigError:
            return 0

    # What the shared parts above need.

    _policies: tuple[tuple[Policy, ...], tuple[Policy, ...]] = ((), ())
    _icmp_second = -1
    _icmp_count = 0

    @abstractmethod
    def _profile(self, sa: int) -> Profile | None:
        """Return the profile of an SA, None if there is no such SA."""

    @abstractmethod
    def _reserve(self, sa: int, last: int) -> bool:
        """Bound the numbers of an outbound SA; return whether there is one."""

    @abstractmethod
    def _close_window(self, sa: int) -> bool:
        """Close the window of an inbound SA; return whether there is one."""

    @abstractmethod
    def _set_profile(self, sa: int, profile: Profile) -> None:
        """Give an SA a profile that differs from its own in addresses and ports alone."""

    def _drop(self, reason: DropReason, mtu: int = 0) -> Dropped:
        self._count(reason)
        return Dropped(reason, mtu)

    def _drop_unmatched(self, reason: DropReason, packet: bytes, now: int) -> Dropped:
        """Drop a packet that no policy matches, which is auditable (RFC 4301 §5.1, §5.2)."""
        datagram = ip.parse(packet) if self.options.audit else None
        if datagram is not None:
            header = datagram.header
            self._tell(
                Event(
                    EventKind.AUDIT,
                    now,
                    reason=reason,
                    source=header.source,
                    destination=header.destination,
                    flow_label=getattr(header, "flow_label", 0),
                )
            )
        return self._drop(reason)

    @staticmethod
    def _no_such_sub_sa(sub_sa: int) -> ConfigError:
        return ConfigError(f"no packet of Sub SA {sub_sa}", key="sub_sa", expected="one that has sent or received")

    @staticmethod
    def _no_such_sa(sa: int) -> ConfigError:
        return ConfigError(f"no SA has the id {sa}", key="sa", expected="an id that install returned")


def _is_cut_before(profile: Profile) -> bool:
    """Whether packets that are too large are cut before they are protected.

    Only tunnel mode carries fragments (RFC 4303 §3.3.4), and an outer header with DF leaves no other way.
    """
    if profile.mode is not Mode.TUNNEL or profile.outer is None:
        return False
    has_df = profile.outer.local.version == 4 and profile.outer.df is DF.SET
    return profile.fragmentation is Fragmentation.BEFORE or has_df


def _check_same_but_ends(before: Profile, after: Profile) -> None:
    """Refuse a profile that differs in more than outer addresses and UDP ports.   Raises ConfigError."""
    outer, around = after.outer, after.encapsulation
    if outer is not None and before.outer is not None:
        outer = replace(outer, local=before.outer.local, remote=before.outer.remote)
    if around is not None and before.encapsulation is not None:
        ports = before.encapsulation
        around = replace(around, local_port=ports.local_port, remote_port=ports.remote_port)
    back = replace(after, outer=outer, encapsulation=around)
    for setting in fields(Profile):
        if getattr(back, setting.name) != getattr(before, setting.name):
            raise ConfigError(
                f"an installed SA can not get another {setting.name}",
                key=setting.name,
                expected="the SA's own; only outer addresses and UDP ports may differ",
            )


def split_keys(profile: Profile, octets: int) -> tuple[int, int, int]:
    """Return how many octets of a row of install_many are key, salt and auth key.   Raises KeyMaterialError."""
    sizes = profile.ways.key_sizes(profile)
    key = octets - sizes.salt - sizes.auth_key
    if key not in sizes.key:
        allowed = [k + sizes.salt + sizes.auth_key for k in sizes.key]
        raise KeyMaterialError(
            f"{octets} octets a row for {profile.suite}", key="keys", expected=" or ".join(map(str, allowed))
        )
    return key, sizes.salt, sizes.auth_key


__all__ = ["MTU_AGE", "SECOND", "Algorithms", "Engine", "Options", "split_keys"]
