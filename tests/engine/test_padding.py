"""Padding, TFC padding and dummy packets (RFC 4303 §2.4-2.7)."""

from __future__ import annotations

import pytest

from wesper import Delivered, Direction, Dropped, DropReason, Inner, Mode, Profile

from . import oracle
from .packets import A4, B4, LEFT4, RIGHT4, UDP, ipv4, ipv6, udp
from .pair import OUTER4, OUTER6, SPI, Pair, counts, delivered, engine, refused, refused_out, sa


def padded(pair: Pair, plaintext: bytes, sequence: int = 1) -> bytes:
    """A packet whose plaintext, trailer and all, is as given."""
    iv = bytes(oracle.SUITES[pair.keys.suite].iv)
    body = oracle.seal_plaintext(pair.keys, SPI, sequence, True, iv, plaintext)
    return ipv4(body, 50, source=LEFT4, destination=RIGHT4)


@pytest.mark.parametrize("suite", oracle.SUITES)
@pytest.mark.parametrize("units", [1, 2, 15])
def test_more_padding_than_needed(engine_name: str, suite: str, units: int) -> None:
    """Up to 255 octets are anybody's choice."""
    pair = Pair.of(engine_name, suite)
    packet = ipv4(b"payload")
    more = oracle.SUITES[suite].block * units
    if more > 240:
        more = 240 - 240 % oracle.SUITES[suite].block
    assert pair.open(pair.seal(1, packet, extra_padding=more)) == Delivered(packet, pair.in_, 1)


@pytest.mark.parametrize("suite", ["aes-gcm-16", "aes-gmac", "aes-cbc+hmac-sha2-256-128", "null+hmac-sha2-256-128"])
def test_padding_octets_are_looked_at(engine_name: str, suite: str) -> None:
    """RFC 4303 §2.4: 1, 2, 3, ...; authentic, so the window has moved; a knob turns the look off, as Linux has it."""
    packet = ipv4()
    good = oracle.trailer(suite, packet, 4, extra_padding=16)
    pad = good[-2]
    for at in range(pad):
        pair = Pair.of(engine_name, suite)
        where = len(packet) + at
        wrong = good[:where] + bytes((good[where] ^ 0x40,)) + good[where + 1 :]
        refused(pair.receiver, padded(pair, wrong), DropReason.BAD_PADDING)
        refused(pair.receiver, padded(pair, good), DropReason.REPLAY, sa=pair.in_)
        assert pair.receiver.state(pair.in_).packets == 1
        blind = Pair.of(engine_name, suite, check_padding=False)
        assert blind.open(padded(blind, wrong)) == Delivered(packet, blind.in_, 1)


@pytest.mark.parametrize("check", [True, False])
def test_pad_length_larger_than_the_plaintext(engine_name: str, check: bool) -> None:
    """Trap 5: no negative sizes, also where padding is not looked at."""
    for octets in (2, 30, 58):
        plaintext = bytes(range(octets))
        for pad in (octets + 1, octets + 4, 255):
            pair = Pair.of(engine_name, check_padding=check)
            refused(pair.receiver, padded(pair, plaintext + bytes((pad, 4))), DropReason.BAD_PADDING)


def test_padding_is_all_there_is(engine_name: str) -> None:
    """An empty payload is no inner packet, and nothing worse."""
    for next_header, reason in ((4, DropReason.BAD_INNER), (41, DropReason.BAD_INNER), (59, DropReason.DUMMY)):
        pair = Pair.of(engine_name)
        refused(pair.receiver, padded(pair, bytes(range(1, 7)) + bytes((6, next_header))), reason)


# Traffic flow confidentiality.


@pytest.mark.parametrize("octets", [1, 2, 3, 4, 37, 255, 256, 1000])
@pytest.mark.parametrize("packet", [ipv4(b"payload"), ipv6(b"payload")], ids=["v4", "v6"])
def test_tfc(engine_name: str, packet: bytes, octets: int) -> None:
    """RFC 4303 §2.7: behind the inner packet, whose length is left; the receiver cuts there (trap 4)."""
    pair = Pair.of(engine_name)
    tfc = bytes(reversed(range(octets % 256))) or b"\xaa" * octets
    verdict = delivered(pair.sender.encapsulate(pair.out, packet, 0, tfc=tfc))
    next_header = 4 if packet[0] >> 4 == 4 else 41
    expected = oracle.seal(pair.keys, SPI, 1, True, (1).to_bytes(8, "big"), packet + tfc, next_header)
    assert verdict.packet[20:] == expected
    assert pair.open(verdict.packet) == Delivered(packet, pair.in_, 1)
    # Linux counts what it received, TFC padding with it (esp.md §8.1).
    octets_counted = len(packet) + len(tfc)
    assert pair.sender.state(pair.out).octets == pair.receiver.state(pair.in_).octets == octets_counted


@pytest.mark.parametrize("mode", [Mode.TRANSPORT, Mode.BEET])
def test_tfc_outside_tunnel_mode(engine_name: str, mode: Mode) -> None:
    pair = Pair.of(engine_name, mode=mode, inner=Inner(A4, B4) if mode is Mode.BEET else None)
    refused_out(pair.sender, pair.out, ipv4(), DropReason.OUT_MODE, tfc=b"\0")


@pytest.mark.parametrize("pad_to", [1, 20, 21, 576, 1400])
@pytest.mark.parametrize("inner", [20, 21, 575, 576, 577, 1399, 1400])
def test_pad_to(engine_name: str, pad_to: int, inner: int) -> None:
    """Shorter inner packets all look the same from outside."""
    pair = Pair.of(engine_name, pad_to=pad_to)
    packet = ipv4(bytes(inner - 20))
    shown = max(inner, pad_to)
    protected = pair.protect(packet)
    assert len(protected) == 20 + 8 + 8 + (shown + 2 + 3) // 4 * 4 + 16
    assert pair.open(protected) == Delivered(packet, pair.in_, 1)
    assert pair.sender.state(pair.out).octets == shown


def test_pad_to_stays_inside_the_mtu(engine_name: str) -> None:
    """Padding never makes a packet too big: 1000 - 20 - 8 - 8 - 16 - 2 = 946."""
    pair = Pair.of(engine_name, pad_to=1400, mtu=1000)
    assert pair.sender.inner_mtu(pair.out) == 946
    protected = pair.protect()
    assert len(protected) == 1000
    assert isinstance(pair.open(protected), Delivered)


def test_pad_to_and_tfc(engine_name: str) -> None:
    pair = Pair.of(engine_name, pad_to=100)
    short = delivered(pair.sender.encapsulate(pair.out, ipv4(), 0, tfc=b"\xaa" * 10)).packet
    expected = ipv4() + b"\xaa" * 10 + bytes(70)
    assert short[20:] == oracle.seal(pair.keys, SPI, 1, True, (1).to_bytes(8, "big"), expected, 4)


# Dummies.


@pytest.mark.parametrize("outer", [OUTER4, OUTER6], ids=["v4", "v6"])
@pytest.mark.parametrize("suite", oracle.SUITES)
def test_dummy(engine_name: str, suite: str, outer: object) -> None:
    """Next Header 59, any payload; opened, counted, window moved, dropped without an error counter."""
    pair = Pair.of(engine_name, suite, outer=outer, pad_to=100)
    for sequence, payload in ((1, b""), (2, b"\xa5"), (3, bytes(200))):
        verdict = pair.sender.dummy(pair.out, payload, 0)
        iv = oracle.own_iv(pair.keys, sequence, bytes(range(16)), pair.out)
        body = oracle.seal(pair.keys, SPI, sequence, True, iv, payload, 59)
        assert isinstance(verdict, Delivered)
        assert verdict.packet[20 if outer is OUTER4 else 40 :] == body
        assert verdict.sequence == sequence
        refused(pair.receiver, verdict.packet, DropReason.DUMMY)
        refused(pair.receiver, verdict.packet, DropReason.REPLAY, sa=pair.in_)
        assert pair.receiver.state(pair.in_).packets == sequence
    assert not any(n for name, n in pair.receiver.counters().items() if name != "XfrmInStateSeqError")


@pytest.mark.parametrize("mode", [Mode.TRANSPORT, Mode.BEET])
def test_dummy_outside_tunnel_mode(engine_name: str, mode: Mode) -> None:
    pair = Pair.of(engine_name, mode=mode, inner=Inner(A4, B4) if mode is Mode.BEET else None)
    with counts(pair.sender, DropReason.OUT_MODE):
        assert pair.sender.dummy(pair.out, b"x", 0) == Dropped(DropReason.OUT_MODE)


def test_dummy_in_transport_mode_is_taken(engine_name: str) -> None:
    """RFC 4303 §2.6: all receivers drop dummies quietly, in any mode."""
    pair = Pair.of(engine_name, mode=Mode.TRANSPORT)
    refused(pair.receiver, pair.seal(1, b"x", 59), DropReason.DUMMY)


def test_dummy_too_big(engine_name: str) -> None:
    pair = Pair.of(engine_name, mtu=576)
    assert isinstance(pair.sender.dummy(pair.out, bytes(522), 0), Delivered)
    with counts(pair.sender, DropReason.OUT_TOO_BIG):
        assert pair.sender.dummy(pair.out, bytes(523), 0) == Dropped(DropReason.OUT_TOO_BIG, 522)


def test_dummy_of_no_sa(engine_name: str) -> None:
    host = engine(engine_name)
    inbound = host.install(sa(Profile("aes-gcm-16", outer=OUTER4), Direction.IN, oracle.Keys.of("aes-gcm-16")))
    for number in (inbound, 99):
        with counts(host, DropReason.OUT_NO_SA):
            assert host.dummy(number, b"", 0) == Dropped(DropReason.OUT_NO_SA)


def test_transport_payload_is_not_padded(engine_name: str) -> None:
    pair = Pair.of(engine_name, mode=Mode.TRANSPORT)
    assert len(pair.protect(ipv4(udp(b"12345678"), UDP))) == 20 + 8 + 8 + 20 + 16
