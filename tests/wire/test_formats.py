"""Every header format: build, parse, foreign octets, truncation at every octet, round trip."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.wire import Header, TruncatedHeader, diagram
from wesper.wire.esp import ESP, BEETPseudoHeader, ESPTrailer
from wesper.wire.ipv4 import IPv4
from wesper.wire.ipv6 import IPv6, IPv6Extension, IPv6Fragment
from wesper.wire.link import VLAN, Ethernet
from wesper.wire.psp import PSP
from wesper.wire.transport import ICMP, TCP
from wesper.wire.udp import UDP

# Octets of others: captures and documents, with the values that they are known to have.
FOREIGN: list[tuple[type[Header], str, dict[str, int], dict[str, Any]]] = [
    # draft-mcgrew-gcm-test-01 case 1: the inner IPv4 packet, and SPI and sequence number around it.
    (
        IPv4,
        "45000048699a000080114db7c0a80102c0a80101",
        {},
        {
            "version": 4,
            "total_length": 72,
            "identification": 0x699A,
            "ttl": 128,
            "protocol": 17,
            "checksum": 0x4DB7,
            "source": bytes([192, 168, 1, 2]),
            "destination": bytes([192, 168, 1, 1]),
        },
    ),
    (UDP, "0a9bf15638d30100", {}, {"source_port": 2715, "destination_port": 61782, "length": 14547, "checksum": 256}),
    (
        ESP,
        "00004321000000004956ed7e3b244cfe",
        {"iv": 8},
        {"spi": 0x4321, "sequence": 0, "iv": bytes.fromhex("4956ed7e3b244cfe")},
    ),
    # RFC 7634 appendix A: the protected packet's IPv4 header.
    (
        IPv4,
        "4500008c234500004032de5bcb007199cb007105",
        {},
        {
            "total_length": 140,
            "protocol": 50,
            "source": bytes([203, 0, 113, 153]),
            "destination": bytes([203, 0, 113, 5]),
        },
    ),
    # RFC 7634 appendix A: the ICMP echo request inside.
    (ICMP, "08005b7a3a080000", {}, {"type": 8, "code": 0, "checksum": 0x5B7A, "rest": 0x3A080000}),
    # RFC 1071 §3 has no headers; these are the field layouts of RFC 8200 §3 and §4.5, octet by octet.
    (
        IPv6,
        "6a51234500203a40" + "20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02",
        {},
        {
            "version": 6,
            "dscp": 0x29,
            "ecn": 1,
            "flow_label": 0x12345,
            "payload_length": 32,
            "next_header": 58,
            "hop_limit": 64,
        },
    ),
    (
        IPv6Fragment,
        "11000af9deadbeef",
        {},
        {"next_header": 17, "fragment_offset": 0x15F, "more": 1, "identification": 0xDEADBEEF},
    ),
    (
        IPv6Extension,
        "3a00050200000100",
        {},
        {"next_header": 58, "length_units": 0, "data": bytes.fromhex("050200000100")},
    ),
    (
        TCP,
        "cf7d90b5d9552bfb00000000a002ff004fb20000020405500402080a8750f1d500000000" + "0103030a",
        {},
        {
            "source_port": 53117,
            "header_words": 10,
            "flags": 2,
            "window": 65280,
            "options": bytes.fromhex("020405500402080a8750f1d5000000000103030a"),
        },
    ),
    (Ethernet, "0200000000020200000000010800", {}, {"destination": bytes.fromhex("020000000002"), "ethertype": 0x0800}),
    (VLAN, "600a86dd", {}, {"priority": 3, "dei": 0, "vid": 10, "ethertype": 0x86DD}),
    # google/psp's reference encryptor: vectors/psp.json, e_v6_transport_vc_split_co1 (half of its cookie is encrypted).
    (
        PSP,
        "110201038a0b0c0d000000000000000100000000" + "57232842",
        {},
        {
            "next_header": 17,
            "header_units": 2,
            "crypt_offset_words": 1,
            "version": 0,
            "cookie_present": 1,
            "always_one": 1,
            "spi": 0x8A0B0C0D,
            "iv": 1,
            "cookie": bytes.fromhex("0000000057232842"),
            "extension": b"",
        },
    ),
    # Scapy's documentation of its PSP layer.
    (
        PSP,
        "04010501112233440102030405060708",
        {},
        {"next_header": 4, "crypt_offset_words": 5, "version": 0, "spi": 0x11223344, "iv": 0x0102030405060708},
    ),
    (ESPTrailer, "0229", {}, {"pad_length": 2, "next_header": 41}),
    (
        BEETPseudoHeader,
        "1101040001010101940400000000" + "0000",
        {},
        {"next_header": 17, "length_units": 1, "pad_length": 4, "options": bytes.fromhex("010101019404000000000000")},
    ),
]
HEADERS = sorted({header for header, *_ in FOREIGN}, key=lambda header: header.__name__)


@pytest.mark.parametrize(
    ("header", "octets", "lengths", "values"), FOREIGN, ids=[f"{h.__name__}-{i}" for i, (h, *_) in enumerate(FOREIGN)]
)
def test_foreign_octets_parse_and_build_again(
    header: type[Header], octets: str, lengths: dict[str, int], values: dict[str, Any]
) -> None:
    data = bytes.fromhex(octets)
    parsed = header.parse(data, **lengths)
    assert {name: getattr(parsed, name) for name in values} == values
    assert parsed.build() == data
    assert len(parsed) == len(data)
    assert header(**values | {f.name: getattr(parsed, f.name) for f in header.FIELDS}).build() == data


@pytest.mark.parametrize(
    ("header", "octets", "lengths", "values"), FOREIGN, ids=[f"{h.__name__}-{i}" for i, (h, *_) in enumerate(FOREIGN)]
)
def test_truncation_at_every_octet_is_refused(
    header: type[Header], octets: str, lengths: dict[str, int], values: dict[str, Any]
) -> None:
    data = bytes.fromhex(octets)
    for size in range(len(data)):
        with pytest.raises(TruncatedHeader):
            header.parse(data[:size], **lengths)


@pytest.mark.parametrize("header", HEADERS, ids=lambda h: h.__name__)
@given(data=st.data())
def test_any_values_survive_a_round_trip(header: type[Header], data: st.DataObject) -> None:
    values: dict[str, int | bytes] = {}
    for f in header.FIELDS:
        if f.variable:
            continue
        values[f.name] = data.draw(
            st.binary(min_size=f.bits // 8, max_size=f.bits // 8) if f.raw else st.integers(0, (1 << f.bits) - 1)
        )
    made = header(**values)
    lengths = {}
    for f in header.FIELDS:
        if f.variable:
            size = f.length(made) if f.length is not None else data.draw(st.integers(0, 32))
            if size < 0:
                with pytest.raises(TruncatedHeader):
                    header.parse(made.build() + bytes(2048))
                return
            setattr(made, f.name, data.draw(st.binary(min_size=size, max_size=size)))
            lengths |= {f.name: size} if f.length is None else {}
    front = data.draw(st.binary(max_size=3))
    assert header.parse(front + made.build() + b"rest", len(front), **lengths) == made


@pytest.mark.parametrize("header", HEADERS, ids=lambda h: h.__name__)
@given(junk=st.binary(max_size=80))
def test_random_octets_parse_or_are_refused(header: type[Header], junk: bytes) -> None:
    lengths = {f.name: 8 for f in header.FIELDS if f.variable and f.length is None}
    try:
        parsed = header.parse(junk, **lengths)
    except TruncatedHeader:
        return
    assert parsed.build() == junk[: len(parsed)]


@pytest.mark.parametrize("header", HEADERS, ids=lambda h: h.__name__)
def test_every_field_names_its_source_and_stands_where_walk_says(header: type[Header]) -> None:
    made = header(**{f.name: (1 << f.bits) - 1 for f in header.FIELDS if not f.raw})
    octets = made.build()
    whole = int.from_bytes(octets, "big")
    for f, value, first, width in made.walk():
        assert f.source.startswith(("RFC ", "IEEE ", "PSP "))
        assert f.meaning
        if isinstance(value, int):
            assert whole >> (8 * len(octets) - first - width) & ((1 << width) - 1) == value


def test_diagram_has_the_rfcs_shape() -> None:
    lines = diagram(ESP).splitlines()
    assert [len(line) for line in lines[2:]] == [65] * (len(lines) - 2)
    assert lines[3].strip("| ") == "spi"
    assert lines[5].strip("| ") == "sequence"
    assert "iv (variable)" in lines[7]
    # RFC 791 §3.1: version, IHL, DSCP, ECN and total length share the first row.
    assert diagram(IPv4).splitlines()[3].count("|") == 6


def test_a_header_that_does_not_fill_words_is_refused_when_declared() -> None:
    from wesper.wire.format import bits

    with pytest.raises(TypeError, match="do not fill a word"):

        class Odd(Header, name="odd", title="Odd", source="RFC 0"):
            one: int = bits(3, "RFC 0", "three bits alone")


def test_codec_is_a_plain_struct() -> None:
    assert struct.pack(">II", 0x4321, 7) == ESP(0x4321, 7).build()
