"""Fragments made whole, and all that may be wrong with them."""

from __future__ import annotations

import itertools
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.protocols import fragment, ip, reassembly
from wesper.protocols.reassembly import MAX_AGE_NS, Reassembler

from ..engine.packets import extension, fragment_header, ipv4, ipv6, routing

BODY = bytes(range(256)) * 2


def pieces4(size: int = 200, body: bytes = BODY, **header: int) -> list[bytes]:
    return [
        ipv4(body[at : at + size], mf=at + size < len(body), offset=at, **header) for at in range(0, len(body), size)
    ]


def pieces6(size: int = 200, body: bytes = BODY, before: bytes = b"", first: int = 44) -> list[bytes]:
    """before: extension headers in front of the fragment header; first: number of the first of them."""
    return [
        ipv6(before + fragment_header(17, at, at + size < len(body)) + body[at : at + size], first)
        for at in range(0, len(body), size)
    ]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_order(order: tuple[int, ...]) -> None:
    for pieces, whole in ((pieces4(), ipv4(BODY)), (pieces6(), ipv6(BODY, 17))):
        reassembler = Reassembler()
        results = [reassembler.add(pieces[place], 0) for place in order]
        assert results == [None, None, whole]
        assert (reassembler.whole, reassembler.given_up, reassembler.unfinished) == (1, 0, 0)
        assert reassembler._octets == 0


def test_headers_before_the_fragment_header_stay() -> None:
    before = extension(43) + routing(44)
    reassembler = Reassembler()
    results = [reassembler.add(piece, 0) for piece in pieces6(before=before, first=0)]
    assert results[-1] == ipv6(extension(43) + routing(17) + BODY, 0)


def test_options_and_df_stay() -> None:
    first, *others = pieces4(options=b"\x94\x04\0\0")
    reassembler = Reassembler()
    results = [reassembler.add(piece, 0) for piece in (first, *others)]
    assert results[-1] == ipv4(BODY, options=b"\x94\x04\0\0")


@pytest.mark.parametrize("packet", [b"", b"\x45", b"\x60", ipv4(BODY), ipv6(BODY), ipv4(BODY)[:100], bytes(60)])
def test_what_is_no_fragment_passes(packet: bytes) -> None:
    reassembler = Reassembler()
    assert reassembler.add(packet, 0) == packet
    assert reassembler.unfinished == 0


def test_alone_with_a_fragment_header() -> None:
    """RFC 6946: whole, and not to be mixed with fragments of the same identification."""
    reassembler = Reassembler()
    first, *rest = pieces6()
    assert reassembler.add(first, 0) is None
    assert reassembler.add(ipv6(fragment_header(17, 0, False) + b"alone", 44), 0) == ipv6(b"alone", 17)
    assert [reassembler.add(piece, 0) for piece in rest][-1] == ipv6(BODY, 17)


def test_same_fragment_twice_is_ignored() -> None:
    reassembler = Reassembler()
    first, *rest = pieces4()
    assert reassembler.add(first, 0) is None
    assert reassembler.add(first, 0) is None
    assert [reassembler.add(piece, 0) for piece in rest][-1] == ipv4(BODY)


WRONG = {
    "overlap": [ipv4(BODY[:200], mf=True), ipv4(BODY[8:208], mf=True, offset=8)],
    "other octets": [ipv4(BODY[:200], mf=True), ipv4(bytes(200), mf=True)],
    "two ends": [ipv4(BODY[:8], offset=8), ipv4(BODY[:8], offset=80)],
    "behind the end": [ipv4(BODY[:8], offset=8), ipv4(BODY[:8], mf=True, offset=80)],
    "end inside": [ipv4(BODY[:8], mf=True, offset=80), ipv4(BODY[:8], offset=8)],
    "not a multiple of 8": [ipv4(BODY[:12], mf=True)],
    "empty": [ipv4(b"", mf=True)],
    "too long": [ipv4(BODY[:64], offset=65528)],
}


@pytest.mark.parametrize("name", WRONG)
def test_contradictions_throw_the_datagram_away(name: str) -> None:
    reassembler = Reassembler()
    assert [reassembler.add(piece, 0) for piece in WRONG[name]] == [None] * len(WRONG[name])
    assert (reassembler.given_up, reassembler.unfinished, reassembler._octets) == (1, 0, 0)


def test_keys_of_datagrams() -> None:
    """Other identification, protocol, or address: another datagram."""
    reassembler = Reassembler()
    first, *rest = pieces4()
    assert reassembler.add(first, 0) is None
    for other in (pieces4(identification=1), pieces4(source="10.9.9.9")):
        assert [reassembler.add(piece, 0) for piece in other[1:]] == [None, None]
    assert [reassembler.add(piece, 0) for piece in rest][-1] == ipv4(BODY)
    assert reassembler.unfinished == 2


def test_age() -> None:
    reassembler = Reassembler()
    first, *rest = pieces4()
    assert reassembler.add(first, 0) is None
    assert [reassembler.add(piece, MAX_AGE_NS + 1) for piece in rest] == [None, None]
    assert (reassembler.given_up, reassembler.unfinished) == (1, 1)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reassembly, "MAX_DATAGRAMS", 10)
    reassembler = Reassembler()
    for number in range(100):
        reassembler.add(ipv4(BODY[:200], mf=True, identification=number), 0)
    assert (reassembler.unfinished, reassembler.given_up) == (10, 90)
    monkeypatch.setattr(reassembly, "MAX_OCTETS", 1000)
    reassembler.add(ipv4(BODY[:200], mf=True, identification=1000), 0)
    assert reassembler._octets == 1000


@given(st.binary(min_size=1, max_size=3000), st.integers(68, 600), st.booleans())
def test_undoes_fragmentation(body: bytes, mtu: int, six: bool) -> None:
    packet = ipv6(body, 17) if six else ipv4(body)
    datagram = ip.parse(packet)
    assert datagram is not None
    cut = fragment.fragment(datagram, mtu)
    assert cut is not None
    reassembler = Reassembler()
    results = [reassembler.add(piece, 0) for piece in reversed(cut)]
    assert results[-1] == packet


@given(st.lists(st.binary(max_size=80), max_size=20))
def test_any_octets(packets: list[bytes]) -> None:
    reassembler = Reassembler()
    for packet in packets:
        for head in (
            b"",
            pack(">BBHHHBB", 0x45, 0, len(packet) + 10, 1, 0x2000, 64, 50),
            bytes([0x60]) + bytes(5) + b",",
        ):
            reassembler.add(head + packet, 0)
