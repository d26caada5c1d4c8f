"""Transport, tunnel and BEET mode: which header says what, and what does not fit a mode."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wesper import DF, Delivered, Direction, DropReason, Inner, Mode, Outer, Profile

from . import oracle
from .packets import (
    A4,
    A6,
    B4,
    B6,
    ICMP,
    LEFT4,
    LEFT6,
    RIGHT4,
    RIGHT6,
    TCP,
    UDP,
    extension,
    fragment_header,
    icmp,
    ipv4,
    ipv6,
    patched,
    routing,
    tcp,
    udp,
)
from .pair import OUTER4, OUTER6, SPI, Pair, delivered, engine, refused, refused_out, sa

HOP, ROUTE, FRAGMENT, DESTINATION, BEET = 0, 43, 44, 60, 94


# Transport: what stays outside, and which octet names ESP (RFC 4303 §3.1.1, esp.md §5.1).


@pytest.mark.parametrize(
    ("outside", "inside"),
    [
        ([], UDP),
        ([HOP], UDP),
        ([HOP, ROUTE], UDP),
        ([HOP, DESTINATION, ROUTE], DESTINATION),
        ([DESTINATION, ROUTE], UDP),
        ([ROUTE], DESTINATION),
        ([HOP], DESTINATION),
        ([], DESTINATION),
    ],
    ids=["none", "hop", "hop-routing", "hop-dst-routing|dst", "dst-routing", "routing|dst", "hop|dst", "|dst"],
)
def test_ipv6_extension_headers(engine_name: str, outside: list[int], inside: int) -> None:
    def chain(last: int) -> bytes:
        following = [*outside, last][1:]
        return b"".join(
            routing(after) if kind == ROUTE else extension(after, units=1)
            for kind, after in zip(outside, following, strict=False)
        )

    pair = Pair.of(engine_name, mode=Mode.TRANSPORT)
    protected_part = udp() if inside == UDP else extension(UDP) + udp()
    packet = ipv6(chain(inside) + protected_part, outside[0] if outside else inside)
    body = oracle.seal(pair.keys, SPI, 1, True, (1).to_bytes(8, "big"), protected_part, inside)
    expected = ipv6(chain(50) + body, outside[0] if outside else 50)
    assert pair.sender.encapsulate(pair.out, packet, 0) == Delivered(expected, pair.out, 1)
    assert pair.open(expected) == Delivered(packet, pair.in_, 1)


def test_linux_leaves_destination_options_outside(engine_name: str) -> None:
    """A receiver accepts both forms (esp.md §5.1)."""
    pair = Pair.of(engine_name, mode=Mode.TRANSPORT)
    body = oracle.seal(pair.keys, SPI, 1, True, bytes(8), udp(), UDP)
    arrived = ipv6(extension(50) + body, DESTINATION)
    assert pair.open(arrived) == Delivered(ipv6(extension(UDP) + udp(), DESTINATION), pair.in_, 1)


@pytest.mark.parametrize("octets", [4, 20, 40])
def test_ipv4_options_stay_outside(engine_name: str, octets: int) -> None:
    pair = Pair.of(engine_name, mode=Mode.TRANSPORT)
    packet = ipv4(tcp(ends=(A4, B4)), TCP, options=b"\x94\x04\0\0" + b"\x01" * (octets - 4), df=True, tos=0x42)
    protected = pair.protect(packet)
    assert protected[20 : 20 + octets] == packet[20 : 20 + octets]
    assert protected[9] == 50
    assert pair.open(protected) == Delivered(packet, pair.in_, 1)


@pytest.mark.parametrize(
    "packet",
    [
        ipv4(bytes(16), UDP, mf=True),
        ipv4(bytes(16), UDP, offset=8),
        ipv6(fragment_header(UDP, 0, True) + bytes(16), FRAGMENT),
        ipv6(fragment_header(UDP, 16, False) + bytes(16), FRAGMENT),
    ],
    ids=["v4-first", "v4-later", "v6-first", "v6-later"],
)
def test_fragments(engine_name: str, packet: bytes) -> None:
    """RFC 4303 §3.3.4: transport takes whole datagrams only, a tunnel carries fragments."""
    transport = Pair.of(engine_name, mode=Mode.TRANSPORT)
    refused_out(transport.sender, transport.out, packet, DropReason.OUT_MODE)
    inner = Inner(A4, B4) if packet[0] >> 4 == 4 else Inner(A6, B6)
    beet = Pair.of(engine_name, mode=Mode.BEET, inner=inner)
    refused_out(beet.sender, beet.out, packet, DropReason.OUT_MODE)
    tunnel = Pair.of(engine_name)
    assert tunnel.open(tunnel.protect(packet)) == Delivered(packet, tunnel.in_, 1)


@pytest.mark.parametrize("mode", [Mode.TRANSPORT, Mode.BEET])
def test_atomic_fragments_are_whole(engine_name: str, mode: Mode) -> None:
    """RFC 6946: a fragment header that says offset 0 and nothing more to come."""
    pair = Pair.of(engine_name, mode=mode, inner=Inner(A6, B6) if mode is Mode.BEET else None, outer=OUTER6)
    packet = ipv6(fragment_header(UDP, 0, False) + udp(), FRAGMENT)
    if mode is Mode.BEET:
        assert pair.protect(packet)[6] == FRAGMENT
    assert isinstance(pair.open(pair.protect(packet)), Delivered)


@pytest.mark.parametrize("mode", [Mode.TRANSPORT, Mode.TUNNEL, Mode.BEET])
def test_no_ip_packet(engine_name: str, mode: Mode) -> None:
    pair = Pair.of(engine_name, mode=mode, inner=Inner(A4, B4) if mode is Mode.BEET else None)
    whole = ipv4(b"data")
    for packet in (
        b"",
        b"\x45",
        whole[:19],
        whole[:23],
        b"\x55" + whole[1:],
        b"\x44" + whole[1:],
        b"\x4f" + whole[1:],
        patched(whole, 2, b"\0\x13"),
        ipv6()[:39],
        ipv6(b"data")[:43],
    ):
        refused_out(pair.sender, pair.out, packet, DropReason.OUT_BAD_PACKET)


# Tunnel.


@pytest.mark.parametrize(
    ("policy", "inner_df", "expected"),
    [
        (DF.COPY, False, False),
        (DF.COPY, True, True),
        (DF.SET, False, True),
        (DF.SET, True, True),
        (DF.CLEAR, False, False),
        (DF.CLEAR, True, False),
    ],
)
def test_df(engine_name: str, policy: DF, inner_df: bool, expected: bool) -> None:
    pair = Pair.of(engine_name, outer=replace(OUTER4, df=policy))
    protected = pair.protect(ipv4(df=inner_df))
    assert bool(protected[6] & 0x40) is expected
    assert pair.open(protected) == Delivered(ipv4(df=inner_df), pair.in_, 1)


@pytest.mark.parametrize("policy", list(DF))
def test_ipv6_counts_as_df(engine_name: str, policy: DF) -> None:
    pair = Pair.of(engine_name, outer=replace(OUTER4, df=policy))
    assert bool(pair.protect(ipv6())[6] & 0x40) is (policy is not DF.CLEAR)


def test_identification(engine_name: str) -> None:
    """0 under DF (RFC 6864 §4.1); else no repeat in 65,536 packets; or what the SA says."""
    pair = Pair.of(engine_name)
    seen = {pair.protect()[4:6] for _ in range(300)}
    assert len(seen) == 300
    assert pair.protect(ipv4(df=True))[4:6] == b"\0\0"
    fixed = Pair.of(engine_name, outer=replace(OUTER4, identification=0xBEEF))
    assert fixed.protect()[4:6] == fixed.protect(ipv4(df=True))[4:6] == b"\xbe\xef"


@pytest.mark.parametrize("outer", [OUTER4, OUTER6], ids=["v4", "v6"])
@pytest.mark.parametrize("inner", [ipv4(tos=0xBB), ipv6(traffic_class=0xBB, flow_label=0x54321)], ids=["v4", "v6"])
def test_what_the_outer_header_tells(engine_name: str, outer: Outer, inner: bytes) -> None:
    """Copied by default; each a covert channel that an SA may close (esp.md §5.2)."""

    def fields(packet: bytes) -> tuple[int, int, int]:
        word = int.from_bytes(packet[:4], "big")
        return (packet[1], packet[8], 0) if packet[0] >> 4 == 4 else (word >> 20 & 0xFF, packet[7], word & 0xFFFFF)

    label = 0x54321 if inner[0] >> 4 == 6 and outer is OUTER6 else 0
    assert fields(Pair.of(engine_name, outer=outer).protect(inner)) == (0xBB, 64, label)
    closed = replace(outer, dscp=10, copy_ecn=False, hop_limit=7, flow_label=0x777)
    told = (10 << 2, 7, 0x777 if outer is OUTER6 else 0)
    pair = Pair.of(engine_name, outer=closed)
    protected = pair.protect(inner)
    assert fields(protected) == told
    assert pair.open(protected) == Delivered(inner, pair.in_, 1)


def test_take_dscp(engine_name: str) -> None:
    """Off: the inner DSCP stays; on: the outer one goes in, ECN by its own rule."""
    for take, dscp in ((False, 0x2E), (True, 0x0C)):
        for inner, changed in (
            (ipv4(tos=0x2E << 2 | 2), ipv4(tos=dscp << 2 | 3)),
            (ipv6(traffic_class=0x2E << 2 | 2), ipv6(traffic_class=dscp << 2 | 3)),
        ):
            pair = Pair.of(engine_name, outer=replace(OUTER4, take_dscp=take))
            assert pair.open(patched(pair.protect(inner), 1, bytes((0x0C << 2 | 3,)))) == Delivered(
                changed, pair.in_, 1
            )


@pytest.mark.parametrize(
    ("next_header", "payload"),
    [
        (4, b""),
        (4, ipv4()[:19]),
        (4, ipv6()),
        (41, ipv4(bytes(40))),
        (41, ipv6()[:39]),
        (41, b""),
        (4, patched(ipv4(), 2, b"\0\x15")),
        (41, ipv6(b"data")[:-1]),
        (4, patched(ipv4(), 2, b"\0\x13")),
        (4, b"\x44" + ipv4()[1:]),
        (4, b"\x4f" + ipv4()[1:]),
        (17, udp()),
        (94, ipv4()),
        (0, ipv6()),
        (255, b"anything"),
    ],
)
def test_inner_packet_does_not_fit(engine_name: str, next_header: int, payload: bytes) -> None:
    """Authentic, so the number is used and the SA's counts move; dropped and counted all the same."""
    pair = Pair.of(engine_name)
    packet = pair.seal(1, payload, next_header)
    refused(pair.receiver, packet, DropReason.BAD_INNER)
    assert pair.receiver.state(pair.in_).packets == 1
    refused(pair.receiver, packet, DropReason.REPLAY, sa=pair.in_)


# BEET.


@pytest.mark.parametrize("outer", [OUTER4, OUTER6], ids=["v4", "v6"])
@pytest.mark.parametrize("octets", [4, 8, 12, 24, 36, 40])
def test_beet_options(engine_name: str, outer: Outer, octets: int) -> None:
    """RFC 7402 §B.1.7: Next Header 94, then a pseudo header: padding, then the options, a multiple of 8."""
    pair = Pair.of(engine_name, mode=Mode.BEET, inner=Inner(A4, B4), outer=outer)
    options = bytes((0x94, 4, 0, 0)) + b"\x01" * (octets - 4)
    packet = ipv4(udp(), UDP, options=options, identification=0, df=True)
    padding = b"\x01" * 4 if octets % 8 == 0 else b""
    pseudo = bytes((UDP, (4 + len(padding) + octets) // 8 - 1, len(padding), 0)) + padding + options
    assert len(pseudo) % 8 == 0
    body = oracle.seal(pair.keys, SPI, 1, True, (1).to_bytes(8, "big"), pseudo + udp(), BEET)
    expected = (
        ipv4(body, 50, source=LEFT4, destination=RIGHT4, identification=0, df=True)
        if outer is OUTER4
        else ipv6(body, 50, source=LEFT6, destination=RIGHT6)
    )
    assert pair.sender.encapsulate(pair.out, packet, 0) == Delivered(expected, pair.out, 1)
    assert pair.open(expected) == Delivered(packet, pair.in_, 1)


def test_beet_reserved_octet_is_ignored(engine_name: str) -> None:
    """Linux leaves stale memory in it (esp.md §5.3)."""
    pair = Pair.of(engine_name, mode=Mode.BEET, inner=Inner(A4, B4))
    options = b"\x94\x04\0\0"
    packet = pair.seal(1, bytes((UDP, 0, 0, 0xEE)) + options + udp(), BEET)
    assert pair.open(packet) == Delivered(ipv4(udp(), UDP, options=options), pair.in_, 1)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes((UDP, 0, 0)),
        bytes((UDP, 0, 0, 0)),
        bytes((UDP, 1, 4, 0)) + bytes(4),
        bytes((UDP, 0, 1, 0)) + bytes(4),
        bytes((UDP, 0, 2, 0)) + bytes(4),
        bytes((UDP, 1, 8, 0)) + bytes(12),
        bytes((UDP, 255, 0, 0)) + bytes(2044),
        bytes((UDP, 6, 4, 0)) + bytes(52),
        bytes((UDP, 5, 0, 0)) + bytes(44),
    ],
    ids=lambda p: p[:4].hex() or "empty",
)
def test_beet_pseudo_header_does_not_fit(engine_name: str, payload: bytes) -> None:
    pair = Pair.of(engine_name, mode=Mode.BEET, inner=Inner(A4, B4))
    refused(pair.receiver, pair.seal(1, payload, BEET), DropReason.BAD_INNER)


def test_beet_pseudo_header_in_front_of_ipv6(engine_name: str) -> None:
    pair = Pair.of(engine_name, mode=Mode.BEET, inner=Inner(A6, B6))
    refused(pair.receiver, pair.seal(1, bytes((UDP, 0, 0, 0, 1, 1, 1, 1)) + udp(), BEET), DropReason.BAD_INNER)


@pytest.mark.parametrize("outer", [OUTER4, OUTER6], ids=["v4", "v6"])
def test_beet_ipv6_extension_headers(engine_name: str, outer: Outer) -> None:
    """Over IPv6 they stay outside like in transport mode; IPv4 has no place for them, so they go inside."""
    pair = Pair.of(engine_name, mode=Mode.BEET, inner=Inner(A6, B6), outer=outer)
    chain = extension(UDP)
    packet = ipv6(chain + udp(), HOP)
    protected = pair.protect(packet)
    if outer is OUTER6:
        assert protected[6] == HOP
        assert protected[40:48] == extension(50)
    else:
        body = oracle.seal(pair.keys, SPI, 1, True, (1).to_bytes(8, "big"), chain + udp(), HOP)
        assert protected[20:] == body
    assert pair.open(protected) == Delivered(packet, pair.in_, 1)


def test_beet_addresses(engine_name: str) -> None:
    """RFC 7402 §B.1.5: only the SA's inner pair is sent."""
    pair = Pair.of(engine_name, mode=Mode.BEET, inner=Inner(A4, B4))
    for packet in (ipv4(source="10.1.0.9"), ipv4(destination="10.2.0.9"), ipv4(source=B4, destination=A4), ipv6()):
        refused_out(pair.sender, pair.out, packet, DropReason.OUT_MODE)


def test_inner_packet_too_large_for_its_header(engine_name: str) -> None:
    """An IPv4 header with 40 octets of options that come out of a payload as large as can be."""
    pair = Pair.of(engine_name, mode=Mode.BEET, inner=Inner(A4, B4))
    options = bytes((UDP, 5, 4, 0)) + b"\x01" * 44
    most = 65535 - 20 - 8 - 8 - 16 - 2
    payload = options + bytes((most - len(options)) // 4 * 4 - 4)
    assert len(payload) - 48 + 60 <= 65535
    assert isinstance(pair.open(pair.seal(1, payload, BEET)), Delivered)


# Direction.


def test_inbound_sa_does_not_send(engine_name: str) -> None:
    host = engine(engine_name)
    number = host.install(sa(Profile("aes-gcm-16", outer=OUTER4), Direction.IN, oracle.Keys.of("aes-gcm-16")))
    refused_out(host, number, ipv4(), DropReason.OUT_NO_SA)


def test_outbound_sa_does_not_receive(engine_name: str) -> None:
    pair = Pair.of(engine_name)
    refused(pair.sender, pair.protect(), DropReason.NO_SA)


def test_two_tunnels_in_each_other(engine_name: str) -> None:
    """An ESP packet is an IP packet like any other."""
    inner = Pair.of(engine_name)
    outer = Pair.of(engine_name, "chacha20-poly1305", outer=OUTER6)
    packet = ipv4(icmp(8, 0), ICMP)
    middle = delivered(outer.open(outer.protect(inner.protect(packet)))).packet
    assert inner.open(middle) == Delivered(packet, inner.in_, 1)
