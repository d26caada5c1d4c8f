"""The SPD in front of the SAs, and the selectors of an SA (RFC 4301 §4.4, §5)."""

from __future__ import annotations

from typing import Any

import pytest

from wesper import (
    OPAQUE,
    Action,
    AddressRange,
    Bypassed,
    ConfigError,
    Delivered,
    Direction,
    Dropped,
    DropReason,
    Engine,
    EventKind,
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
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    extension,
    fragment_header,
    icmp,
    ipv4,
    ipv6,
    tcp,
    udp,
)
from .pair import OUTER4, Pair, counts, engine, events, refused, sa

HERE, THERE = AddressRange.parse("10.1.0.0/16"), AddressRange.parse("10.2.0.0/16")
PROTECT, BYPASS, DISCARD = Action.PROTECT, Action.BYPASS, Action.DISCARD


def host_with_sas(name: str, count: int = 1) -> tuple[Engine, list[int]]:
    host, keys = engine(name), oracle.Keys.of("aes-gcm-16")
    profile = Profile("aes-gcm-16", outer=OUTER4)
    return host, [host.install(sa(profile, Direction.OUT, keys, spi=0x1000 + i)) for i in range(count)]


def protected(host: Engine, packet: bytes) -> int | None:
    """Id of the SA that carries the packet, None if it is not protected."""
    (verdict,) = host.outbound(packet, 0)
    return verdict.sa if isinstance(verdict, Delivered) else None


def test_three_actions(engine_name: str) -> None:
    host, (number,) = host_with_sas(engine_name)
    host.set_policies(
        [
            Policy(BYPASS, (Selector(protocol=ICMP),)),
            Policy(DISCARD, (Selector(protocol=TCP),)),
            Policy(PROTECT, (Selector(local=(HERE,), remote=(THERE,)),), ((None, number),)),
        ]
    )
    ping = ipv4(icmp(8, 0), ICMP)
    with counts(host):
        assert host.outbound(ping, 0) == [Bypassed(ping)]
        assert protected(host, ipv4(udp(), UDP)) == number
    with counts(host, DropReason.OUT_DISCARD):
        assert host.outbound(ipv4(tcp(ends=(A4, B4)), TCP), 0) == [Dropped(DropReason.OUT_DISCARD)]
    with counts(host, DropReason.OUT_DISCARD):  # nothing matches: discard (RFC 4301 §4.4.1)
        assert host.outbound(ipv4(udp(), UDP, destination="192.0.2.77"), 0) == [Dropped(DropReason.OUT_DISCARD)]
    with counts(host, DropReason.OUT_BAD_PACKET):
        assert host.outbound(b"\x45", 0) == [Dropped(DropReason.OUT_BAD_PACKET)]
    assert host.counters()["XfrmOutPolBlock"] == 2


def test_no_policies(engine_name: str) -> None:
    host, _ = host_with_sas(engine_name)
    with counts(host, DropReason.OUT_DISCARD):
        assert host.outbound(ipv4(), 0) == [Dropped(DropReason.OUT_DISCARD)]
    with counts(host, DropReason.NOT_FOR_US, DropReason.IN_NO_POLICY):
        assert host.inbound(ipv4(), 0) == Dropped(DropReason.IN_NO_POLICY)


def test_the_first_that_matches(engine_name: str) -> None:
    host, sas = host_with_sas(engine_name, 3)
    narrow = Selector(remote=(AddressRange.parse("10.2.0.2"),))
    for order in ((0, 1), (1, 0)):
        policies = [Policy(PROTECT, (narrow,), ((None, sas[0]),)), Policy(PROTECT, (), ((None, sas[1]),))]
        host.set_policies([policies[i] for i in order])
        assert protected(host, ipv4()) == sas[order[0]]
        assert protected(host, ipv4(destination="10.2.0.3")) == sas[1]
    host.set_policies([])
    assert protected(host, ipv4()) is None


def test_inbound_policies(engine_name: str) -> None:
    """SPD-I: for what arrives without ESP; local is then the destination."""
    host = engine(engine_name)
    host.set_policies(
        [],
        [
            Policy(DISCARD, (Selector(remote=(AddressRange.parse("10.1.0.66"),)),)),
            Policy(BYPASS, (Selector(local=(THERE,), remote=(HERE,), protocol=UDP, local_ports=(2000, 2000)),)),
            Policy(PROTECT, (Selector(protocol=TCP),)),
        ],
    )
    good = ipv4(udp(), UDP)
    with counts(host, DropReason.NOT_FOR_US):
        assert host.inbound(good, 0) == Bypassed(good)
    for packet, reason in (
        (ipv4(udp(), UDP, source="10.1.0.66"), DropReason.IN_DISCARD),
        (ipv4(udp(dport=2001), UDP), DropReason.IN_NO_POLICY),
        (ipv4(udp(), UDP, source=B4, destination=A4), DropReason.IN_NO_POLICY),
        (ipv4(tcp(ends=(A4, B4)), TCP), DropReason.IN_DISCARD),  # it should have come protected
    ):
        with counts(host, DropReason.NOT_FOR_US, reason):
            assert host.inbound(packet, 0) == Dropped(reason)
    assert host.counters()["XfrmInPolBlock"] == 2
    assert host.counters()["XfrmInNoPols"] == 2


def test_esp_goes_to_its_sa(engine_name: str) -> None:
    """Whatever SPD-I says of protocol 50."""
    pair = Pair.of(engine_name)
    pair.receiver.set_policies([], [Policy(DISCARD)])
    assert pair.receiver.inbound(pair.protect(), 0) == Delivered(ipv4(), pair.in_, 1)
    with counts(pair.receiver, DropReason.BAD_IP):
        assert pair.receiver.inbound(b"", 0) == Dropped(DropReason.BAD_IP)


ADDRESS4, ADDRESS6 = AddressRange.parse("10.1.0.1"), AddressRange.parse("2001:db8:a::/48")
FIRST, LATER = ipv4(udp(bytes(16)), UDP, mf=True), ipv4(bytes(16), UDP, offset=24)
FIRST6 = ipv6(fragment_header(UDP, 0, True) + udp(bytes(16)), 44)
LATER6 = ipv6(fragment_header(UDP, 24, False) + bytes(16), 44)
PING, PING6 = ipv4(icmp(8, 0), ICMP), ipv6(icmp(128, 0, ends=(A6, B6)), ICMPV6)
MOBILITY = ipv6(bytes((59, 0, 5, 0)) + bytes(4), 135)


@pytest.mark.parametrize(
    ("selector", "matching", "others"),
    [
        (Selector(), [ipv4(), ipv6(), FIRST, LATER, PING6], []),
        (Selector(local=(ADDRESS4,)), [ipv4()], [ipv4(source="10.1.0.2"), ipv6()]),
        (Selector(local=(ADDRESS6,)), [ipv6()], [ipv6(source="2001:db8:b::1"), ipv4()]),
        (Selector(local=(ADDRESS4, ADDRESS6)), [ipv4(), ipv6()], [ipv4(source=B4, destination=A4)]),
        (
            Selector(remote=(AddressRange.parse("10.2.0.2-10.2.0.9"),)),
            [ipv4(), ipv4(destination="10.2.0.9")],
            [ipv4(destination="10.2.0.1"), ipv4(destination="10.2.0.10")],
        ),
        (Selector(protocol=UDP), [ipv4(udp(), UDP), ipv6(extension(UDP) + udp(), 0), LATER], [PING, ipv6(bytes(8), 0)]),
        (Selector(protocol=0), [ipv6(b"\0" * 7, 0)], [ipv4()]),
        (
            Selector(protocol=UDP, local_ports=(1000, 1001)),
            [ipv4(udp(), UDP), ipv4(udp(sport=1001), UDP), FIRST, FIRST6],
            [ipv4(udp(sport=999), UDP), ipv4(udp(sport=1002), UDP), LATER, LATER6, PING],
        ),
        (
            Selector(remote_ports=(2000, 2000)),
            [ipv4(udp(), UDP), ipv4(tcp(ends=(A4, B4)), TCP), ipv4(udp(), 132), ipv4(udp(), 33), ipv4(udp(), 136)],
            [ipv4(udp(dport=2001), UDP), ipv4(udp()[:3], UDP), ipv4(udp(), 47)],
        ),
        (
            Selector(local_ports=OPAQUE),
            [LATER, LATER6, ipv4(b"gre", 47), ipv4(udp()[:3], UDP)],
            [ipv4(udp(), UDP), FIRST, PING],
        ),
        (Selector(protocol=UDP, local_ports=OPAQUE, remote_ports=OPAQUE), [LATER, LATER6], [FIRST, FIRST6]),
        (Selector(local_ports=(0, 65535)), [ipv4(udp(), UDP), PING], [LATER, ipv4(b"", 47)]),
        (
            Selector(protocol=ICMP, local_ports=(8 << 8, 8 << 8 | 255)),
            [PING, ipv4(icmp(8, 9), ICMP)],
            [ipv4(icmp(0, 0), ICMP), ipv4(b"\x08", ICMP), PING6],
        ),
        (Selector(protocol=ICMPV6, local_ports=(128 << 8, 128 << 8)), [PING6], [PING]),
        (Selector(protocol=135, local_ports=(5 << 8, 5 << 8)), [MOBILITY], [ipv6(bytes(8), 135)]),
    ],
    ids=[
        *(
            "any",
            "local-v4",
            "local-v6",
            "local-both",
            "remote-range",
            "udp",
            "hop-by-hop",
            "local-port",
            "remote-port",
        ),
        *("opaque-local", "opaque", "all-ports", "icmp", "icmpv6", "mobility"),
    ],
)
def test_selectors(engine_name: str, selector: Selector, matching: list[bytes], others: list[bytes]) -> None:
    """Outbound in the SPD; and inbound at the SA, whose peer has the same selector the other way round."""
    host, (number,) = host_with_sas(engine_name)
    host.set_policies([Policy(PROTECT, (selector,), ((None, number),))])
    assert [protected(host, p) for p in matching] == [number] * len(matching)
    assert [protected(host, p) for p in others] == [None] * len(others)
    pair = Pair.of(engine_name, selectors=(selector,))
    for number, packet in enumerate(matching, 1):
        assert pair.open(pair.protect(packet)) == Delivered(packet, pair.in_, number)
    for packet in others:
        refused(pair.receiver, pair.protect(packet), DropReason.SELECTOR_MISMATCH)
    assert pair.receiver.counters()["XfrmInStateMismatch"] == len(others)


def test_selector_mismatch_has_used_its_number(engine_name: str) -> None:
    pair = Pair.of(engine_name, selectors=(Selector(protocol=UDP),))
    packet = pair.protect(ipv4())
    refused(pair.receiver, packet, DropReason.SELECTOR_MISMATCH)
    refused(pair.receiver, packet, DropReason.REPLAY, sa=pair.in_)


def test_selectors_of_an_inner_packet_that_is_none(engine_name: str) -> None:
    """A transport packet always is one; an IPv6 inner packet whose length is right always is; an IPv4 one too."""
    pair = Pair.of(engine_name, selectors=(Selector(), Selector(protocol=TCP)))
    assert isinstance(pair.open(pair.protect(ipv4(b"", 0))), Delivered)


def test_dscp_splits_sas(engine_name: str) -> None:
    """RFC 4301 §4.1: several SAs with equal selectors, so that priorities do not fall out of the window."""
    host, (fast, slow, rest) = host_with_sas(engine_name, 3)
    host.set_policies([Policy(PROTECT, (), ((frozenset({46, 34}), fast), (frozenset({8}), slow), (None, rest)))])
    for dscp, expected in ((46, fast), (34, fast), (8, slow), (0, rest), (63, rest)):
        assert protected(host, ipv4(tos=dscp << 2 | 1)) == expected
        assert protected(host, ipv6(traffic_class=dscp << 2 | 3)) == expected


# ACQUIRE, and what an SA to be made takes from the packet.


@pytest.mark.parametrize(
    ("populate", "packet", "expected"),
    [
        ((), ipv4(udp(), UDP), {}),
        (("local",), ipv4(udp(), UDP), {"local": (AddressRange(4, int(A4), int(A4)),)}),
        (("remote", "protocol"), ipv6(udp(), UDP), {"remote": (AddressRange(6, int(B6), int(B6)),), "protocol": 17}),
        (("local_ports", "remote_ports"), ipv4(udp(), UDP), {"local_ports": (1000,) * 2, "remote_ports": (2000,) * 2}),
        (("local_ports",), LATER, {"local_ports": OPAQUE}),
        (("local_ports", "remote_ports"), PING, {"local_ports": (2048,) * 2, "remote_ports": (2048,) * 2}),
    ],
    ids=["none", "local", "remote", "ports", "opaque", "icmp"],
)
def test_acquire(engine_name: str, populate: tuple[str, ...], packet: bytes, expected: dict[str, Any]) -> None:
    """PFP flags (RFC 4301 §4.4.1.2)."""
    host = engine(engine_name)
    wide = Selector(local=(AddressRange.parse("0.0.0.0/0"), AddressRange.parse("::/0")))
    host.set_policies([Policy(PROTECT, (wide,), populate_from_packet=frozenset(populate))])
    with counts(host, DropReason.OUT_NO_SA):
        assert host.outbound(packet, 11) == [Dropped(DropReason.OUT_NO_SA)]
    (event,) = events(host)
    assert (event.kind, event.now, event.sa) == (EventKind.ACQUIRE, 11, None)
    assert event.selector is not None
    for field in ("local", "remote", "protocol", "local_ports", "remote_ports"):
        assert getattr(event.selector, field) == expected.get(field, getattr(wide, field))


def test_acquire_if_no_dscp_fits(engine_name: str) -> None:
    host, (number,) = host_with_sas(engine_name)
    host.set_policies([Policy(PROTECT, (), ((frozenset({46}), number),))])
    with counts(host, DropReason.OUT_NO_SA):
        assert protected(host, ipv4()) is None
    assert [(e.kind, e.selector) for e in events(host)] == [(EventKind.ACQUIRE, Selector())]


def test_policy_that_names_an_sa_that_is_gone(engine_name: str) -> None:
    host, (number,) = host_with_sas(engine_name)
    host.set_policies([Policy(PROTECT, (), ((None, number),))])
    host.remove(number)
    with counts(host, DropReason.OUT_NO_SA):
        assert host.outbound(ipv4(), 0) == [Dropped(DropReason.OUT_NO_SA)]
    assert [(e.kind, e.selector) for e in events(host)] == [(EventKind.ACQUIRE, Selector())]


def test_what_no_policy_matches_is_audited(engine_name: str) -> None:
    """RFC 4301 §5.1 and §5.2; a packet that a policy discards is not."""
    host = engine(engine_name, audit=True)
    packet = ipv6(flow_label=0x12345)
    host.outbound(packet, 7)
    host.inbound(packet, 8)
    found = [(e.kind, e.now, e.reason, e.source, e.destination, e.flow_label) for e in events(host)]
    ends = (A6.packed, B6.packed, 0x12345)
    assert found == [
        (EventKind.AUDIT, 7, DropReason.OUT_DISCARD, *ends),
        (EventKind.AUDIT, 8, DropReason.IN_NO_POLICY, *ends),
    ]
    host.set_policies([Policy(DISCARD)], [Policy(DISCARD)])
    host.outbound(packet, 7)
    host.inbound(packet, 8)
    assert events(host) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol", 256),
        ("protocol", -1),
        ("local_ports", (2, 1)),
        ("local_ports", (0, 65536)),
        ("remote_ports", (-1, 5)),
    ],
)
def test_selectors_out_of_range(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        Selector(**{field: value})


def test_policies_do_not_bind_the_caller_of_encapsulate(engine_name: str) -> None:
    host, (number,) = host_with_sas(engine_name)
    host.set_policies([Policy(DISCARD)], [Policy(DISCARD)])
    assert isinstance(host.encapsulate(number, ipv4(), 0), Delivered)


def test_ike_comes_past(engine_name: str) -> None:
    """IKE behind its marker on port 4500 is a matter for SPD-I."""
    pair = Pair.of(engine_name, encapsulation=UDPEncapsulation())
    ike = ipv4(udp(bytes(4) + b"IKE_SA_INIT", 4500, 4500), UDP)
    pair.receiver.set_policies([], [Policy(BYPASS, (Selector(protocol=UDP, local_ports=(4500, 4500)),))])
    with counts(pair.receiver, DropReason.NOT_FOR_US):
        assert pair.receiver.inbound(ike, 0) == Bypassed(ike)
