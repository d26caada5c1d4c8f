"""Captures decrypted: what the key file leaves open, drops by name, fragments, both file formats."""

from __future__ import annotations

import io
from ipaddress import ip_address
from struct import pack

import pytest

from wesper.keying import Encapsulated, StaticSA
from wesper.pcap import Block, Interface, LinkType, PcapngWriter, create_capture
from wesper.pcap import opener as opener_module
from wesper.pcap.batch import PACKETS
from wesper.pcap.opener import Opener
from wesper.sa import AddressRange, Inner, Mode, UDPEncapsulation

from ..engine import oracle
from ..engine.packets import A4, A6, B4, B6, LEFT4, LEFT6, RIGHT4, RIGHT6, icmp, ipv4, ipv6, patched, udp
from .crossing import SECOND, SPI, captured, decrypted, open_sa, other_end, sealed, static_sa

INNER = ipv4(icmp(8, 0), 1)
INNER6 = ipv6(udp(ends=(A6, B6)), 17)


def in_udp(packet: bytes, sport: int = 4500, dport: int = 4500) -> bytes:
    return ipv4(udp(packet[20:], sport, dport), 17, source=LEFT4, destination=RIGHT4)


def in_pieces(packet: bytes, size: int) -> list[bytes]:
    """An IPv4 packet in fragments with `size` octets of payload."""
    body = packet[20:]
    assert size % 8 == 0
    return [
        ipv4(
            body[at : at + size],
            packet[9],
            source=ip_address(packet[12:16]),
            destination=ip_address(packet[16:20]),
            mf=at + size < len(body),
            offset=at,
        )
        for at in range(0, len(body), size)
    ]


@pytest.mark.parametrize("make", [static_sa, open_sa], ids=["told", "open"])
@pytest.mark.parametrize("suite", oracle.SUITES)
def test_every_suite(suite: str, make: type[StaticSA], engine_name: str) -> None:
    packets = [sealed(INNER, sequence=1, suite=suite), sealed(INNER6, 41, 2, suite=suite)]
    crossed = decrypted(captured(packets), [make(suite)], engine_name)
    assert crossed.inner == [INNER, INNER6]
    assert [r.data for r in crossed.records] == [packets[0], INNER, packets[1], INNER6]


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_key_file_of_either_side(side: str, engine_name: str) -> None:
    sa = static_sa() if side == "sender" else other_end(static_sa())
    assert decrypted(captured([sealed(INNER)]), [sa], engine_name).inner == [INNER]


def test_place_time_and_comment(engine_name: str) -> None:
    packets = [ipv4(udp(), 17), sealed(INNER, sequence=7), ipv4(udp(), 17)]
    crossed = decrypted(captured(packets), [static_sa(name="office")], engine_name)
    first, second, inner, last = crossed.records
    assert (first.data, second.data, last.data) == tuple(packets)
    assert (inner.data, inner.timestamp_ns, inner.link_type) == (INNER, SECOND, LinkType.RAW)
    assert inner.comments == ("wesper: SPI 0x00001000 of office, sequence 7",)
    assert [each.name for each in crossed.capture.interfaces] == ["eth0", "wesper"]
    assert (crossed.tally.packets, crossed.tally.done, crossed.tally.other) == (3, 1, 2)
    (entry,) = crossed.tally.as_json("opened")["sas"]
    assert (entry["name"], entry["packets"], entry["octets"], entry["last_sequence"]) == ("office", 1, len(INNER), 7)


def test_inner_only(engine_name: str) -> None:
    crossed = decrypted(captured([ipv4(udp(), 17), sealed(INNER)]), [static_sa()], engine_name, inner_only=True)
    assert [r.data for r in crossed.records] == [INNER]


def test_pcap_takes_inner_packets_alone(engine_name: str) -> None:
    crossed = decrypted(captured([ipv4(udp(), 17), sealed(INNER)]), [static_sa()], engine_name, "pcap")
    assert [(r.link_type, r.data) for r in crossed.records] == [(LinkType.RAW, INNER)]


def test_transport_mode_is_noticed(engine_name: str) -> None:
    """A key file without mode: the first packets are no tunnel's, so none of the SA is."""
    body = icmp(8, 0)
    packets = [sealed(body, 1, number, suite="aes-gcm-16") for number in (1, 2, 3)]
    crossed = decrypted(captured(packets), [open_sa()], engine_name)
    expected = ipv4(body, 1, source=LEFT4, destination=RIGHT4)
    assert crossed.inner == [expected] * 3
    assert decrypted(captured(packets), [static_sa()], engine_name).tally.dropped == {"bad_inner": 3}
    told = static_sa(mode=Mode.TRANSPORT)
    assert decrypted(captured(packets), [told], engine_name).inner == [expected] * 3


def test_beet_mode(engine_name: str) -> None:
    body = icmp(8, 0)
    sa = static_sa(mode=Mode.BEET, inner=Inner(A4, B4))
    packet = sealed(body, 1, ttl=9)
    assert decrypted(captured([packet]), [sa], engine_name).inner == [ipv4(body, 1, source=A4, destination=B4, ttl=9)]


def test_udp_comes_and_goes(engine_name: str) -> None:
    packets = [in_udp(sealed(INNER, sequence=1)), sealed(INNER, sequence=2), in_udp(sealed(INNER, sequence=3))]
    assert decrypted(captured(packets), [open_sa()], engine_name).inner == [INNER] * 3
    crossed = decrypted(captured(packets), [static_sa()], engine_name)
    assert (crossed.inner, crossed.tally.dropped) == ([INNER], {"encap_mismatch": 2})
    crossed = decrypted(captured(packets), [static_sa(encapsulation=UDPEncapsulation())], engine_name)
    assert (crossed.inner, crossed.tally.dropped) == ([INNER] * 2, {"encap_mismatch": 1})


def test_port_behind_a_nat(engine_name: str) -> None:
    """To the peer behind a NAT only the source port is one that we know."""
    packet = in_udp(sealed(INNER), sport=4500, dport=31337)
    assert decrypted(captured([packet]), [open_sa()], engine_name).inner == [INNER]
    other = in_udp(sealed(INNER), sport=5000, dport=31337)
    crossed = decrypted(captured([other]), [open_sa()], engine_name)
    assert (crossed.inner, crossed.tally.other) == ([], 1)
    sa = static_sa(encapsulation=UDPEncapsulation(5000, 31337))
    assert decrypted(captured([other]), [sa], engine_name).inner == [INNER]


def test_keepalive_and_ike_are_other_packets(engine_name: str) -> None:
    packets = [ipv4(udp(data, 4500, 4500), 17) for data in (b"\xff", bytes(4) + b"IKE has at least so many octets")]
    tally = decrypted(captured(packets), [open_sa()], engine_name).tally
    assert (tally.other, tally.dropped) == (2, {})


def test_any_spi_and_any_address(engine_name: str) -> None:
    packets = [sealed(INNER, spi=spi) for spi in (0x1000, 0x2000, 0x3000)]
    sa = open_sa(spi=None, local=None, remote=None)
    crossed = decrypted(captured(packets), [sa], engine_name)
    assert crossed.inner == [INNER] * 3
    assert [entry.spi for entry in crossed.tally.sas.values()] == [0x1000, 0x2000, 0x3000]


def test_reserved_spi_matches_no_sa(engine_name: str) -> None:
    crossed = decrypted(captured([sealed(INNER, spi=255)]), [open_sa(spi=None)], engine_name)
    assert crossed.tally.dropped == {"no_sa": 1}


def test_spis_that_packets_show_are_bounded(engine_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opener_module, "MAX_FOUND", 8)
    opener = Opener([open_sa(spi=None)], engine_name)
    for spi in range(0x1000, 0x1000 + 100):
        (opened,) = opener.open([sealed(INNER, spi=spi)])
        assert opened.packet == INNER
    assert len(opener._installed) == len(opener._by_id) == len(opener._found) == 8


def test_one_spi_between_two_pairs(engine_name: str) -> None:
    """Each receiver chooses its SPIs: the same number may lead to two hosts."""
    there = {"source": RIGHT4, "destination": LEFT4}
    ends = {"local": AddressRange.parse(str(RIGHT4)), "remote": AddressRange.parse(str(LEFT4))}
    back = static_sa("chacha20-poly1305", **ends)
    packets = [sealed(INNER), sealed(INNER6, 41, suite="chacha20-poly1305", **there)]
    crossed = decrypted(captured(packets), [static_sa(), back], engine_name)
    assert crossed.inner == [INNER, INNER6]


def test_addresses_choose_the_sa(engine_name: str) -> None:
    crossed = decrypted(captured([sealed(INNER, source="192.0.2.99")]), [static_sa()], engine_name)
    assert crossed.tally.dropped == {"no_sa": 1}
    (network,) = [static_sa(local=AddressRange.parse("192.0.2.0/24"))]
    assert decrypted(captured([sealed(INNER, source="192.0.2.99")]), [network], engine_name).inner == [INNER]


def test_ipv6_outside(engine_name: str) -> None:
    keys = oracle.Keys.of("aes-gcm-16")
    body = oracle.seal(keys, SPI, 1, False, bytes(8), INNER, 4)
    packet = ipv6(body, 50, source=LEFT6, destination=RIGHT6)
    ends = {"local": AddressRange.parse(str(LEFT6)), "remote": AddressRange.parse(str(RIGHT6))}
    assert decrypted(captured([packet]), [static_sa(**ends)], engine_name).inner == [INNER]


def test_extended_numbers_are_followed(engine_name: str) -> None:
    numbers = [0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1]
    packets = [sealed(INNER, sequence=number, esn=True) for number in numbers]
    crossed = decrypted(captured(packets), [static_sa(esn=True)], engine_name)
    (entry,) = crossed.tally.sas.values()
    assert (entry.packets, entry.first, entry.last) == (4, numbers[0], numbers[-1])


@pytest.mark.parametrize("low", [1, 0x80000001, 0xFFFFFFFF])
def test_capture_that_starts_in_another_half(low: int, engine_name: str) -> None:
    packet = sealed(INNER, sequence=9 << 32 | low, esn=True)
    assert decrypted(captured([packet]), [static_sa(esn=True)], engine_name).tally.dropped == {"auth": 1}
    told = static_sa(esn=True, sequence=9 << 32)
    assert decrypted(captured([packet]), [told], engine_name).inner == [INNER]


def test_replay_is_asked_for(engine_name: str) -> None:
    packets = [sealed(INNER, sequence=number) for number in (5, 5, 6)]
    assert decrypted(captured(packets), [static_sa()], engine_name).inner == [INNER] * 3
    crossed = decrypted(captured(packets), [static_sa()], engine_name, anti_replay=True)
    assert (crossed.inner, crossed.tally.dropped) == ([INNER] * 2, {"replay": 1})


def test_drops_have_names(engine_name: str) -> None:
    good = sealed(INNER)
    packets = [
        patched(good, len(good) - 1, bytes([good[-1] ^ 1])),
        sealed(INNER, spi=0x9999),
        ipv4(good[20:40], 50, source=LEFT4, destination=RIGHT4),
        sealed(b"nothing", 59),
        sealed(b"no IP", 4),
    ]
    crossed = decrypted(captured(packets), [static_sa()], engine_name)
    assert crossed.tally.dropped == {"auth": 1, "no_sa": 1, "truncated": 1, "dummy": 1, "bad_inner": 1}
    assert [r.data for r in crossed.records] == packets
    assert set(crossed.tally.sentences) == set(crossed.tally.dropped)


def test_packets_cut_by_the_capture(engine_name: str) -> None:
    crossed = decrypted(captured([sealed(INNER), ipv4(udp(), 17)], cut=3), [static_sa()], engine_name)
    assert (crossed.tally.dropped, crossed.tally.cut, crossed.tally.other) == ({"bad_ip": 1}, 1, 1)


@pytest.mark.parametrize("form", ["raw", "udp"])
def test_fragments(form: str, engine_name: str) -> None:
    packet = sealed(ipv4(bytes(100)))
    if form == "udp":
        packet = in_udp(packet)
    pieces = in_pieces(packet, 48)
    assert len(pieces) > 2
    crossed = decrypted(captured([*reversed(pieces), pieces[0]]), [open_sa()], engine_name)
    assert crossed.inner == [ipv4(bytes(100))]
    # The inner packet follows the fragment that completed it; one fragment is left over
    assert [r.data for r in crossed.records].index(crossed.inner[0]) == len(pieces)
    assert (crossed.tally.reassembled, crossed.tally.incomplete) == (1, 1)


def test_more_than_a_batch(engine_name: str) -> None:
    count = 2 * PACKETS + 5
    packets = [sealed(INNER, sequence=number) for number in range(1, count + 1)]
    crossed = decrypted(captured(packets), [open_sa()], engine_name)
    assert crossed.tally.done == len(crossed.inner) == count
    assert [r.data for r in crossed.records[::2]] == packets


def test_blocks_and_interfaces_are_carried(engine_name: str) -> None:
    file = io.BytesIO()
    block = Block(0x00000BAD, pack("<I", 42) + b"data", "little")
    with create_capture(file, format="pcapng") as out:
        assert isinstance(out, PcapngWriter)
        first = out.add_interface(Interface(LinkType.RAW, name="a"))
        second = out.add_interface(Interface(LinkType.ETHERNET, name="b"))
        out.write(sealed(INNER), 1, interface=first)
        out.write_block(block)
        out.write(bytes(12) + b"\x08\x00" + sealed(INNER, sequence=2), 2, interface=second)
    crossed = decrypted(file.getvalue(), [static_sa()], engine_name)
    names = [crossed.capture.interfaces[r.interface].name for r in crossed.records]
    assert names == ["a", "wesper", "b", "wesper"]
    assert crossed.blocks == [block]


def test_encapsulation_never_stays_never(engine_name: str) -> None:
    sa = static_sa(encapsulation=Encapsulated.NEVER)
    assert decrypted(captured([in_udp(sealed(INNER))]), [sa], engine_name).tally.dropped == {"encap_mismatch": 1}
