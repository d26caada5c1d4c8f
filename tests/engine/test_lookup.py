"""Which SA a packet belongs to, multicast ones too, and what is said about those that belong to none."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from wesper import (
    ConfigError,
    Delivered,
    Direction,
    DropReason,
    EventKind,
    Lifetime,
    Outer,
    Profile,
    UDPEncapsulation,
)

from . import oracle
from .packets import LEFT4, LEFT6, RIGHT4, RIGHT6, UDP, ipv4, ipv6, patched, udp
from .pair import OUTER4, OUTER6, SECOND, SPI, Pair, delivered, engine, events, refused, refused_out, sa

GROUP, OTHER_GROUP = ip_address("239.1.2.3"), ip_address("239.9.9.9")
SOURCE, OTHER_SOURCE = ip_address("192.0.2.10"), ip_address("192.0.2.11")


def to_group(keys: oracle.Keys, destination: object, source: object, spi: int = SPI) -> bytes:
    body = oracle.seal(keys, spi, 1, True, bytes(8), ipv4(), 4)
    return ipv4(body, 50, source=source, destination=destination)


def test_longest_match_first(engine_name: str) -> None:
    """RFC 4303 §3.4.2: (SPI, destination, source), then (SPI, destination), then SPI alone; each has its own keys."""
    host = engine(engine_name)
    profile = Profile("aes-gcm-16", outer=Outer(GROUP, SOURCE), window=0)
    shapes: list[tuple[IPv4Address | IPv6Address, ...]] = [(), (GROUP,), (GROUP, SOURCE)]
    keys = [oracle.Keys.of("aes-gcm-16", octets) for octets in (16, 24, 32)]
    ids = [host.install(sa(profile, Direction.IN, key, multicast=ends)) for key, ends in zip(keys, shapes, strict=True)]
    assert len(set(ids)) == 3
    for destination, source, expected in (
        (GROUP, SOURCE, 2),
        (GROUP, OTHER_SOURCE, 1),
        (OTHER_GROUP, SOURCE, 0),
        (RIGHT4, LEFT4, 0),
    ):
        packet = to_group(keys[expected], destination, source)
        assert delivered(host.decapsulate(packet, 0)).sa == ids[expected]
        for wrong in {0, 1, 2} - {expected}:
            refused(host, to_group(keys[wrong], destination, source), DropReason.AUTH, sa=ids[expected])
    for gone, left in ((2, 1), (1, 0)):
        host.remove(ids[gone])
        assert delivered(host.decapsulate(to_group(keys[left], GROUP, SOURCE), 0)).sa == ids[left]


def test_multicast_sa_alone(engine_name: str) -> None:
    host, keys = engine(engine_name), oracle.Keys.of("aes-gcm-16")
    profile = Profile("aes-gcm-16", outer=Outer(GROUP, SOURCE), window=0)
    number = host.install(sa(profile, Direction.IN, keys, multicast=(GROUP,)))
    assert delivered(host.decapsulate(to_group(keys, GROUP, OTHER_SOURCE), 0)).sa == number
    refused(host, to_group(keys, OTHER_GROUP, SOURCE), DropReason.NO_SA)
    refused(host, to_group(keys, GROUP, SOURCE, spi=SPI + 1), DropReason.NO_SA)
    with pytest.raises(ConfigError, match="taken"):
        host.install(sa(profile, Direction.IN, keys, multicast=(GROUP,)))
    other = host.install(sa(profile, Direction.IN, keys, multicast=(OTHER_GROUP,)))
    assert delivered(host.decapsulate(to_group(keys, OTHER_GROUP, SOURCE), 0)).sa == other


def test_multicast_over_ipv6(engine_name: str) -> None:
    host, keys = engine(engine_name), oracle.Keys.of("aes-gcm-16")
    group = ip_address("ff0e::1234")
    profile = Profile("aes-gcm-16", outer=Outer(group, LEFT6), window=0)
    number = host.install(sa(profile, Direction.IN, keys, multicast=(group,)))
    body = oracle.seal(keys, SPI, 1, True, bytes(8), ipv4(), 4)
    assert delivered(host.decapsulate(ipv6(body, 50, source=LEFT6, destination=group), 0)).sa == number
    refused(host, ipv6(body, 50, source=LEFT6, destination=RIGHT6), DropReason.NO_SA)


def test_multicast_sas_have_state_like_others(engine_name: str) -> None:
    host, keys = engine(engine_name), oracle.Keys.of("aes-cbc+hmac-sha2-512-256")
    profile = Profile(keys.suite, outer=Outer(GROUP, SOURCE), window=64, esn=False)
    number = host.install(sa(profile, Direction.IN, keys, multicast=(GROUP, SOURCE), sequence=7))
    body = oracle.seal(keys, SPI, 9, False, bytes(16), ipv4(), 4)
    packet = ipv4(body, 50, source=SOURCE, destination=GROUP)
    assert host.decapsulate(packet, 0) == Delivered(ipv4(), number, 9)
    refused(host, packet, DropReason.REPLAY, sa=number)
    assert host.state(number).sequence == 9
    host.remove(number)
    refused(host, packet, DropReason.NO_SA)


def test_same_spi_both_ways(engine_name: str) -> None:
    """Directions have spaces of their own."""
    host, keys = engine(engine_name), oracle.Keys.of("aes-gcm-16")
    profile = Profile("aes-gcm-16", outer=OUTER4)
    out = [host.install(sa(profile, Direction.OUT, keys)) for _ in range(2)]
    into = host.install(sa(profile, Direction.IN, keys))
    assert len({*out, into}) == 3
    first = delivered(host.encapsulate(out[0], ipv4(), 0))
    assert (first.sa, delivered(host.decapsulate(first.packet, 0)).sa) == (out[0], into)
    host.remove(out[0])
    refused_free = delivered(host.encapsulate(out[1], ipv4(), 0))
    assert refused_free.sequence == 1
    third = host.install(sa(profile, Direction.OUT, keys))
    assert third not in out, "ids are not used again"


def test_ids_of_removed_sas_stay_free(engine_name: str) -> None:
    host, keys = engine(engine_name), oracle.Keys.of("aes-gcm-16")
    profile = Profile("aes-gcm-16", outer=OUTER4)
    seen = set[int]()
    for _ in range(5):
        number = host.install(sa(profile, Direction.OUT, keys))
        assert number not in seen
        seen.add(number)
        host.encapsulate(number, ipv4(), 0)
        host.remove(number)
        with pytest.raises(ConfigError):
            host.state(number)
        with pytest.raises(ConfigError):
            host.remove(number)


def test_a_new_sa_begins_anew(engine_name: str) -> None:
    """What an SPI's last SA had seen is not the next one's."""
    host, keys = engine(engine_name), oracle.Keys.of("aes-gcm-16")
    profile = Profile("aes-gcm-16", outer=OUTER4)
    packet = ipv4(oracle.seal(keys, SPI, 5, True, bytes(8), ipv4(), 4), 50)
    for _ in range(2):
        number = host.install(sa(profile, Direction.IN, keys))
        assert host.decapsulate(packet, 0) == Delivered(ipv4(), number, 5)
        refused(host, packet, DropReason.REPLAY, sa=number)
        host.remove(number)


@pytest.mark.parametrize("protocol", [0, 1, 4, 6, 17, 41, 47, 51, 59, 255])
def test_other_protocols(engine_name: str, protocol: int) -> None:
    host = engine(engine_name)
    refused(host, ipv4(bytes(40), protocol), DropReason.NOT_FOR_US)
    if protocol not in (0,):
        refused(host, ipv6(bytes(40), protocol), DropReason.NOT_FOR_US)


def test_esp_behind_extension_headers(engine_name: str) -> None:
    pair = Pair.of(engine_name, outer=OUTER6)
    body = pair.protect()[40:]
    hop = bytes((60, 0, 1, 4)) + bytes(4)
    destination = bytes((50, 0, 1, 4)) + bytes(4)
    assert isinstance(pair.open(ipv6(hop + destination + body, 0)), Delivered)


# Fragments are refused, and audited.


@pytest.mark.parametrize("audit", [True, False])
def test_fragment(engine_name: str, audit: bool) -> None:
    pair = Pair.of(engine_name, options={"audit": audit})
    protected = pair.protect()
    for flags in (b"\x20\x00", b"\x00\x01", b"\x20\x05"):
        refused(pair.receiver, patched(protected, 6, flags), DropReason.FRAGMENT, now=3, sa=pair.in_)
    found = events(pair.receiver)
    assert len(found) == (3 if audit else 0)
    for event in found:
        assert (event.kind, event.reason, event.now) == (EventKind.AUDIT, DropReason.FRAGMENT, 3)
        assert (event.source, event.destination) == (LEFT4.packed, RIGHT4.packed)


def test_fragment_over_ipv6(engine_name: str) -> None:
    pair = Pair.of(engine_name, outer=OUTER6)
    body = pair.protect()[40:]
    for word in (1, 8, 9):
        head = bytes((50, 0)) + word.to_bytes(2, "big") + bytes(4)
        refused(pair.receiver, ipv6(head + body, 44), DropReason.FRAGMENT, sa=pair.in_)
    atomic = bytes((50, 0, 0, 0)) + bytes(4)
    assert isinstance(pair.open(ipv6(atomic + body, 44)), Delivered)


# The audit log (RFC 4303 §4).


def test_audit(engine_name: str) -> None:
    """SPI, time, addresses, number and flow label of what is auditable; nothing of what is not."""
    label = 0x4321
    pair = Pair.of(engine_name, outer=Outer(LEFT6, RIGHT6, flow_label=label), options={"audit": True}, esn=False)
    host = pair.receiver
    first, second = pair.protect(), pair.protect()
    assert isinstance(pair.open(first), Delivered)
    unknown = second[:40] + b"\x0a\xbc\xff\xff" + second[44:]
    forged = second[:-1] + bytes((second[-1] ^ 1,))
    cases = [
        (first, DropReason.REPLAY, pair.in_, SPI, 1),
        (forged, DropReason.AUTH, pair.in_, SPI, 2),
        (unknown, DropReason.NO_SA, None, 0x0ABCFFFF, 2),
        (b"", DropReason.BAD_IP, None, None, None),
        (ipv6(first[40:48], 50), DropReason.TRUNCATED, None, None, None),
        (ipv6(first[40:47], 50), DropReason.TRUNCATED_HEADER, None, None, None),
    ]
    for now, (packet, reason, number, spi, sequence) in enumerate(cases):
        refused(host, packet, reason, now=now)
        found = events(host)
        if spi is None:
            assert found == []
            continue
        (event,) = found
        assert (event.kind, event.now, event.reason, event.sa) == (EventKind.AUDIT, now, reason, number)
        assert (event.spi, event.sequence, event.flow_label) == (spi, sequence, label)
        assert (event.source, event.destination) == (LEFT6.packed, RIGHT6.packed)


def test_audit_is_off_by_default(engine_name: str) -> None:
    pair = Pair.of(engine_name)
    protected = pair.protect()
    pair.open(protected)
    refused(pair.receiver, protected, DropReason.REPLAY)
    assert events(pair.receiver) == []


def test_lost_events(engine_name: str) -> None:
    """No more than were asked for are kept; the rest is counted. Audits, which anybody can cause, take half at most."""
    pair = Pair.of(engine_name, options={"audit": True, "events": 5}, hard=Lifetime(seconds=60))
    protected = pair.protect()
    pair.open(protected)
    for now in range(10):
        refused(pair.receiver, protected, DropReason.REPLAY, now=now)
    assert pair.receiver.lost_events == 7
    pair.receiver.handle_timeout(60 * SECOND)
    assert [(e.kind, e.now) for e in events(pair.receiver)] == [
        *((EventKind.AUDIT, now) for now in range(3)),
        (EventKind.HARD_EXPIRED, 60 * SECOND),
    ]
    refused(pair.receiver, protected, DropReason.NO_SA, now=99)
    assert [e.now for e in events(pair.receiver)] == [99]
    assert pair.receiver.lost_events == 7


def test_counters_are_those_of_the_kernel(engine_name: str) -> None:
    """All names of /proc/net/xfrm_stat, in its order."""
    counters = engine(engine_name).counters()
    assert list(counters)[:8] == [
        "XfrmInError",
        "XfrmInBufferError",
        "XfrmInHdrError",
        "XfrmInNoStates",
        "XfrmInStateProtoError",
        "XfrmInStateModeError",
        "XfrmInStateSeqError",
        "XfrmInStateExpired",
    ]
    assert len(counters) == 32
    assert set(counters.values()) == {0}


def test_udp_and_raw_share_the_spi_space(engine_name: str) -> None:
    host, keys = engine(engine_name), oracle.Keys.of("aes-gcm-16")
    host.install(sa(Profile("aes-gcm-16", outer=OUTER4), Direction.IN, keys))
    with pytest.raises(ConfigError, match="taken"):
        host.install(sa(Profile("aes-gcm-16", outer=OUTER4, encapsulation=UDPEncapsulation()), Direction.IN, keys))
    refused(
        host,
        ipv4(udp(oracle.seal(keys, SPI, 1, True, bytes(8), ipv4(), 4), 4500, 4500), UDP),
        DropReason.ENCAP_MISMATCH,
    )


def test_unknown_ids_do_not_send(engine_name: str) -> None:
    host = engine(engine_name)
    for number in (0, 1, SPI, 1 << 40, (1 << 40) + 5, (1 << 64) - 1):
        with pytest.raises(ConfigError):
            host.state(number)
        with pytest.raises(ConfigError):
            refused_out(host, number, ipv4(), DropReason.OUT_NO_SA)
