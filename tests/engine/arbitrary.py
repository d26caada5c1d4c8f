"""Arbitrary profiles, SAs, policies and packets: valid ones, rare ones, and what is no packet at all.

Profiles are drawn by Hypothesis, so that a failing one shrinks; packets come from a seeded generator, since there are
many of them and their octets matter less than which there are.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st

from wesper import (
    DF,
    OPAQUE,
    Action,
    AddressRange,
    Fragmentation,
    Inner,
    Lifetime,
    Mode,
    Outer,
    Policy,
    Profile,
    Selector,
    UDPEncapsulation,
)

from . import oracle
from .packets import (
    A4,
    A6,
    B4,
    B6,
    LEFT4,
    LEFT6,
    RIGHT4,
    RIGHT6,
    extension,
    fragment_header,
    ipv4,
    ipv6,
    patched,
    routing,
    udp,
)

PORTS = (4500, 7000, 7001)
PROTOCOLS = (0, 1, 4, 6, 17, 33, 41, 43, 44, 50, 58, 59, 60, 94, 132, 135, 136, 253)
GROUPS = ((RIGHT4,), (RIGHT4, LEFT4), (RIGHT6,), (RIGHT6, LEFT6))

_maybe = st.booleans()
_limit = st.none() | st.integers(1, 6)
_big_limit = st.none() | st.integers(1, 2000)
_port_range = st.sampled_from([None, OPAQUE, (0, 65535), (1000, 1000), (2000, 2048), (8 << 8, 8 << 8 | 255)])
_ranges = st.sampled_from(
    [
        (),
        (AddressRange(4, int(A4), int(A4)),),
        (AddressRange.parse("10.0.0.0/8"), AddressRange.parse("2001:db8:a::/48")),
        (AddressRange.parse("2001:db8:b::-2001:db8:b::ffff"), AddressRange.parse("10.2.0.0-10.2.0.9")),
        (AddressRange.parse("203.0.113.0/24"),),
    ]
)

selectors = st.builds(
    Selector, _ranges, _ranges, st.none() | st.sampled_from(PROTOCOLS), _port_range, st.none() | _port_range
)
lifetimes = st.builds(Lifetime, seconds=_limit, octets=_big_limit, packets=_limit, idle_seconds=_limit)


@st.composite
def outers(draw: st.DrawFn) -> Outer:
    ends = draw(st.sampled_from([(LEFT4, RIGHT4), (LEFT6, RIGHT6)]))
    if draw(_maybe):
        return Outer(*ends)
    return Outer(
        *ends,
        hop_limit=draw(st.integers(1, 255)),
        df=draw(st.sampled_from(DF)),
        dscp=draw(st.none() | st.integers(0, 63)),
        copy_ecn=draw(_maybe),
        flow_label=draw(st.none() | st.integers(0, 0xFFFFF)),
        identification=draw(st.none() | st.integers(0, 0xFFFF)),
        take_dscp=draw(_maybe),
    )


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Any profile that checks itself; half of them without lifetimes, so that something gets through."""
    mode = draw(st.sampled_from([Mode.TRANSPORT, Mode.TUNNEL, Mode.BEET]))
    settings: dict[str, Any] = {}
    if mode is not Mode.TRANSPORT or draw(_maybe):
        settings["outer"] = draw(outers())
    if mode is Mode.BEET or (mode is Mode.TRANSPORT and draw(_maybe)):
        settings["inner"] = draw(st.sampled_from([Inner(A4, B4), Inner(A6, B6)]))
    if draw(_maybe):
        port = st.sampled_from(PORTS)
        settings["encapsulation"] = UDPEncapsulation(draw(port), draw(port), draw(st.sampled_from([None, True, False])))
    if draw(_maybe):
        settings |= {"soft": draw(lifetimes), "hard": draw(lifetimes), "jitter": draw(st.sampled_from([0, 1, 50, 90]))}
    if draw(_maybe):
        settings["selectors"] = tuple(draw(st.lists(selectors, max_size=2)))
    return Profile(
        draw(st.sampled_from(list(oracle.SUITES))),
        mode,
        esn=draw(_maybe),
        window=draw(st.sampled_from([0, 32, 64, 96, 1024, 1 << 20])),
        check_padding=draw(_maybe),
        pad_to=draw(st.sampled_from([0, 0, 1, 100, 1400, 65535])) if mode is Mode.TUNNEL else 0,
        mtu=draw(st.sampled_from([65535, 65535, 1500, 1280, 600, 576, 100, 68])),
        fragmentation=draw(st.sampled_from(Fragmentation)),
        resynchronise=draw(_maybe),
        **settings,
    )


def first_numbers(profile: Profile) -> st.SearchStrategy[int]:
    """Numbers to start from: the first, those around the halves, the last."""
    some = [0, 0, 0, 5, (1 << 31) - 2, (1 << 32) - 3, (1 << 32) - 1]
    if profile.esn:
        some += [1 << 32, (3 << 32) - 20, (3 << 32) + 20, (1 << 64) - 3, (1 << 64) - 1]
    return st.sampled_from(some)


@st.composite
def policies(draw: st.DrawFn, sas: tuple[int, ...]) -> Policy:
    """A policy that may name these SAs."""
    dscp = st.none() | st.frozensets(st.sampled_from([0, 1, 8, 46, 63]), max_size=3)
    names = ["local", "remote", "protocol", "local_ports", "remote_ports"]
    carriers = st.lists(st.tuples(dscp, st.sampled_from(sas)), max_size=2) if sas else st.just([])
    return Policy(
        draw(st.sampled_from([Action.PROTECT, Action.PROTECT, Action.BYPASS, Action.DISCARD])),
        tuple(draw(st.lists(selectors, max_size=2))),
        tuple(draw(carriers)),
        populate_from_packet=draw(st.frozensets(st.sampled_from(names))),
    )


# Packets.


def packet(chance: random.Random) -> bytes:
    """An IP packet as a rule, else octets that look like one or like nothing."""
    kind = chance.random()
    if kind < 0.04:
        return chance.randbytes(chance.randrange(80))
    made = _ipv4(chance) if chance.random() < 0.5 else _ipv6(chance)
    if kind < 0.08:
        return made[: chance.randrange(len(made))]
    if kind < 0.12:
        at = chance.randrange(min(len(made), 48))
        return made[:at] + chance.randbytes(1) + made[at + 1 :]
    if kind < 0.16:
        return made + chance.randbytes(chance.randrange(1, 40))
    return made


def _octets(chance: random.Random) -> int:
    return chance.choice([0, 1, 7, 8, chance.randrange(120), chance.randrange(120), chance.randrange(1600), 1400])


def _upper(chance: random.Random) -> tuple[bytes, int]:
    protocol = chance.choice(PROTOCOLS)
    if chance.random() < 0.6:
        protocol = chance.choice((1, 6, 17, 58, 135))
    if protocol == 17:
        some = chance.randbytes(_octets(chance))
        data = chance.choice([some, some, some, b"\xff", b"\0\0\0\0IKE", b"\0\0\0\2WESP"])
        return udp(data, chance.choice((1000, 2000, 4500)), chance.choice(PORTS)), 17
    data = chance.randbytes(_octets(chance))
    if protocol in (1, 58) and data:
        data = bytes((chance.choice((8, 0, 3, 128)),)) + data[1:]
    return data, protocol


def _ipv4(chance: random.Random) -> bytes:
    payload, protocol = _upper(chance)
    source, destination = chance.choice([(A4, B4), (A4, B4), (B4, A4), (A4, RIGHT4), (LEFT4, RIGHT4)])
    fragment = chance.random() < 0.1
    options = chance.choice([b"", b"", b"", b"\x94\x04\0\0", b"\x01" * 8, b"\x83\x07\x04\x0a\0\0\1\0", b"\x01" * 40])
    return ipv4(
        payload,
        protocol,
        source=source,
        destination=destination,
        tos=chance.choice([0, 1, 2, 3, 46 << 2, 0xFF, 8 << 2 | 1]),
        identification=chance.choice([0, 0x1234]),
        df=chance.random() < 0.3,
        mf=fragment and chance.random() < 0.7,
        offset=8 * chance.randrange(3) if fragment else 0,
        ttl=chance.choice([1, 64, 255]),
        options=options,
    )


def _ipv6(chance: random.Random) -> bytes:
    payload, protocol = _upper(chance)
    for _ in range(chance.choice([0, 0, 1, 2, 4])):
        kind = chance.choice((0, 43, 44, 60))
        if kind == 44:
            offset = chance.choice([0, 0, 8, 16])
            head = fragment_header(protocol, offset, chance.random() < 0.3)
        elif kind == 43:
            head = routing(protocol)
        else:
            head = extension(protocol, units=chance.choice([0, 0, 1, 3]))
        payload, protocol = head + payload, kind
    source, destination = chance.choice([(A6, B6), (A6, B6), (B6, A6), (LEFT6, RIGHT6)])
    return ipv6(
        payload,
        protocol,
        source=source,
        destination=destination,
        traffic_class=chance.choice([0, 1, 2, 3, 46 << 2, 0xFF]),
        flow_label=chance.choice([0, 0x12345]),
        hop_limit=chance.choice([1, 64, 255]),
    )


def inner_payload(chance: random.Random) -> tuple[int, bytes]:
    """What a peer with the keys may put inside: Next Header and payload, fitting or not."""
    kind = chance.random()
    if kind < 0.5:
        inner = packet(chance)
        return chance.choice([4, 41, 41 if inner[:1] >= b"\x60" else 4]), inner + bytes(chance.choice([0, 0, 5]))
    if kind < 0.6:
        return 59, chance.randbytes(chance.randrange(9))
    if kind < 0.8:
        units = chance.choice([0, 0, 1, 2, 5, 6, 255])
        pad = chance.choice([0, 0, 4, 4, 1, 8])
        head = bytes((chance.choice(PROTOCOLS), units, pad, chance.randrange(256)))
        whole = head + bytes((1,)) * (8 * units + 4)
        return 94, whole[: chance.choice([len(whole), len(whole), chance.randrange(len(whole))])] + udp()
    return chance.choice(PROTOCOLS), chance.choice([udp(), chance.randbytes(_octets(chance)), b""])


def mangled(chance: random.Random, arriving: bytes) -> bytes:
    """What may become of a packet on its way, or at the hands of somebody there."""
    if len(arriving) < 2:
        return arriving
    kind = chance.randrange(9)
    is_ipv4 = arriving[0] >> 4 == 4
    if kind == 0:
        at = chance.randrange(len(arriving))
        return arriving[:at] + bytes((arriving[at] ^ 1 << chance.randrange(8),)) + arriving[at + 1 :]
    if kind == 1:
        return arriving[: chance.randrange(len(arriving))]
    if kind == 2:
        return arriving + chance.randbytes(chance.randrange(1, 20))
    if kind == 3:
        # ECN and DSCP of the outer header.
        if is_ipv4:
            return patched(arriving, 1, chance.randbytes(1))
        return bytes((0x60 | chance.randrange(16), chance.randrange(16) << 4 | arriving[1] & 15)) + arriving[2:]
    if kind == 4:
        # From elsewhere.
        at = 12 if is_ipv4 else 8
        return patched(arriving, at, chance.randbytes(1)) if is_ipv4 else arriving[:at] + b"\xfd" + arriving[at + 1 :]
    if kind == 5 and is_ipv4:
        return patched(arriving, 6, chance.choice([b"\x20\0", b"\0\x01", b"\x40\0"]))
    if kind == 6:
        # Ports, UDP length, or SPI and number.
        at = (20 if is_ipv4 else 40) + chance.randrange(12)
        return arriving[:at] + chance.randbytes(1) + arriving[at + 1 :]
    if kind == 7 and is_ipv4:
        # The IP header tells a shorter packet, and says so rightly.
        octets = chance.randrange(20, len(arriving) + 1) if len(arriving) > 20 else 20
        return patched(arriving, 2, octets.to_bytes(2, "big"))
    at = chance.randrange(min(48, len(arriving)))
    return arriving[:at] + chance.randbytes(1) + arriving[at + 1 :]
