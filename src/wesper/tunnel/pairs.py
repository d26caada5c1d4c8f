"""One tunnel's pairs of SAs at work: which one data leaves by, when a new one has proven itself, when an old one goes.

Static keys have nobody who agrees on a moment. So every pair of the file is there for receiving at once; on each pair
that the peer has not been heard on, a dummy (RFC 4303 §2.6) goes out now and then; and when an authentic packet has
come on a newer pair, data moves to it. Pairs that are gone from the file are kept until a newer one has proven itself,
and a while longer for what is on its way. So neither order of two reloads loses a packet.

No socket and no clock in here: `step` is called now and then, and what it wants sent is sent by its caller.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Final

from ..engine.interface import SECOND
from ..errors import ConfigError
from ..protocols.ip import IPAddress, checksum
from ..sa import Direction, Mode, Policy, SAState
from ..sa.selectors import Action
from ..verdict import Delivered
from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6
from ..wire.numbers import NO_NEXT_HEADER
from .carrier import AnyProfile, AnySA, Carrier
from .file import ANY, SAPair, TunnelSettings
from .state import State, fingerprint

PROBE_NS: Final = SECOND // 5
PROBE_MOST_NS: Final = 5 * SECOND  # a peer that is not there is asked less and less often
ANSWER_NS: Final = 5 * SECOND  # who has sent nothing for so long, and is spoken to, lets itself be heard
SILENT_NS: Final = 15 * SECOND
GRACE_NS: Final = 10 * SECOND
_GONE: Final = SAState(0, 0, 0, 0, 0, 0)  # of an SA whose hard lifetime was over
_DUMMY = b"\0" * 8  # a Linux peer wants at least one octet


@dataclass(slots=True, eq=False)
class Pair:
    """A pair that is installed.

    sent, heard: when a packet of it was last seen to go and come, ns; None: never.   owes: a dummy, to who was heard.
    retire_at: when it goes.   ended: the peer broke what was agreed on, and its SAs are gone.
    """

    pair: SAPair
    out: AnySA
    inward: AnySA
    out_id: int
    in_id: int
    out_mark: bytes
    in_mark: bytes
    out_packets: int = 0
    in_packets: int = 0
    sent: int | None = None
    heard: int | None = None
    owes: bool = False
    next_probe: int = 0
    probe_every: int = PROBE_NS
    wanted: bool = True
    retire_at: int | None = None
    ended: bool = False

    @property
    def proven(self) -> bool:
        """Whether the peer was heard on it."""
        return self.heard is not None


class Tunnel:
    """A tunnel that runs.

    tell: an event's name and fields.   send: takes a protected packet.
    local: the address it sends from.   remote: where the peer is, with its UDP port (0 without UDP); None: not known.
    ports: that PSP sends from.
    """

    def __init__(
        self,
        settings: TunnelSettings,
        engine: Carrier,
        state: State,
        local: IPAddress,
        path_mtu: int,
        *,
        ports: tuple[int, ...] = (),
        tell: Callable[..., None],
        send: Callable[[bytes], None],
    ) -> None:
        self.settings, self.local, self.path_mtu, self.ports = settings, local, path_mtu, ports
        self._engine, self._state, self._tell, self._send = engine, state, tell, send
        around = settings.encapsulation
        self.remote: tuple[IPAddress, int] | None = None
        if settings.peer is not None:
            self.remote = settings.peer, around.remote_port if around is not None else 0
        self.pairs: list[Pair] = []
        self.sending: Pair | None = None
        self.heard: int | None = None
        self.silent = False
        self._unanswered: int | None = None
        self._spoke = self._next_elsewhere = 0

    @property
    def name(self) -> str:
        return self.settings.name

    def profile(self) -> AnyProfile:
        """Return the profile of SAs installed now."""
        peer, port = self.remote or (None, None)
        port = port if self.settings.encapsulation is not None else None
        return self.settings.profile(self.local, peer, port, self.path_mtu, self.ports)

    def prepare(self, pairs: tuple[SAPair, ...]) -> list[tuple[AnySA, str]]:
        """Return the SAs of pairs, with what people call them, for `State.admit`."""
        profile = self.profile()
        return [
            (self.settings.sa(pair, direction, profile), f"{self.name}, {pair.title}")
            for pair in pairs
            for direction in (Direction.OUT, Direction.IN)
        ]

    def install(self, pair: SAPair, now: int) -> None:
        """Install a pair that the state has admitted; the first one is for data at once.   Raises OSError."""
        profile = self.profile()
        out, inward = (self.settings.sa(pair, way, profile) for way in (Direction.OUT, Direction.IN))
        marks = fingerprint(out), fingerprint(inward)
        out = replace(out, sequence=self._state.resume(out))
        inward = replace(inward, sequence=self._state.resume(inward))
        in_id = self._engine.install(inward, now)
        self._engine.close_window(in_id)  # all that an earlier run received has been received
        out_id = self._engine.install(out, now)
        self._engine.reserve(out_id, self._state.reserved(out))
        self.pairs.append(Pair(pair, out, inward, out_id, in_id, *marks, next_probe=now))
        if self.sending is None:
            self.sending = self.pairs[-1]
        self._tell("pair_added", tunnel=self.name, pair=pair.title)

    def want(self, settings: TunnelSettings) -> None:
        """Take over what a file read again says: pairs that it no longer has are to go when they can."""
        self.settings = settings
        for each in self.pairs:
            each.wanted = each.pair in settings.pairs

    def policy(self) -> Policy:
        """Return the entry of the outbound SPD; without an SA as long as nobody knows where the peer is."""
        known = self.remote is not None and self.sending is not None
        sas = ((None, self.sending.out_id),) if known and self.sending is not None else ()
        return Policy(Action.PROTECT, self.settings.selectors, sas, self.name)

    def step(self, now: int) -> bool:
        """Look at what has gone and come since the last call, and do what is due.   Returns whether policy changed."""
        sending = self.sending
        for pair in list(self.pairs):
            self._look(pair, now)
        newest = next((each for each in reversed(self.pairs) if each.proven and each.wanted and not each.ended), None)
        if newest is not None and (
            self.sending is None
            or self.pairs.index(newest) > self.pairs.index(self.sending)
            or not self.sending.wanted
            or self.sending.ended
        ):
            self._change_to(newest)
        elif self.sending is not None and self.sending.ended:
            self._change_to(next((each for each in reversed(self.pairs) if not each.ended), self.sending))
        for pair in list(self.pairs):
            self._retire(pair, now)
            self._speak(pair, now)
        self._judge(now)
        return self.sending is not sending

    def moved(self, address: bytes, port: int, now: int) -> bool:
        """Take note that an authentic packet came from elsewhere.   Returns whether policy changed."""
        remote = ip_address(address), port
        if remote == self.remote:
            return False
        where = f"{remote[0]} port {port}"
        if not self.settings.roaming:
            if now >= self._next_elsewhere:  # whoever relays packets can have it change with each of them
                self._next_elsewhere = now + SILENT_NS
                self._tell("peer_elsewhere", tunnel=self.name, peer=where)
            return False
        before, self.remote = self.remote, remote
        profile = self.profile()
        for each in self.pairs:
            for sa in (each.out_id, each.in_id):
                with contextlib.suppress(ConfigError):  # its hard lifetime was over
                    self._engine.set_profile(sa, profile)
        self._tell("peer_moved", tunnel=self.name, peer=where)
        return before is None

    def tear_down(self, pair: Pair) -> None:
        """End a pair whose peer broke what was agreed on, both ways (draft-ietf-ipsecme-eesp-03 §3.1.2).

        It stays in the list, so that only new keys, or a new start, make SAs again. The next `step` has data leave by
        another pair; without one no data leaves.
        """
        pair.ended = True
        self._remove_sas(pair)

    def holds(self, sa: int) -> Pair | None:
        """Return the pair that an SA belongs to."""
        return next((each for each in self.pairs if sa in (each.out_id, each.in_id)), None)

    def close(self) -> None:
        """Remove all SAs."""
        for each in list(self.pairs):
            self._drop(each)

    def keepalive(self, now: int) -> bytes | None:
        """Return a NAT keepalive (RFC 3948 §2.3), from the outer IP header on, if one is due."""
        around, every = self.settings.encapsulation, self.settings.keepalive
        if not every or around is None or self.remote is None or now - self._spoke < every * SECOND:
            return None
        self._spoke = now
        peer, port = self.remote
        datagram = struct.pack(">HHHH", around.local_port, port, 9, 0) + b"\xff"
        return _header(self.local, peer, 17, len(datagram)) + datagram

    def describe(self, now: int) -> dict[str, Any]:
        """Return what `wesper status` tells."""
        peer = self.remote
        return {
            "name": self.name,
            "protocol": self.settings.protocol,
            "mode": self.settings.mode.value,
            "suite": self.settings.suite,
            "local": str(self.local),
            "peer": None if peer is None else str(peer[0]),
            "peer_port": None if peer is None or not peer[1] else peer[1],
            "roaming": self.settings.roaming,
            "replay": self._describe_replay(),
            "networks": [str(each) for each in self.settings.networks],
            "path_mtu": self.path_mtu,
            "heard_seconds_ago": _ago(self.heard, now),
            "silent": self.silent,
            "pairs": [self._describe_pair(each, now) for each in self.pairs],
        }

    def _describe_replay(self) -> dict[str, Any]:
        psp, window = self.settings.psp, self.settings.window
        if psp is not None:
            return psp.describe_replay()
        return {"rule": "bitmap", "window": window} if window else {"rule": "none"}

    def _describe_pair(self, pair: Pair, now: int) -> dict[str, Any]:
        def numbers(sa: int, spi: int) -> dict[str, Any]:
            state = self._state_of(sa) or _GONE
            return {
                "spi": spi,
                "id": sa,
                "expired": state is _GONE,
                "sequence": state.sequence,
                "packets": state.packets,
                "octets": state.octets,
                "replay": state.replay,
                "integrity_failed": state.integrity_failed,
                "mtu": state.mtu,
            }

        return {
            "sending": pair is self.sending,
            "proven": pair.proven,
            "in_file": pair.wanted,
            "ended": pair.ended,
            "sent_seconds_ago": _ago(pair.sent, now),
            "heard_seconds_ago": _ago(pair.heard, now),
            "out": numbers(pair.out_id, pair.pair.spi_out),
            "in": numbers(pair.in_id, pair.pair.spi_in),
        }

    def _look(self, pair: Pair, now: int) -> None:
        out, inward = self._state_of(pair.out_id), self._state_of(pair.in_id)
        if out is None or inward is None:  # a hard lifetime was over, and the engine has removed it
            return
        if out.packets > pair.out_packets:
            pair.out_packets, pair.sent, self._spoke = out.packets, now, now
            if self._unanswered is None:
                self._unanswered = now
        if inward.packets > pair.in_packets:
            # Once when the peer is first heard, so that it hears in turn; then only if it would take us for silent.
            # Whoever just spoke owes nothing, else dummies would answer dummies for ever.
            pair.owes = not pair.proven or (pair.sent is not None and now - pair.sent >= ANSWER_NS)
            if not pair.proven:
                self._tell("pair_proven", tunnel=self.name, pair=pair.pair.title)
            pair.in_packets, pair.heard = inward.packets, now
            self._unanswered = None
            if self.heard is None or self.silent:
                self.silent = False
                self._tell("peer_heard", tunnel=self.name)
            self.heard = now

    def _change_to(self, pair: Pair) -> None:
        if pair is self.sending:
            return
        before, self.sending = self.sending, pair
        if before is not None:
            self._tell("pair_sending", tunnel=self.name, pair=pair.pair.title)

    def _retire(self, pair: Pair, now: int) -> None:
        if pair.wanted:
            pair.retire_at = None
        elif pair.ended:
            self._drop(pair)
        elif pair is not self.sending and self.sending is not None and self.sending.wanted and self.sending.proven:
            pair.retire_at = pair.retire_at or now + GRACE_NS
            if now >= pair.retire_at:
                self._drop(pair)

    def _speak(self, pair: Pair, now: int) -> None:
        """Send a dummy where the peer has not been heard yet, or is heard and hears nothing."""
        if not self.settings.probe or self.remote is None or pair not in self.pairs or pair.ended:
            return
        if not pair.proven or self.silent:
            if now < pair.next_probe:
                return
            pair.next_probe = now + pair.probe_every
            pair.probe_every = min(pair.probe_every * 5 // 4, PROBE_MOST_NS)
        elif not pair.owes:
            return
        pair.owes = False
        self._dummy(pair, now)

    def _dummy(self, pair: Pair, now: int) -> None:
        if self.settings.mode is Mode.TUNNEL or self.settings.psp is not None:
            verdict = self._engine.dummy(pair.out_id, _DUMMY, now)
        else:
            # Transport and BEET mode take header and all from a packet: one without a next header is a dummy.
            inner, peer = self.settings.inner, self.remote
            ends = (self.local, peer[0] if peer else ANY[self.local.version])
            if inner is not None and self.settings.mode is Mode.BEET:
                ends = inner.local, inner.remote
            packet = _header(*ends, NO_NEXT_HEADER, len(_DUMMY)) + _DUMMY
            verdict = self._engine.encapsulate(pair.out_id, packet, now)
        if isinstance(verdict, Delivered):
            self._send(verdict.packet)

    def _judge(self, now: int) -> None:
        if self._unanswered is not None and now - self._unanswered > SILENT_NS and not self.silent:
            self.silent = True
            for each in self.pairs:
                each.probe_every = PROBE_MOST_NS
            self._tell("peer_silent", tunnel=self.name)

    def _drop(self, pair: Pair) -> None:
        self.pairs.remove(pair)
        self._remove_sas(pair)
        if pair is self.sending:
            self.sending = next((each for each in reversed(self.pairs) if each.proven and not each.ended), None)
            self.sending = self.sending or (self.pairs[-1] if self.pairs else None)
        self._tell("pair_removed", tunnel=self.name, pair=pair.pair.title)

    def _remove_sas(self, pair: Pair) -> None:
        for sa in (pair.out_id, pair.in_id):
            if self._state_of(sa) is not None:
                self._engine.remove(sa)

    def _state_of(self, sa: int) -> SAState | None:
        try:
            return self._engine.state(sa)
        except ConfigError:  # its hard lifetime was over
            return None


def _header(source: IPAddress, destination: IPAddress, protocol: int, octets: int) -> bytes:
    if source.version == 6:
        header6 = IPv6(
            payload_length=octets, next_header=protocol, hop_limit=64, source=source.packed,
            destination=destination.packed,
        )  # fmt: skip
        return header6.build()
    header = IPv4(
        total_length=20 + octets, df=1, ttl=64, protocol=protocol, source=source.packed, destination=destination.packed
    )
    header.checksum = checksum(header.build())
    return header.build()


def _ago(moment: int | None, now: int) -> float | None:
    return None if moment is None else round((now - moment) / SECOND, 1)
