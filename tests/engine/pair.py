"""A sender and a receiver that share keys, and how to say what a drop has to look like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from wesper import (
    SA,
    Delivered,
    Direction,
    Dropped,
    DropReason,
    Engine,
    Event,
    Inner,
    Mode,
    Options,
    Outer,
    Profile,
    Selector,
    UDPEncapsulation,
    Verdict,
    open_engine,
)

from . import oracle
from .packets import LEFT4, LEFT6, RIGHT4, RIGHT6, ipv4

SPI = 0x0ABC0001
IV_KEY = bytes(range(16))
SECOND = 1_000_000_000
OUTER4, OUTER6 = Outer(LEFT4, RIGHT4), Outer(LEFT6, RIGHT6)


def engine(name: str, **options: Any) -> Engine:
    return open_engine(name, Options(**{"iv_key": IV_KEY, **options}))


def mirrored(profile: Profile) -> Profile:
    """The profile as the other end has it."""
    outer, inner, around = profile.outer, profile.inner, profile.encapsulation
    return replace(
        profile,
        outer=None if outer is None else replace(outer, local=outer.remote, remote=outer.local),
        inner=None if inner is None else Inner(inner.remote, inner.local),
        encapsulation=None
        if around is None
        else replace(around, local_port=around.remote_port, remote_port=around.local_port),
        selectors=tuple(
            Selector(s.remote, s.local, s.protocol, s.remote_ports, s.local_ports) for s in profile.selectors
        ),
    )


def sa(profile: Profile, direction: Direction, keys: oracle.Keys, spi: int = SPI, **settings: Any) -> SA:
    return SA(profile, direction, spi, keys.key, keys.salt, keys.auth_key, **settings)


@dataclass
class Pair:
    """One SA, at its two ends in two engines.

    out, in_: its ids there.   receiver_profile: as installed at the receiver.
    """

    profile: Profile
    receiver_profile: Profile
    keys: oracle.Keys
    sender: Engine
    receiver: Engine
    out: int
    in_: int

    @classmethod
    def of(
        cls,
        name: str,
        suite: str = "aes-gcm-16",
        mode: Mode = Mode.TUNNEL,
        *,
        keys: oracle.Keys | None = None,
        sequence: int = 0,
        options: dict[str, Any] | None = None,
        receiver: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Pair:
        """Install both ends.   receiver: settings of the profile that only that end has.   settings: of both."""
        if mode is not Mode.TRANSPORT:
            settings.setdefault("outer", OUTER4)
        profile = Profile(suite, mode, **settings)
        there = replace(mirrored(profile), **(receiver or {}))
        keys = keys or oracle.Keys.of(suite)
        left, right = engine(name, **(options or {})), engine(name, **(options or {}))
        out = left.install(sa(profile, Direction.OUT, keys, sequence=sequence))
        into = right.install(sa(there, Direction.IN, keys, sequence=sequence))
        return cls(profile, there, keys, left, right, out, into)

    def protect(self, packet: bytes | None = None, now: int = 0) -> bytes:
        return delivered(self.sender.encapsulate(self.out, ipv4() if packet is None else packet, now)).packet

    def open(self, packet: bytes, now: int = 0) -> Verdict:
        return self.receiver.decapsulate(packet, now)

    def seal(self, sequence: int, payload: bytes, next_header: int = 4, **settings: Any) -> bytes:
        """A packet of this SA by the oracle, in a plain IPv4 header."""
        iv = bytes(oracle.SUITES[self.keys.suite].iv)
        body = oracle.seal(self.keys, SPI, sequence, self.profile.esn, iv, payload, next_header, **settings)
        return ipv4(body, 50, source=LEFT4, destination=RIGHT4)


def delivered(verdict: Verdict) -> Delivered:
    assert isinstance(verdict, Delivered), verdict
    return verdict


def events(engine: Engine) -> list[Event]:
    """All events there are, oldest first."""
    return list(iter(engine.next_event, None))


@contextmanager
def counts(engine: Engine, *reasons: DropReason) -> Iterator[None]:
    """Each of these reasons' counters, and no other, goes up by one for each time it is named."""
    before_drops, before = engine.drops(), engine.counters()
    yield
    after_drops, after = engine.drops(), engine.counters()
    gone_up = {r: after_drops.get(r, 0) - before_drops.get(r, 0) for r in DropReason}
    assert {r: n for r, n in gone_up.items() if n} == {r: reasons.count(r) for r in reasons}
    expected = dict(before)
    for reason in reasons:
        if reason.counter:
            expected[reason.counter] += 1
    assert after == expected


def refused_out(engine: Engine, sa: int, packet: bytes, reason: DropReason, now: int = 0, **settings: Any) -> Dropped:
    """The SA does not send the packet, for this reason, and does not use a number for it."""
    before = engine.state(sa)
    with counts(engine, reason):
        verdict = engine.encapsulate(sa, packet, now, **settings)
    assert isinstance(verdict, Dropped), verdict
    assert verdict.reason is reason
    assert engine.state(sa) == before
    return verdict


def refused(engine: Engine, packet: bytes, reason: DropReason, now: int = 0, *, sa: int | None = None) -> None:
    """The packet is dropped for this reason, and the window of the SA (and all it counts of good packets) stays."""
    before = None if sa is None else engine.state(sa)
    with counts(engine, reason):
        assert engine.decapsulate(packet, now) == Dropped(reason)
    if before is not None and sa is not None:
        after = engine.state(sa)
        assert (after.sequence, after.packets, after.octets) == (before.sequence, before.packets, before.octets)
        assert after.replay - before.replay == (reason is DropReason.REPLAY)
        assert after.integrity_failed - before.integrity_failed == (reason is DropReason.AUTH)


__all__ = [
    "IV_KEY",
    "OUTER4",
    "OUTER6",
    "SECOND",
    "SPI",
    "Pair",
    "UDPEncapsulation",
    "counts",
    "delivered",
    "engine",
    "events",
    "mirrored",
    "refused",
    "refused_out",
    "sa",
]
