"""Fragments put together again are the packet; what may not be cut is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.protocols import ip
from wesper.protocols.fragment import fragment

from ..engine.packets import UDP, extension, fragment_header, ipv4, ipv6, routing, sum16

MTUS = st.integers(68, 1500)


def cut(packet: bytes, mtu: int, identification: int = 7) -> list[bytes] | None:
    datagram = ip.parse(packet)
    assert datagram is not None
    return fragment(datagram, mtu, identification)


def put_together(pieces: list[bytes], mtu: int) -> bytes:
    """The payload, if the pieces are what a receiver may expect."""
    payload = b""
    for piece in pieces:
        found = ip.parse(piece)
        assert found is not None
        assert len(piece) == len(found.packet) <= mtu
        assert found.offset == len(payload)
        assert found.fragment
        part = piece[found.payload :]
        assert piece is pieces[-1] or len(part) % 8 == 0
        payload += part
    return payload


@given(st.binary(min_size=1500, max_size=3000), MTUS)
def test_ipv4(data: bytes, mtu: int) -> None:
    packet = ipv4(data, UDP, tos=3, identification=0xBEEF, ttl=9)
    pieces = cut(packet, mtu)
    assert pieces is not None
    assert put_together(pieces, mtu) == data
    for piece in pieces:
        assert sum16(piece[:20]) == 0
        assert bool(piece[6] & 0x20) is (piece is not pieces[-1])
        assert (piece[1], piece[4:6], piece[8], piece[9], piece[12:20]) == (3, b"\xbe\xef", 9, UDP, packet[12:20])


def test_ipv4_options() -> None:
    """RFC 791 §3.1: all in the first fragment, those with the copied flag in the others, padded."""
    copied, single = b"\x94\x04\0\0", b"\x07\x07\x04\0\0\0\0"
    options = copied + b"\x01" + single
    pieces = cut(ipv4(bytes(2000), UDP, options=options), 600)
    assert pieces is not None
    assert pieces[0][20:32] == options
    assert all(piece[0] == 0x46 and piece[20:24] == copied for piece in pieces[1:])
    assert put_together(pieces, 600) == bytes(2000)


@pytest.mark.parametrize(
    "options", [b"\x94\x00\0\0", b"\x94\x09\0\0", b"\x94\x01\0\0", b"\0\x94\x04\0", b"\x01\x01\x01\x94"]
)
def test_ipv4_options_that_are_broken(options: bytes) -> None:
    pieces = cut(ipv4(bytes(200), UDP, options=options), 100)
    assert pieces is not None
    assert pieces[0][20:24] == options
    assert all(piece[0] == 0x45 for piece in pieces[1:])


@pytest.mark.parametrize("more", [False, True])
def test_a_fragment_is_cut_again(more: bool) -> None:
    pieces = cut(ipv4(bytes(range(200)) * 4, UDP, mf=more, offset=1600), 500)
    assert pieces is not None
    words = [int.from_bytes(piece[6:8], "big") for piece in pieces]
    assert [8 * (w & 0x1FFF) for w in words] == [1600, 2080]
    assert [bool(w & 0x2000) for w in words] == [True, more]


@given(st.binary(min_size=1500, max_size=3000), st.integers(1280, 1500), st.integers(0, (1 << 32) - 1))
def test_ipv6(data: bytes, mtu: int, identification: int) -> None:
    chain = extension(43) + routing(UDP)
    pieces = cut(ipv6(chain + data, 0, flow_label=5), mtu, identification)
    assert pieces is not None
    assert put_together(pieces, mtu) == data
    for piece in pieces:
        assert piece[40:48] == extension(43)
        assert piece[48] == 44
        assert piece[56] == UDP
        assert piece[60:64] == identification.to_bytes(4, "big")


def test_what_fits_stays() -> None:
    for packet in (ipv4(bytes(80), df=True), ipv6(bytes(60))):
        assert cut(packet, 100) == [packet]


def test_what_may_not_be_cut() -> None:
    assert cut(ipv4(bytes(100), df=True), 100) is None
    assert cut(ipv6(fragment_header(UDP, 8, False) + bytes(100), 44), 100) is None
    assert cut(ipv4(bytes(100)), 27) is None
    assert cut(ipv4(bytes(100), options=b"\x01" * 40), 67) is None
    assert cut(ipv6(bytes(100)), 55) is None
    assert cut(ipv4(bytes(1000), offset=65000), 500) is None
