"""Path MTU: what fits, what is told, what is believed and forgotten (RFC 4301 §8); fragments before and after."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from wesper import (
    DF,
    SA,
    ConfigError,
    Delivered,
    Direction,
    Dropped,
    DropReason,
    EventKind,
    Fragmentation,
    Inner,
    Mode,
    Outer,
    Policy,
    Profile,
    UDPEncapsulation,
    open_engine,
)
from wesper.sa import Action

from . import oracle
from .packets import A4, A6, B4, B6, ICMP, ICMPV6, LEFT4, LEFT6, RIGHT4, RIGHT6, UDP, icmp, ipv4, ipv6, udp
from .pair import OUTER4, OUTER6, SECOND, Pair, counts, delivered, engine, events, refused_out, sa

AGE = 600 * SECOND
CASES: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "vectors" / "esp.json").read_text())["inner_mtu"]


@pytest.mark.parametrize("suite", oracle.SUITES)
@pytest.mark.parametrize("around", [None, UDPEncapsulation()], ids=["raw", "udp"])
@pytest.mark.parametrize("outer", [OUTER4, OUTER6], ids=["v4", "v6"])
def test_inner_mtu_is_the_largest_that_fits(
    engine_name: str, suite: str, outer: Outer, around: UDPEncapsulation | None
) -> None:
    for mtu in (*range(576, 576 + 17), 1500):
        pair = Pair.of(engine_name, suite, outer=outer, mtu=mtu, encapsulation=around)
        inner = pair.sender.inner_mtu(pair.out)
        largest = pair.protect(ipv4(bytes(inner - 20), df=True))
        assert len(largest) <= mtu
        too_big = ipv4(bytes(inner - 19), df=True)
        assert refused_out(pair.sender, pair.out, too_big, DropReason.OUT_TOO_BIG).mtu == inner
        roomy = Pair.of(engine_name, suite, outer=outer, encapsulation=around)
        assert len(roomy.protect(too_big)) > mtu


@pytest.mark.parametrize("mode", [Mode.TRANSPORT, Mode.BEET])
@pytest.mark.parametrize("suite", ["aes-gcm-16", "aes-cbc+hmac-sha2-256-128"])
def test_inner_mtu_of_other_modes(engine_name: str, mode: Mode, suite: str) -> None:
    """A packet with an IP header without options, of the outer version."""
    for mtu in range(1000, 1017):
        pair = Pair.of(engine_name, suite, mode, mtu=mtu, inner=Inner(A4, B4) if mode is Mode.BEET else None)
        inner = pair.sender.inner_mtu(pair.out)
        assert len(pair.protect(ipv4(bytes(inner - 20)))) <= mtu
        refusal = refused_out(pair.sender, pair.out, ipv4(bytes(inner - 19)), DropReason.OUT_TOO_BIG)
        assert refusal.mtu == inner
        # With options there is less room behind them; the size of the whole packet is what is told.
        options = b"\x94\x04\0\0"
        told = refused_out(pair.sender, pair.out, ipv4(bytes(inner), options=options), DropReason.OUT_TOO_BIG).mtu
        assert len(pair.protect(ipv4(bytes(told - 24), options=options))) <= mtu
        refused_out(pair.sender, pair.out, ipv4(bytes(told - 23), options=options), DropReason.OUT_TOO_BIG)


def test_beet_into_another_family(engine_name: str) -> None:
    """40 octets of IPv6 outside, 20 of IPv4 inside: 1280 - 40 - 32 - 2 leaves 1206 behind the header."""
    pair = Pair.of(engine_name, mode=Mode.BEET, inner=Inner(A4, B4), outer=OUTER6, mtu=1280)
    assert pair.sender.inner_mtu(pair.out) == 1226
    assert pair.sender.inner_mtu(pair.out) == 1226
    assert len(pair.protect(ipv4(bytes(1206)))) == 1280
    assert refused_out(pair.sender, pair.out, ipv4(bytes(1207)), DropReason.OUT_TOO_BIG).mtu == 1226
    pair = Pair.of(engine_name, mode=Mode.BEET, inner=Inner(A6, B6), outer=OUTER4, mtu=1280)
    assert pair.sender.inner_mtu(pair.out) == 1280 - 20 - 32 - 2 + 40
    assert len(pair.protect(ipv6(bytes(1226)))) == 1280
    assert refused_out(pair.sender, pair.out, ipv6(bytes(1227)), DropReason.OUT_TOO_BIG).mtu == 1266


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['case']}-{c['outer_mtu']}")
def test_published_sizes(engine_name: str, case: dict[str, Any]) -> None:
    params = case["params"]
    if params.get("mode", "tunnel") != "tunnel":
        pytest.fail("a mode this test does not build")
    suite = params.get("alg", "aes-gcm-16") + ("-iiv" if params.get("iv_mode") == "implicit" else "")
    outer = OUTER6 if params.get("outer", {}).get("version", 4) == 6 else OUTER4
    profile = Profile(
        suite, outer=outer, encapsulation=UDPEncapsulation() if params.get("udp") else None, mtu=case["outer_mtu"]
    )
    host = open_engine(engine_name)
    keys = oracle.Keys.of(suite)
    number = host.install(SA(profile, Direction.OUT, 256, keys.key, keys.salt, keys.auth_key))
    assert host.inner_mtu(number) == case["inner_mtu"]


# Learning and forgetting.


def test_set_and_forget(engine_name: str) -> None:
    pair = Pair.of(engine_name, mtu=1500)
    host, number = pair.sender, pair.out
    assert (host.state(number).mtu, host.inner_mtu(number)) == (1500, 1446)
    host.set_mtu(number, 1000, now=7)
    assert (host.state(number).mtu, host.inner_mtu(number, 7 + AGE - 1)) == (1000, 946)
    refused_out(host, number, ipv4(bytes(1000), df=True), DropReason.OUT_TOO_BIG, now=7 + AGE - 1)
    assert events(host) == []
    # RFC 4301 §8.2.2: after ten minutes it is learnt anew.
    assert host.inner_mtu(number, 7 + AGE) == 1446
    (event,) = events(host)
    assert (event.kind, event.sa, event.mtu, event.now) == (EventKind.MTU_CHANGED, number, 1500, 7 + AGE)
    assert host.state(number).mtu == 1500
    host.set_mtu(number, 9000, now=0)
    assert host.inner_mtu(number) == 1446


def test_a_packet_forgets_too(engine_name: str) -> None:
    pair = Pair.of(engine_name, mtu=1500)
    pair.sender.set_mtu(pair.out, 600, 0)
    assert isinstance(pair.sender.encapsulate(pair.out, ipv4(bytes(1000)), AGE), Delivered)
    assert [e.kind for e in events(pair.sender)] == [EventKind.MTU_CHANGED]


def test_tiny_mtu(engine_name: str) -> None:
    """No room at all is room for nothing, never a negative number."""
    pair = Pair.of(engine_name, "aes-cbc+hmac-sha2-512-256", mtu=68)
    assert pair.sender.inner_mtu(pair.out) == 0
    assert refused_out(pair.sender, pair.out, ipv4(), DropReason.OUT_TOO_BIG).mtu == 0


# Messages from outside are not authenticated (trap 10).


def too_big(protected: bytes, mtu: int, quoted: int = 576) -> bytes:
    if protected[0] >> 4 == 4:
        return ipv4(icmp(3, 4, pack(">HH", 0, mtu) + protected[:quoted]), ICMP, source="192.0.2.99", destination=LEFT4)
    router = ip_address("2001:db8:ffff::1")
    message = icmp(2, 0, pack(">I", mtu) + protected[:quoted], ends=(router, LEFT6))
    return ipv6(message, ICMPV6, source=router, destination=LEFT6)


@pytest.mark.parametrize("quoted", [28, 44, 1000])
@pytest.mark.parametrize("around", [None, UDPEncapsulation()], ids=["raw", "udp"])
def test_icmp_error_is_believed(engine_name: str, around: UDPEncapsulation | None, quoted: int) -> None:
    pair = Pair.of(engine_name, mtu=1500, encapsulation=around)
    protected = pair.protect()
    host = pair.sender
    assert host.icmp_error(too_big(protected, 1400, quoted + (8 if around else 0)), now=3) is True
    (event,) = events(host)
    assert (event.kind, event.sa, event.mtu, event.now) == (EventKind.MTU_CHANGED, pair.out, 1400, 3)
    assert host.state(pair.out).mtu == 1400
    assert host.inner_mtu(pair.out, 3 + AGE) == (1446 if around is None else 1438)


def test_icmpv6_error_is_believed(engine_name: str) -> None:
    pair = Pair.of(engine_name, mtu=1500, outer=OUTER6)
    assert pair.sender.icmp_error(too_big(pair.protect(), 1400), now=3)
    assert pair.sender.state(pair.out).mtu == 1400


@pytest.mark.parametrize("outer", [OUTER4, OUTER6], ids=["v4", "v6"])
@pytest.mark.parametrize("claimed", [0, 1, 68, 575, 576, 1279])
def test_floor(engine_name: str, outer: Outer, claimed: int) -> None:
    pair = Pair.of(engine_name, mtu=1500, outer=outer)
    assert pair.sender.icmp_error(too_big(pair.protect(), claimed), now=3)
    assert pair.sender.state(pair.out).mtu == max(claimed, 576 if outer is OUTER4 else 1280)


@pytest.mark.parametrize("outer", [OUTER4, OUTER6], ids=["v4", "v6"])
def test_icmp_error_is_not_believed(engine_name: str, outer: Outer) -> None:
    pair = Pair.of(engine_name, mtu=1500, outer=outer)
    host, head = pair.sender, 20 if outer is OUTER4 else 40
    protected = pair.protect()
    message = too_big(protected, 1400)
    spi, number = protected[head : head + 4], protected[head + 4 : head + 8]
    assert number == b"\0\0\0\1"
    stranger = ip_address("203.0.113.7" if head == 20 else "2001:db8:9::9").packed

    def quoting(changed: bytes) -> bytes:
        return too_big(changed, 1400)

    place = 16 if head == 20 else 24
    for lie in (
        message[:-1] + bytes((message[-1] ^ 1,)),  # checksum
        message[: len(message) - 1],
        quoting(protected.replace(spi, b"\x0a\xbc\x00\x02")),
        quoting(protected[: head + 4] + b"\0\0\0\2" + protected[head + 8 :]),  # not sent yet
        quoting(protected[: head + 4] + b"\x7f\0\0\1" + protected[head + 8 :]),
        quoting(protected[: head + 4] + b"\xff\xff\xff\xff" + protected[head + 8 :]),  # before the first
        quoting(protected[:place] + stranger + protected[place + len(stranger) :]),
        quoting(protected[: 9 if head == 20 else 6] + b"\x06" + protected[10 if head == 20 else 7 :]),
        quoting(protected[: head + 3]),
        too_big(protected, 1500),
        too_big(protected, 9000),
        ipv4(icmp(3, 3, bytes(4) + protected), ICMP),
        ipv4(icmp(11, 0, bytes(4) + protected), ICMP),
        ipv4(b"\x03", ICMP),
        b"",
        protected,
    ):
        assert host.icmp_error(lie, now=3) is False
    assert events(host) == []
    assert host.state(pair.out).mtu == 1500
    assert host.icmp_error(message, now=3) is True
    assert host.icmp_error(message, now=3) is False


def test_only_of_packets_sent_lately(engine_name: str) -> None:
    """2^16 numbers back at most."""
    keys = oracle.Keys.of("aes-gcm-16")
    for last, believed in ((1 + (1 << 16), True), (2 + (1 << 16), False)):
        pair = Pair.of(engine_name, mtu=1500, keys=keys, sequence=last - 1)
        protected = pair.protect()
        old = protected[:24] + pack(">I", 1) + protected[28:]
        assert pair.sender.icmp_error(too_big(old, 1400), now=0) is believed


def test_sa_that_has_sent_nothing(engine_name: str) -> None:
    pair = Pair.of(engine_name, mtu=1500)
    other = Pair.of(engine_name, mtu=1500)
    assert pair.sender.icmp_error(too_big(other.protect(), 1400), now=0) is False


def test_flood(engine_name: str) -> None:
    """A hundred messages a second are looked at."""
    pair = Pair.of(engine_name, mtu=1500)
    protected = pair.protect()
    for _ in range(99):
        assert pair.sender.icmp_error(b"nonsense", now=0) is False
    assert pair.sender.icmp_error(too_big(protected, 1400), now=SECOND - 1) is True
    assert pair.sender.icmp_error(too_big(protected, 1300), now=SECOND - 1) is False
    assert pair.sender.icmp_error(too_big(protected, 1300), now=SECOND) is True


def test_transport_mode(engine_name: str) -> None:
    """No outer address in the SA: SPI and number decide."""
    pair = Pair.of(engine_name, mode=Mode.TRANSPORT, mtu=1500)
    assert pair.sender.icmp_error(too_big(pair.protect(), 1400), now=0)


# Fragments (RFC 4301 §8.2.1).

ALL = (Policy(Action.PROTECT),)


def reassembled(pieces: list[bytes]) -> bytes:
    """The IPv4 packet whose fragments these are."""
    first, payload = pieces[0], b""
    for piece in pieces:
        word = int.from_bytes(piece[6:8], "big")
        assert 8 * (word & 0x1FFF) == len(payload)
        assert bool(word & 0x2000) is (piece is not pieces[-1])
        payload += piece[20:]
    fields = {"tos": first[1], "identification": int.from_bytes(first[4:6], "big"), "ttl": first[8]}
    ends = {"source": ip_address(first[12:16]), "destination": ip_address(first[16:20])}
    return ipv4(payload, first[9], **fields, **ends)


@pytest.mark.parametrize("df", list(DF))
def test_fragments_before(engine_name: str, df: DF) -> None:
    """Each piece is a packet of the SA."""
    outer = Outer(LEFT4, RIGHT4, df=df)
    pair = Pair.of(engine_name, mtu=600, outer=outer)
    pair.sender.set_policies([Policy(Action.PROTECT, sas=((None, pair.out),))])
    packet = ipv4(udp(bytes(1500)), UDP)
    verdicts = [delivered(v) for v in pair.sender.outbound(packet, 0)]
    assert [v.sequence for v in verdicts] == [1, 2, 3]
    assert all(len(v.packet) <= 600 for v in verdicts)
    assert reassembled([delivered(pair.open(v.packet)).packet for v in verdicts]) == packet


def test_fragments_after(engine_name: str) -> None:
    """The protected packet is cut as IP does, with its own identification."""
    pair = Pair.of(engine_name, mtu=600, fragmentation=Fragmentation.AFTER)
    pair.sender.set_policies([Policy(Action.PROTECT, sas=((None, pair.out),))])
    packet = ipv4(udp(bytes(1500)), UDP)
    verdicts = [delivered(v) for v in pair.sender.outbound(packet, 0)]
    assert [(v.sequence, v.sa) for v in verdicts] == [(1, pair.out)] * 3
    assert all(len(v.packet) <= 600 for v in verdicts)
    assert pair.open(reassembled([v.packet for v in verdicts])) == Delivered(packet, pair.in_, 1)
    with counts(pair.receiver, *[DropReason.FRAGMENT] * 3):
        assert {pair.open(v.packet) for v in verdicts} == {Dropped(DropReason.FRAGMENT)}


def test_fragments_after_over_ipv6(engine_name: str) -> None:
    pair = Pair.of(engine_name, mtu=1280, fragmentation=Fragmentation.AFTER, outer=OUTER6)
    pair.sender.set_policies([Policy(Action.PROTECT, sas=((None, pair.out),))])
    packet = ipv4(udp(bytes(2000)), UDP)
    pieces = [delivered(v).packet for v in pair.sender.outbound(packet, 0)]
    assert len(pieces) == 2
    assert all(len(p) <= 1280 and p[6] == 44 and p[40] == 50 for p in pieces)
    body = pieces[0][48:] + pieces[1][48:]
    whole = ipv6(body, 50, source=LEFT6, destination=RIGHT6, hop_limit=64)
    assert pair.open(whole) == Delivered(packet, pair.in_, 1)


def test_fragments_after_in_other_modes(engine_name: str) -> None:
    """Whole datagrams only are protected (RFC 4303 §3.3.4); what comes of them may be cut."""
    for mode, inner in ((Mode.TRANSPORT, None), (Mode.BEET, Inner(A4, B4))):
        pair = Pair.of(engine_name, mode=mode, inner=inner, mtu=600, fragmentation=Fragmentation.AFTER)
        pair.sender.set_policies([Policy(Action.PROTECT, sas=((None, pair.out),))])
        packet = ipv4(udp(bytes(1500)), UDP)
        pieces = [delivered(v).packet for v in pair.sender.outbound(packet, 0)]
        assert len(pieces) == 3
        assert all(len(p) <= 600 for p in pieces)
        assert delivered(pair.open(reassembled(pieces))).packet == packet


def test_an_outer_header_with_df_is_not_cut(engine_name: str) -> None:
    """What is asked to be cut after is cut before."""
    outer = Outer(LEFT4, RIGHT4, df=DF.SET)
    pair = Pair.of(engine_name, mtu=600, fragmentation=Fragmentation.AFTER, outer=outer)
    pair.sender.set_policies([Policy(Action.PROTECT, sas=((None, pair.out),))])
    verdicts = [delivered(v) for v in pair.sender.outbound(ipv4(udp(bytes(1500)), UDP), 0)]
    assert [v.sequence for v in verdicts] == [1, 2, 3]
    assert all(len(v.packet) <= 600 for v in verdicts)


def test_fragment_that_ends_beyond_a_datagram(engine_name: str) -> None:
    """No header could say where its second half belongs."""
    pair = Pair.of(engine_name, mtu=1000)
    pair.sender.set_policies([Policy(Action.PROTECT, sas=((None, pair.out),))])
    for offset, pieces in ((65535 - 1503, 2), (65535 - 1495, None)):
        verdicts = pair.sender.outbound(ipv4(bytes(1500), offset=offset // 8 * 8), 0)
        assert verdicts == [Dropped(DropReason.OUT_TOO_BIG, 946)] if pieces is None else len(verdicts) == pieces


@pytest.mark.parametrize("fragmentation", list(Fragmentation))
@pytest.mark.parametrize("packet", [ipv4(bytes(1500), df=True), ipv6(bytes(1500))], ids=["df", "v6"])
def test_what_may_not_be_cut(engine_name: str, fragmentation: Fragmentation, packet: bytes) -> None:
    pair = Pair.of(engine_name, mtu=1400, fragmentation=fragmentation)
    pair.sender.set_policies([Policy(Action.PROTECT, sas=((None, pair.out),))])
    with counts(pair.sender, DropReason.OUT_TOO_BIG):
        assert pair.sender.outbound(packet, 0) == [Dropped(DropReason.OUT_TOO_BIG, 1346)]


def test_what_fits_is_not_cut(engine_name: str) -> None:
    for fragmentation in Fragmentation:
        pair = Pair.of(engine_name, mtu=1500, fragmentation=fragmentation)
        pair.sender.set_policies([Policy(Action.PROTECT, sas=((None, pair.out),))])
        for octets, pieces in ((1446, 1), (1447, 2)):
            assert len(pair.sender.outbound(ipv4(bytes(octets - 20)), 0)) == pieces


@pytest.mark.parametrize("inner", [Inner(A4, B4), Inner(A6, B6)], ids=["v4", "v6"])
def test_other_modes_do_not_cut(engine_name: str, inner: Inner) -> None:
    pair = Pair.of(engine_name, mode=Mode.BEET, inner=inner, mtu=1000, outer=OUTER4)
    pair.sender.set_policies([Policy(Action.PROTECT, sas=((None, pair.out),))])
    packet = ipv4(bytes(1500)) if inner.local.version == 4 else ipv6(bytes(1500))
    with counts(pair.sender, DropReason.OUT_TOO_BIG):
        (verdict,) = pair.sender.outbound(packet, 0)
    assert isinstance(verdict, Dropped)


def test_no_such_sa(engine_name: str) -> None:
    host = engine(engine_name)
    for call in (
        lambda: host.inner_mtu(5),
        lambda: host.set_mtu(5, 1000, 0),
        lambda: host.state(5),
        lambda: host.remove(5),
        lambda: host.infer(5, 1),
    ):
        with pytest.raises(ConfigError, match="no SA has the id 5"):
            call()


def test_mtu_of_an_inbound_sa(engine_name: str) -> None:
    """It has one too, as its state shows; nothing comes of it."""
    host = engine(engine_name)
    profile = Profile("aes-gcm-16", outer=OUTER4, mtu=1400)
    number = host.install(sa(profile, Direction.IN, oracle.Keys.of("aes-gcm-16")))
    assert host.state(number).mtu == 1400
