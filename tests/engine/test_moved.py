"""An SA that goes on between other addresses or ports: `Engine.set_profile` (RFC 7296 §2.23)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from wesper import (
    DF,
    ConfigError,
    Delivered,
    Direction,
    DropReason,
    Engine,
    EventKind,
    Inner,
    Lifetime,
    Mode,
    Profile,
    Selector,
    UDPEncapsulation,
)

from .packets import A4, B4, LEFT4, RIGHT4, UDP, ipv4, udp
from .pair import OUTER4, OUTER6, SECOND, Pair, counts, delivered, events, refused, sa

PORTS = UDPEncapsulation(4500, 4500)
AWAY = ip_address("192.0.2.99")
PACKET = ipv4(b"payload")


def moved(profile: Profile, **ports: int) -> Profile:
    """The profile with its remote end at AWAY, and there another port."""
    assert profile.outer is not None
    assert profile.encapsulation is not None
    outer, around = replace(profile.outer, remote=AWAY), replace(profile.encapsulation, **ports)
    return replace(profile, outer=outer, encapsulation=around)


def from_where(protected: bytes, source: Any, port: int) -> bytes:
    return ipv4(udp(protected[28:], port, 4500), UDP, source=source, destination=RIGHT4)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.BEET])
def test_the_sender_goes_on_elsewhere(engine_name: str, mode: Mode, used: bool) -> None:
    inner = Inner(A4, B4) if mode is Mode.BEET else None
    options = {"udp_ports": frozenset({4500, 61000})}
    pair = Pair.of(engine_name, mode=mode, encapsulation=PORTS, inner=inner, sequence=7, options=options)
    before = [pair.protect() for _ in range(used)]
    pair.sender.set_profile(pair.out, moved(pair.profile, remote_port=61000))
    verdict = delivered(pair.sender.encapsulate(pair.out, PACKET, 0))
    packet = verdict.packet
    assert verdict.sequence == 8 + used
    assert (packet[12:16], packet[16:20]) == (LEFT4.packed, AWAY.packed)
    assert (packet[20:22], packet[22:24]) == ((4500).to_bytes(2, "big"), (61000).to_bytes(2, "big"))
    state = pair.sender.state(pair.out)
    assert (state.sequence, state.packets) == (8 + used, 1 + used)
    for protected in (*before, packet):
        assert isinstance(pair.open(protected), Delivered)


def test_from_one_ip_version_to_the_other(engine_name: str) -> None:
    """The outer header grows, so what fits inside shrinks."""
    pair = Pair.of(engine_name, mtu=1000)
    room = pair.sender.inner_mtu(pair.out)
    pair.protect()
    pair.sender.set_profile(pair.out, replace(pair.profile, outer=OUTER6))
    assert pair.sender.inner_mtu(pair.out) == room - 20
    packet = pair.protect(ipv4(bytes(room - 40)))
    assert packet[0] >> 4 == 6
    assert len(packet) <= 1000
    assert isinstance(pair.open(packet), Delivered)


def test_the_receiver_goes_on(engine_name: str) -> None:
    """Window and counts stay; the newest packet is now expected from the new place."""
    pair = Pair.of(engine_name, encapsulation=PORTS)
    first, second, third = pair.protect(), pair.protect(), pair.protect()
    assert isinstance(pair.open(first), Delivered)
    assert isinstance(pair.open(from_where(second, AWAY, 61000)), Delivered)
    [event] = events(pair.receiver)
    assert (event.kind, event.address, event.port) == (EventKind.PEER_MOVED, AWAY.packed, 61000)
    pair.receiver.set_profile(pair.in_, moved(pair.receiver_profile, remote_port=61000))
    refused(pair.receiver, first, DropReason.REPLAY, sa=pair.in_)
    assert isinstance(pair.open(from_where(third, AWAY, 61000)), Delivered)
    assert events(pair.receiver) == []
    assert pair.receiver.state(pair.in_).packets == 3
    assert isinstance(pair.open(pair.protect()), Delivered)
    [event] = events(pair.receiver)
    assert (event.kind, event.address, event.port) == (EventKind.PEER_MOVED, LEFT4.packed, 4500)


@pytest.mark.parametrize("used", [False, True])
def test_the_local_port_moves(engine_name: str, used: bool) -> None:
    """ESP is looked for at the new port, and no longer at the old one; removal leaves neither."""
    pair = Pair.of(engine_name, encapsulation=UDPEncapsulation(4500, 7000))
    if used:
        assert isinstance(pair.open(pair.protect()), Delivered)
    assert pair.receiver_profile.encapsulation is not None
    around = replace(pair.receiver_profile.encapsulation, local_port=7001)
    pair.receiver.set_profile(pair.in_, replace(pair.receiver_profile, encapsulation=around))
    protected = pair.protect()
    at = [ipv4(udp(protected[28:], 4500, port), UDP, source=LEFT4, destination=RIGHT4) for port in (7000, 7001)]
    with counts(pair.receiver, DropReason.NOT_FOR_US):
        pair.open(at[0])
    assert isinstance(pair.open(at[1]), Delivered)
    pair.receiver.remove(pair.in_)
    with counts(pair.receiver, DropReason.NOT_FOR_US):
        pair.open(at[1])


def test_lifetimes_mtu_and_bound_stay(engine_name: str) -> None:
    pair = Pair.of(engine_name, hard=Lifetime(packets=3, seconds=100), mtu=1500)
    pair.sender.set_mtu(pair.out, 1000, 5 * SECOND)
    pair.sender.reserve(pair.out, 2)
    pair.protect(now=6 * SECOND)
    pair.sender.set_profile(pair.out, replace(pair.profile, outer=replace(OUTER4, remote=AWAY)))
    assert pair.sender.state(pair.out).mtu == 1000
    assert pair.sender.deadline() == 100 * SECOND
    pair.protect(now=7 * SECOND)
    with counts(pair.sender, DropReason.OUT_NOT_RESERVED):
        pair.sender.encapsulate(pair.out, PACKET, 7 * SECOND)
    pair.sender.reserve(pair.out, 9)
    pair.protect(now=8 * SECOND)
    assert [(event.kind, event.limit) for event in events(pair.sender)] == [(EventKind.HARD_EXPIRED, "packets")]
    pair.sender.handle_timeout(8 * SECOND)
    assert pair.sender.deadline() is None


def test_others_with_the_profile_stay_where_they_are(engine_name: str) -> None:
    pair = Pair.of(engine_name, encapsulation=PORTS)
    host = pair.sender
    second = host.install(sa(pair.profile, Direction.OUT, pair.keys, 0x7777))
    host.set_profile(pair.out, moved(pair.profile))
    assert delivered(host.encapsulate(second, PACKET, 0)).packet[16:20] == RIGHT4.packed
    assert delivered(host.encapsulate(pair.out, PACKET, 0)).packet[16:20] == AWAY.packed


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("suite", {"suite": "aes-gcm-8"}),
        ("mode", {"mode": Mode.TRANSPORT}),
        ("outer", {"outer": replace(OUTER4, df=DF.SET)}),
        ("outer", {"outer": replace(OUTER4, hop_limit=3, remote=AWAY)}),
        ("encapsulation", {"encapsulation": None}),
        ("encapsulation", {"encapsulation": replace(PORTS, checksum=True)}),
        ("esn", {"esn": False}),
        ("window", {"window": 64}),
        ("mtu", {"mtu": 1400}),
        ("pad_to", {"pad_to": 100}),
        ("selectors", {"selectors": (Selector(),)}),
        ("soft", {"soft": Lifetime(packets=9)}),
        ("hard", {"hard": Lifetime(packets=9)}),
    ],
)
def test_anything_else_is_refused(engine_name: str, key: str, settings: dict[str, Any]) -> None:
    pair = Pair.of(engine_name, encapsulation=PORTS)
    ends: tuple[tuple[Engine, int, Profile], ...] = (
        (pair.sender, pair.out, pair.profile),
        (pair.receiver, pair.in_, pair.receiver_profile),
    )
    for host, number, profile in ends:
        with pytest.raises(ConfigError) as refusal:
            host.set_profile(number, replace(profile, **settings))
        assert refusal.value.key == key
    assert isinstance(pair.open(pair.protect()), Delivered)


def test_outer_addresses_do_not_appear_or_vanish(engine_name: str) -> None:
    pair = Pair.of(engine_name, mode=Mode.TRANSPORT)
    with pytest.raises(ConfigError, match="another outer"):
        pair.sender.set_profile(pair.out, replace(pair.profile, outer=OUTER4))


def test_no_such_sa(engine_name: str) -> None:
    pair = Pair.of(engine_name)
    for number in (5, pair.out + 1):
        with pytest.raises(ConfigError, match="no SA has the id"):
            pair.sender.set_profile(number, pair.profile)
