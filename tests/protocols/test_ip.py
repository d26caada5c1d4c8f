"""Reading IP packets: lengths are never trusted, header chains are walked, checksums hold."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.protocols import ip

from ..engine.packets import A4, A6, B4, B6, UDP, extension, fragment_header, ipv4, ipv6, routing, sum16, udp


@pytest.mark.parametrize("options", [b"", b"\x01" * 4, b"\x01" * 40])
def test_ipv4(options: bytes) -> None:
    packet = ipv4(udp(), UDP, options=options, df=True)
    found = ip.parse(packet + b"trailing")
    assert found is not None
    assert found.packet == packet
    assert (found.version, found.protocol, found.payload, found.link) == (4, UDP, 20 + len(options), 9)
    assert (found.upper, found.upper_at, found.upper_link) == (UDP, 20 + len(options), 9)
    assert (found.fragment, found.offset, found.dont_fragment) == (False, 0, True)


@pytest.mark.parametrize("packet", [ipv4(udp(), UDP, options=b"\x01" * 8), ipv6(extension(UDP) + udp(), 0)])
def test_truncated_at_every_octet(packet: bytes) -> None:
    for octets in range(len(packet)):
        assert ip.parse(packet[:octets]) is None
    assert ip.parse(packet) is not None


def test_contradictions() -> None:
    good = ipv4(b"data")
    for packet in (
        b"\x35" + good[1:],
        b"\x55" + good[1:],
        b"\x44" + good[1:],  # header shorter than a header
        b"\x47" + good[1:],  # header longer than the packet
        good[:2] + pack(">H", 19) + good[4:],
        good[:2] + pack(">H", 25) + good[4:],
        b"\x75" + ipv6()[1:],
        ipv6()[:4] + pack(">H", 1) + ipv6()[6:],
    ):
        assert ip.parse(packet) is None


@pytest.mark.parametrize("flags", [{"mf": True}, {"offset": 8}, {"mf": True, "offset": 16}])
def test_ipv4_fragments(flags: dict[str, int]) -> None:
    found = ip.parse(ipv4(bytes(24), UDP, **flags))  # type: ignore[arg-type]
    assert found is not None
    assert found.fragment
    assert found.offset == flags.get("offset", 0)


HOP, ROUTE, FRAGMENT, DESTINATION = 0, 43, 44, 60


def chain(*kinds: int, last: int = UDP) -> tuple[bytes, int]:
    """Headers of 8 octets each, and the number of the first."""
    following = [*kinds, last][1:]
    octets = b"".join(
        routing(n) if kind == ROUTE else fragment_header(n, 0, False) if kind == FRAGMENT else extension(n)
        for kind, n in zip(kinds, following, strict=False)
    )
    return octets, [*kinds, last][0]


@pytest.mark.parametrize(
    ("kinds", "outside"),
    [
        ((), 0),
        ((HOP,), 1),
        ((HOP, ROUTE), 2),
        ((HOP, DESTINATION), 1),
        ((DESTINATION,), 0),
        ((DESTINATION, DESTINATION), 0),
        ((DESTINATION, ROUTE), 2),
        ((HOP, DESTINATION, ROUTE, FRAGMENT, DESTINATION), 4),
        ((DESTINATION, ROUTE, DESTINATION, ROUTE), 4),
        ((DESTINATION, FRAGMENT), 0),
        ((FRAGMENT,), 1),
    ],
    ids=str,
)
def test_ipv6_chains(kinds: tuple[int, ...], outside: int) -> None:
    """Destination options are the payload's unless a routing header follows (RFC 8200 §4.1, esp.md §5.1)."""
    headers, first = chain(*kinds)
    found = ip.parse(ipv6(headers + udp(), first))
    assert found is not None
    all_kinds = [*kinds, UDP]
    assert (found.payload, found.protocol) == (40 + 8 * outside, all_kinds[outside])
    assert found.link == (6 if outside == 0 else 40 + 8 * (outside - 1))
    assert (found.upper, found.upper_at) == (UDP, 40 + 8 * len(kinds))
    assert found.packet[found.link] == found.protocol
    assert found.packet[found.upper_link] == UDP
    assert found.dont_fragment


def test_ipv6_chain_that_is_cut() -> None:
    """What is left is payload."""
    headers, first = chain(HOP, ROUTE)
    for octets in (9, 12, 15):
        found = ip.parse(ipv6(headers[:octets], first))
        assert found is not None
        assert (found.payload, found.protocol) == (48, ROUTE)
    long = bytes((UDP, 200, 1, 4)) + bytes(4)
    found = ip.parse(ipv6(long, HOP))
    assert found is not None
    assert (found.payload, found.protocol) == (40, HOP)


@pytest.mark.parametrize(("offset", "more", "is_fragment"), [(0, False, False), (0, True, True), (8, False, True)])
def test_ipv6_fragments(offset: int, more: bool, is_fragment: bool) -> None:
    headers = fragment_header(HOP, offset, more) + bytes(24)
    found = ip.parse(ipv6(headers, FRAGMENT))
    assert found is not None
    assert (found.fragment, found.offset) == (is_fragment, offset)
    if offset:
        assert (found.upper, found.upper_at) == (HOP, 48), "a later fragment shows no header"


@given(st.binary(max_size=120))
def test_any_octets(octets: bytes) -> None:
    for packet in (octets, b"\x45" + octets, b"\x60" + octets):
        found = ip.parse(packet)
        if found is not None:
            assert len(found.packet) <= len(packet)
            assert 20 <= found.payload <= found.upper_at <= len(found.packet)
            assert found.packet[found.link] == found.protocol
            assert found.packet[found.upper_link] == found.upper
            ip.flow(found)


@given(st.binary(max_size=99))
def test_checksum(data: bytes) -> None:
    assert ip.checksum(data) == sum16(data)


def test_checksum_of_a_document() -> None:
    """RFC 1071 §3: 0001 f203 f4f5 f6f7 sums to ddf2."""
    assert ip.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF


@given(st.binary(min_size=40, max_size=40), st.integers(0, 18), st.binary(min_size=2, max_size=2))
def test_adjusted_checksum(data: bytes, word: int, new: bytes) -> None:
    """RFC 1624 §3: as if it were computed again (0 and 0xffff are the same number)."""
    old = ip.checksum(data)
    changed = data[: 2 * word] + new + data[2 * word + 2 :]
    adjusted = ip.adjust_checksum(old, data[2 * word : 2 * word + 2], new)
    assert adjusted % 0xFFFF == ip.checksum(changed) % 0xFFFF


def test_pseudo_headers() -> None:
    assert ip.pseudo_header(A4.packed, B4.packed, 17, 9).hex() == "0a010001" + "0a020002" + "0011" + "0009"
    six = ip.pseudo_header(A6.packed, B6.packed, 17, 9)
    assert six == A6.packed + B6.packed + bytes.fromhex("00000009" + "00000011")


@pytest.mark.parametrize(
    ("packet", "protocol", "first", "second"),
    [
        (ipv4(udp(sport=5, dport=6), UDP), UDP, 5, 6),
        (ipv6(chain(HOP, DESTINATION)[0] + udp(sport=5, dport=6), HOP), UDP, 5, 6),
        (ipv4(udp(sport=5, dport=6), 132), 132, 5, 6),
        (ipv4(udp()[:3], UDP), UDP, None, None),
        (ipv4(bytes(24), UDP, offset=8), UDP, None, None),
        (ipv4(b"\x08\x01", 1), 1, 8, 1),
        (ipv4(b"\x08", 1), 1, None, None),
        (ipv6(b"\x80\x00", 58), 58, 128, 0),
        (ipv6(b"\x3b\x00\x05\x00", 135), 135, 5, 0),
        (ipv4(bytes(8), 47), 47, None, None),
    ],
)
def test_flows(packet: bytes, protocol: int, first: int | None, second: int | None) -> None:
    found = ip.parse(packet)
    assert found is not None
    flow = ip.flow(found)
    assert (flow.protocol, flow.first, flow.second) == (protocol, first, second)
    assert flow.source == int.from_bytes(found.header.source, "big")


def test_addresses() -> None:
    for address in (A4, A6):
        assert ip.address(ip.packed(address)) == address
