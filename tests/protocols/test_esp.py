"""ESP without an SA around it, and UDP's demultiplexer: what tests/engine shows through packets, part by part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper import Mode, Profile
from wesper.crypto import SUITES, transform
from wesper.protocols import PROTOCOLS, Arrived, Opened, Outgoing, esp, udp
from wesper.protocols.ecn import Alarm, decapsulate
from wesper.protocols.encapsulation import Located
from wesper.verdict import DropReason

from ..engine import oracle

ESP = PROTOCOLS["esp"]
SPI = 0x12345678


@given(
    st.sampled_from(oracle.ALL_SUITES),
    st.booleans(),
    st.integers(1, (1 << 64) - 1),
    st.integers(0, 255),
    st.binary(max_size=200),
)
def test_round_trip(which: tuple[str, int], esn: bool, sequence: int, next_header: int, payload: bytes) -> None:
    """And octet for octet what the oracle makes."""
    name, octets = which
    suite, material = SUITES[name], oracle.Keys.of(name, octets)
    keys = transform(suite, material.key, material.salt, material.auth_key)
    sequence = sequence if esn else sequence & 0xFFFFFFFF or 1
    iv = bytes(range(suite.iv_octets)) if suite.iv_octets else esp.implicit_iv(sequence, esn) * suite.implicit_iv
    terms = Profile(name, Mode.TRANSPORT, esn=esn)
    out = Outgoing(SPI, sequence, 0, iv, next_header, payload, len(payload), None, version=4, in_udp=False)
    body = ESP.seal(terms, keys, out)
    assert body == oracle.seal(material, SPI, sequence, esn, iv, payload, next_header)
    assert ESP.locate(body) == ESP.quoted(body) == Located(SPI, sequence & 0xFFFFFFFF)
    arrived = ESP.read(terms, body, 4, False)
    assert isinstance(arrived, Arrived)
    assert ESP.open(terms, keys, arrived, sequence) == Opened(next_header, payload)
    forged = ESP.read(terms, body[:-1] + bytes((body[-1] ^ 1,)), 4, False)
    assert isinstance(forged, Arrived)
    assert ESP.open(terms, keys, forged, sequence) is DropReason.AUTH


@pytest.mark.parametrize("octets", range(8))
def test_too_short_for_a_header(octets: int) -> None:
    assert ESP.locate(bytes(octets)) is DropReason.TRUNCATED_HEADER


@pytest.mark.parametrize("name", SUITES)
def test_sizes(name: str) -> None:
    """esp.md §10, and the largest payload for a room: no more fits, and it does."""
    suite, sizes = SUITES[name], oracle.SUITES[name]
    for payload in range(70):
        pad = esp.padding_octets(suite, payload)
        assert 0 <= pad < sizes.block
        assert (payload + pad + 2) % sizes.block == 0
    around, terms = 8 + sizes.iv + sizes.icv, Profile(name, Mode.TRANSPORT)
    for room in range(around + 90):
        most = ESP.inner_mtu(terms, 4, False, room)
        if most:
            assert around + most + esp.padding_octets(suite, most) + 2 <= room
        more = most + 1
        assert around + more + esp.padding_octets(suite, more) + 2 > room


@pytest.mark.parametrize("octets", range(60))
def test_fits(octets: int) -> None:
    for name in SUITES:
        sizes = oracle.SUITES[name]
        sealed = octets - 8 - sizes.iv - sizes.icv
        fits = ESP.read(Profile(name, Mode.TRANSPORT), bytes(octets), 4, False) is not DropReason.TRUNCATED
        assert fits is (sealed >= sizes.block and sealed % sizes.block == 0)


def test_implicit_iv() -> None:
    """RFC 8750 §4: the high half only where both ends know it."""
    assert esp.implicit_iv(0x123456789ABC, True).hex() == "0000123456789abc"
    assert esp.implicit_iv(0x123456789ABC, False).hex() == "0000000056789abc"


def datagram(data: bytes, octets: int | None = None) -> bytes:
    return b"\x11\x94\x11\x95" + (8 + len(data) if octets is None else octets).to_bytes(2, "big") + bytes(2) + data


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (datagram(b"\xff"), DropReason.KEEPALIVE),
        (datagram(b"\xff" + b"more", 9), DropReason.KEEPALIVE),
        (datagram(b""), DropReason.TRUNCATED_HEADER),
        (datagram(b"\0\0\0"), DropReason.TRUNCATED_HEADER),
        (datagram(b"\xff\xff"), DropReason.TRUNCATED_HEADER),
        (datagram(bytes(4)), DropReason.NOT_FOR_US),
        (datagram(b"\0\0\0\2"), DropReason.NOT_FOR_US),
        (datagram(b"\0\0\0\1"), b"\0\0\0\1"),
        (datagram(b"\0\0\1\0rest", 14), b"\0\0\1\0re"),
        (datagram(b"data", 7), DropReason.BAD_IP),
        (datagram(b"data", 13), DropReason.BAD_IP),
    ],
)
def test_demultiplexer(payload: bytes, expected: bytes | DropReason) -> None:
    assert udp.content(payload) == expected


def test_ports() -> None:
    assert udp.ports(datagram(b"")) == (4500, 4501)
    assert [udp.ports(bytes(n)) for n in range(8)] == [None] * 8


def test_ecn_table() -> None:
    """RFC 6040 figure 4: 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE."""
    delivered = [[decapsulate(inner, outer)[0] for outer in (0, 2, 1, 3)] for inner in (0, 2, 1, 3)]
    assert delivered == [[0, 0, 0, None], [2, 2, 1, 3], [1, 1, 1, 3], [3, 3, 3, 3]]
    alarms = {
        (inner, outer): alarm
        for inner in range(4)
        for outer in range(4)
        if (alarm := decapsulate(inner, outer)[1]) is not Alarm.NONE
    }
    assert alarms == {
        (0, 2): Alarm.ALWAYS,
        (0, 1): Alarm.ALWAYS,
        (0, 3): Alarm.ALWAYS,
        (1, 2): Alarm.POSSIBLE,
        (3, 1): Alarm.ALWAYS,
    }
