"""Packets taken apart: each header as declared, the inside of ESP, and octets that make no sense."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.keying import StaticSA
from wesper.pcap import LinkType
from wesper.pcap.dissect import Keyring, dissect
from wesper.pcap.dissection import Dissection, read_layer
from wesper.wire.esp import ESP, BEETPseudoHeader, ESPTrailer
from wesper.wire.format import Header
from wesper.wire.ipv4 import IPv4
from wesper.wire.ipv6 import IPv6, IPv6Extension, IPv6Fragment
from wesper.wire.link import VLAN, Ethernet
from wesper.wire.transport import ICMP, TCP
from wesper.wire.udp import UDP

from ..engine import oracle
from ..engine.packets import (
    A4,
    A6,
    B4,
    B6,
    LEFT4,
    RIGHT4,
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
from .crossing import sealed, static_sa

MAC = bytes.fromhex("020000000002 020000000001")
INNER = ipv4(udp(ends=(A4, B4)), 17)


def names(dissection: Dissection) -> list[str]:
    return [layer.name for layer in dissection.layers]


def values(dissection: Dissection) -> dict[str, Any]:
    """First value of each name."""
    found: dict[str, Any] = {}
    for value in dissection.values():
        found.setdefault(value.name, value.value)
    return found


def notes(dissection: Dissection) -> dict[str, str]:
    return {value.name: value.note for value in dissection.values() if value.note}


def covered(dissection: Dissection) -> list[int]:
    """How many fields stand at each bit of the packet."""
    bits = [0] * (8 * len(dissection.packet))
    for value in dissection.values():
        for bit in range(value.bit, value.bit + value.bits):
            bits[bit] += 1
    return bits


@pytest.mark.parametrize(
    ("kind", "octets", "lengths"),
    [
        (Ethernet, MAC + b"\x08\x00", {}),
        (VLAN, b"\xa0\x07\x08\x00", {}),
        (IPv4, ipv4(options=b"\x94\x04\0\0"), {}),
        (IPv6, ipv6(flow_label=0xABCDE, traffic_class=0xB9), {}),
        (IPv6Extension, extension(17, 1), {}),
        (IPv6Fragment, fragment_header(17, 800, True), {}),
        (UDP, udp(ends=(A4, B4)), {}),
        (TCP, tcp(ends=(A4, B4)), {}),
        (ICMP, icmp(8, 0), {}),
        (ESP, bytes(range(32)), {"iv": 8}),
        (ESPTrailer, b"\x02\x04", {}),
        (BEETPseudoHeader, b"\x11\x00\x04\x00\x01\x01\x01\x01", {}),
    ],
    ids=lambda each: getattr(each, "NAME", None),
)
def test_fields_are_those_of_the_declaration(kind: type[Header], octets: bytes, lengths: dict[str, int]) -> None:
    """The walk that stops where the octets end reads what the parser reads, at the places that it names."""
    layer, problem = read_layer(kind, octets, 0, len(octets), lengths=lengths)
    parsed = kind.parse(octets, **lengths)
    assert problem == ""
    expected = [(f, value, bit, bits) for f, value, bit, bits in parsed.walk() if bits]
    assert [(v.field, v.value, v.bit, v.bits) for v in layer.values] == expected
    assert layer.octets == len(parsed)
    for size in range(len(parsed)):
        cut, problem = read_layer(kind, octets, 0, size, lengths=lengths)
        assert problem
        assert cut.values == layer.values[: len(cut.values)]
        assert all(v.bit + v.bits <= 8 * size for v in cut.values)
        assert len(cut.values) < len(layer.values)


STACKS: list[tuple[str, bytes, int, list[str]]] = [
    ("udp", INNER, LinkType.RAW, ["ip", "udp", "data"]),
    ("tcp6", ipv6(tcp(ends=(A6, B6)), 6), LinkType.RAW, ["ipv6", "tcp", "data"]),
    ("icmp", ipv4(icmp(8, 0), 1), LinkType.RAW, ["ip", "icmp", "data"]),
    ("icmp6", ipv6(icmp(128, 0, ends=(A6, B6)), 58), LinkType.RAW, ["ipv6", "icmpv6", "data"]),
    ("ethernet", MAC + b"\x08\x00" + INNER, LinkType.ETHERNET, ["eth", "ip", "udp", "data"]),
    ("vlan", MAC + bytes.fromhex("8100 0007 0800") + INNER, LinkType.ETHERNET, ["eth", "vlan", "ip", "udp", "data"]),
    ("padded", MAC + b"\x08\x00" + INNER + bytes(9), LinkType.ETHERNET, ["eth", "ip", "udp", "data", "data"]),
    ("arp", MAC + b"\x08\x06" + bytes(28), LinkType.ETHERNET, ["eth", "data"]),
    ("sll", bytes(14) + b"\x08\x00" + INNER, LinkType.LINUX_SLL, ["data", "ip", "udp", "data"]),
    ("mpls", MAC + bytes.fromhex("8847 00010140") + INNER, LinkType.ETHERNET, ["eth", "data", "ip", "udp", "data"]),
    (
        "extensions",
        ipv6(extension(43) + routing(60) + extension(17) + udp(ends=(A6, B6)), 0),
        LinkType.RAW,
        ["ipv6", "ipv6.hopopts", "ipv6.routing", "ipv6.dstopts", "udp", "data"],
    ),
    ("fragment6", ipv6(fragment_header(17, 8, False) + b"rest", 44), LinkType.RAW, ["ipv6", "ipv6.fraghdr", "data"]),
    ("fragment4", ipv4(b"rest", 17, offset=8), LinkType.RAW, ["ip", "data"]),
    ("ipip", ipv4(INNER, 4), LinkType.RAW, ["ip", "ip", "udp", "data"]),
    ("esp", sealed(INNER), LinkType.RAW, ["ip", "esp", "data"]),
    ("esp-udp", ipv4(udp(sealed(INNER)[20:], 4500, 9), 17), LinkType.RAW, ["ip", "udp", "esp", "data"]),
    ("keepalive", ipv4(udp(b"\xff", 4500, 9), 17), LinkType.RAW, ["ip", "udp", "data"]),
    ("ike", ipv4(udp(bytes(4) + b"IKE", 4500, 9), 17), LinkType.RAW, ["ip", "udp", "data", "data"]),
    ("short", ipv4(udp(b"hello", 4500, 9), 17), LinkType.RAW, ["ip", "udp", "data"]),
    ("gre", ipv4(bytes(8), 47), LinkType.RAW, ["ip", "data"]),
]


@pytest.mark.parametrize(("name", "packet", "link", "layers"), STACKS, ids=[name for name, *_ in STACKS])
def test_layers(name: str, packet: bytes, link: int, layers: list[str]) -> None:
    dissection = dissect(packet, link)
    assert names(dissection) == layers
    assert dissection.problem == ""
    assert covered(dissection) == [1] * 8 * len(packet)
    assert not any(note.startswith("wrong") for note in notes(dissection).values())


@pytest.mark.parametrize(("name", "packet", "link", "layers"), STACKS, ids=[name for name, *_ in STACKS])
def test_truncation_at_every_octet(name: str, packet: bytes, link: int, layers: list[str]) -> None:
    whole = dissect(packet, link)
    for size in range(len(packet)):
        cut = dissect(packet[:size], link)
        assert cut.problem or name in ("padded", "arp", "sll", "mpls", "vlan", "ethernet"), size
        fields = [(v.name, v.bit) for v in cut.values() if v.field.name != "data"]
        assert fields == [(v.name, v.bit) for v in whole.values() if v.field.name != "data"][: len(fields)]
        assert max(covered(cut), default=0) <= 1


def test_names_places_and_sources() -> None:
    dissection = dissect(ipv4(udp(ends=(A4, B4)), 17, df=True))
    flag = next(v for v in dissection.values() if v.name == "ip.flags.df")
    assert (flag.value, flag.place, flag.field.source) == (1, "6:1", "RFC 791 §3.1")
    places = {v.name: v.place for v in dissection.values()}
    assert places["ip.version"] == "0:0-3"
    assert places["ip.frag_offset"] == "6:3-7:7"
    assert places["ip.ttl"] == "8"
    assert places["ip.src"] == "12-15"
    assert places["udp.srcport"] == "20-21"


@pytest.mark.parametrize("suite", oracle.SUITES)
@pytest.mark.parametrize("esn", [False, True])
def test_inside_of_esp(suite: str, esn: bool) -> None:
    number = (5 << 32 | 7) if esn else 7
    packet = sealed(INNER, sequence=number, suite=suite, esn=esn)
    sa = static_sa(suite, esn=esn, sequence=5 << 32 if esn else 0)
    dissection = dissect(packet, keys=Keyring([sa]))
    sizes = oracle.SUITES[suite]
    assert dissection.problem == ""
    assert names(dissection) == ["ip", "esp", "ip", "udp", "data", "esp"]
    assert [layer.decrypted for layer in dissection.layers] == [False, False, True, True, True, True]
    assert covered(dissection) == [1] * 8 * len(packet)
    found = values(dissection)
    assert (found["esp.spi"], found["esp.sequence"], found["esp.protocol"]) == (0x1000, 7, 4)
    assert len(found["esp.icv"]) == sizes.icv
    assert found.get("esp.iv", b"") == packet[28 : 28 + sizes.iv]
    assert found.get("esp.pad", b"") == bytes(range(1, found["esp.pad_len"] + 1))
    inner = [layer for layer in dissection.layers if layer.decrypted][:3]
    octets = b"".join(pack(">H", v.value) for v in inner[1].values)
    assert octets == INNER[20:28]
    assert inner[0].at == 28 + sizes.iv
    assert notes(dissection)["esp.icv"] == "right"
    assert ("with its high half" in notes(dissection).get("esp.sequence", "")) is esn


@pytest.mark.parametrize("first", [4 << 32 | 9, 5 << 32 | 9, 6 << 32 | 9])
def test_high_half_is_found_and_followed(first: int) -> None:
    keys = Keyring([static_sa(esn=True, sequence=5 << 32)])
    for number in (first, first + 0x7FFFFFFF, first + 0xF0000000, first + 0x10000000F):
        dissection = dissect(sealed(INNER, sequence=number, esn=True), keys=keys)
        assert notes(dissection)["esp.sequence"] == f"with its high half {number}"


def test_transport_dummy_and_tfc() -> None:
    keys = Keyring([static_sa()])
    transport = dissect(sealed(udp(ends=(LEFT4, RIGHT4)), 17), keys=keys)
    assert names(transport) == ["ip", "esp", "udp", "data", "esp"]
    assert notes(transport)["udp.checksum"] == "right"
    dummy = dissect(sealed(b"x" * 10, 59), keys=keys)
    assert [layer.title for layer in dummy.layers][2] == "Dummy packet"
    tfc = dissect(sealed(INNER + bytes(33)), keys=keys)
    assert values(tfc)["esp.tfc_pad"] == bytes(33)
    assert covered(tfc) == [1] * 8 * len(tfc.packet)
    options = b"\x94\x04\0\0"
    beet = dissect(sealed(bytes([17, 0, 0, 0]) + options + udp(), 94), keys=keys)
    assert names(beet) == ["ip", "esp", "beet", "udp", "data", "esp"]


def test_esp_in_esp() -> None:
    inside = sealed(INNER, suite="chacha20-poly1305", spi=0x2000)
    keys = Keyring([static_sa(), static_sa("chacha20-poly1305", spi=0x2000)])
    dissection = dissect(sealed(inside), keys=keys)
    assert names(dissection) == ["ip", "esp", "ip", "esp", "ip", "udp", "data", "esp", "esp"]
    assert dissection.problem == ""


PROBLEMS: list[tuple[str, bytes, str]] = [
    ("no octets", b"", "no octets"),
    ("no IP", b"\x10", "IP version 1"),
    ("header length", b"\x44" + ipv4()[1:], "ip: the header's length is less than the header"),
    ("longer header", b"\x4f" + ipv4()[1:], "ip: the packet ends in ip.options"),
    ("total length", ipv4(b"12345678")[:-1], "ip.len is 28, and there are 27 octets"),
    ("total length below header", ipv4()[:3] + b"\x05" + ipv4()[4:], "ip.len is 5, and there are 20 octets"),
    ("payload length", ipv6(b"12345678", 59)[:-1], "ipv6.plen is 8, and 7 octets follow"),
    ("udp length", ipv4(udp(octets=99), 17), "udp.length is 99, and there are 12 octets"),
    ("short udp", ipv4(b"1234", 17), "udp: the packet ends in udp.length"),
    ("short esp in udp", ipv4(udp(b"hello", 9, 4500), 17), "too short for ESP: 5 octets"),
    ("short esp", ipv4(b"123456", 50), "esp: the packet ends in esp.sequence"),
    ("inner version", ipv4(b"\x10", 4), "IP version 1"),
    ("no SA", sealed(INNER, spi=0x9999), "no SA in the key file for SPI 0x00009999"),
    ("changed", sealed(INNER)[:-1] + b"x", "esp.icv does not fit: another key"),
    ("no room", ipv4(sealed(INNER)[20:44], 50, source=LEFT4, destination=RIGHT4), "esp: no room for IV, whole blocks"),
    ("no blocks", ipv4(sealed(INNER)[20:-1], 50, source=LEFT4, destination=RIGHT4), "esp: no room for IV, whole bl"),
    ("inner broken", sealed(b"\x45\0", 4), "ip: the packet ends in ip.len"),
]


@pytest.mark.parametrize(("name", "packet", "problem"), PROBLEMS, ids=[name for name, *_ in PROBLEMS])
def test_problems(name: str, packet: bytes, problem: str) -> None:
    dissection = dissect(packet, keys=Keyring([static_sa()]))
    assert dissection.problem.startswith(problem)


def test_pad_length_longer_than_the_packet() -> None:
    keys = oracle.Keys.of("aes-gcm-16")
    body = oracle.seal_plaintext(keys, 0x1000, 1, False, bytes(8), b"ab\xff\x04")
    dissection = dissect(ipv4(body, 50, source=LEFT4, destination=RIGHT4), keys=Keyring([static_sa()]))
    assert dissection.problem.startswith("esp.pad_len is 255, and 2 octets stand before it")


def test_padding_that_is_not_monotonic() -> None:
    keys = oracle.Keys.of("aes-gcm-16")
    body = oracle.seal_plaintext(keys, 0x1000, 1, False, bytes(8), b"data1234" + b"\x01\x01\x02\xfd")
    dissection = dissect(ipv4(body, 50, source=LEFT4, destination=RIGHT4), keys=Keyring([static_sa()]))
    assert notes(dissection)["esp.pad"] == "not 1, 2, 3, ..."


def test_ethertype_against_version() -> None:
    dissection = dissect(MAC + b"\x08\x00" + ipv6(), LinkType.ETHERNET)
    assert dissection.problem == "the Ethertype says IPv4, the octet behind it 6"


@pytest.mark.parametrize(
    ("packet", "name"),
    [
        (ipv4(udp(ends=(A4, B4)), 17), "udp.checksum"),
        (ipv6(tcp(ends=(A6, B6)), 6), "tcp.checksum"),
        (ipv4(icmp(8, 0), 1), "icmp.checksum"),
        (ipv6(icmp(128, 0, ends=(A6, B6)), 58), "icmpv6.checksum"),
    ],
)
def test_checksums(packet: bytes, name: str) -> None:
    assert notes(dissect(packet))[name] == "right"
    wrong = packet[:-1] + bytes([packet[-1] ^ 1])
    assert notes(dissect(wrong))[name].startswith("wrong, 0x")
    assert dissect(wrong).problem == ""
    none = patched(ipv4(udp(), 17), 26, b"\0\0")
    assert notes(dissect(none))["udp.checksum"] == "none"


def test_ip_checksum() -> None:
    packet = ipv4()
    assert notes(dissect(packet))["ip.checksum"] == "right"
    wrong = packet[:8] + b"\x01" + packet[9:]
    assert notes(dissect(wrong))["ip.checksum"].startswith("wrong, 0x")


def test_nesting_ends() -> None:
    packet = ipv4()
    for _ in range(40):
        packet = ipv4(packet, 4)
    dissection = dissect(packet)
    assert dissection.problem == "packets nested too deeply"
    assert len(dissection.layers) < 20


def test_json() -> None:
    found = dissect(INNER).as_json()
    assert (found["octets"], found["problem"]) == (len(INNER), None)
    version = found["layers"][0]["fields"][0]
    assert version == {
        "name": "ip.version",
        "value": 4,
        "text": "4",
        "octet": 0,
        "bit": 0,
        "bits": 4,
        "source": "RFC 791 §3.1",
        "meaning": "IP version",
        "note": "",
    }


KEYS = [static_sa(), static_sa("aes-cbc+hmac-sha2-256-128", spi=0x2000)]


@given(st.binary(max_size=120), st.sampled_from(sorted(LinkType)))
def test_any_octets(octets: bytes, link: int) -> None:
    check(dissect(octets, link, Keyring(KEYS)))


@given(st.sampled_from(STACKS), st.data())
def test_mutated_packets(stack: tuple[str, bytes, int, list[str]], data: st.DataObject) -> None:
    octets = bytearray(stack[1])
    for place in data.draw(st.lists(st.integers(0, len(octets) - 1), max_size=4)):
        octets[place] = data.draw(st.integers(0, 255))
    check(dissect(bytes(octets), stack[2], Keyring(KEYS)))


@given(st.binary(max_size=80), st.integers(0, 255), st.sampled_from(KEYS))
def test_any_authentic_inside(payload: bytes, next_header: int, sa: StaticSA) -> None:
    check(dissect(sealed(payload, next_header, suite=sa.suite, spi=sa.spi or 0), keys=Keyring(KEYS)))


def check(dissection: Dissection) -> None:
    """Fields stand inside the packet, no two at the same place."""
    assert max(covered(dissection), default=0) <= 1
    for value in dissection.values():
        assert value.text
        assert value.bit + value.bits <= 8 * len(dissection.packet)
    dissection.as_json()
