"""Captures encrypted: which SA, link-layer headers, drops, numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from wesper.errors import ConfigError
from wesper.keying import Encapsulated, StaticSA
from wesper.pcap import LinkType, ip_offset
from wesper.sa import (
    AddressRange,
    CryptOffset,
    Direction,
    EESPFormat,
    Exposure,
    FlowKind,
    FlowPolicy,
    Inner,
    Mode,
    Selector,
    SubSAs,
    UDPEncapsulation,
    WESPv2Format,
)

from ..engine import oracle
from ..engine.packets import A4, A6, B4, B6, LEFT4, LEFT6, RIGHT4, RIGHT6, icmp, ipv4, ipv6, tcp, udp
from .crossing import SECOND, captured, decrypted, encrypted, other_end, static_sa

PACKET = ipv4(udp(ends=(A4, B4)), 17)
PACKET6 = ipv6(tcp(ends=(A6, B6)), 6)
MAC = bytes.fromhex("020000000002 020000000001")
OUTER6 = {"local": AddressRange.parse(str(LEFT6)), "remote": AddressRange.parse(str(RIGHT6))}


def headers(packets: list[bytes]) -> list[tuple[int, int]]:
    """IP version and protocol of packets."""
    return [(p[0] >> 4, p[9] if p[0] >> 4 == 4 else p[6]) for p in packets]


@pytest.mark.parametrize("suite", oracle.SUITES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"esn": True, "sequence": (3 << 32) - 1},
        {"encapsulation": UDPEncapsulation()},
        OUTER6,
        {**OUTER6, "encapsulation": UDPEncapsulation(4500, 5000)},
    ],
    ids=["plain", "esn", "udp", "v6", "v6-udp"],
)
def test_there_and_back(suite: str, settings: dict[str, Any], engine_name: str) -> None:
    sa = static_sa(suite, **settings)
    crossed = encrypted(captured([PACKET, PACKET6]), [sa], engine_name)
    protected = [r.data for r in crossed.records]
    outside = 6 if "local" in settings else 4
    assert headers(protected) == [(outside, 17 if "encapsulation" in settings else 50)] * 2
    first = sa.sequence + 1
    assert [(e.first, e.last) for e in crossed.tally.sas.values()] == [(first, first + 1)]
    for reader in (sa, other_end(sa)):
        back = decrypted(captured(protected), [reader], engine_name)
        assert back.inner == [PACKET, PACKET6]


FAMILY: dict[str, dict[str, Any]] = {
    "wesp": {"protocol": "wesp"},
    "wespv2": {
        "protocol": "wespv2",
        "format": WESPv2Format(CryptOffset(Exposure.L3), 60, flow_identifier=FlowPolicy(FlowKind.FIVE_TUPLE)),
    },
    "eesp": {"protocol": "eesp"},
    "eesp, another number, crypt offset": {
        "protocol": "eesp",
        "format": EESPFormat(crypt_offset=CryptOffset(Exposure.L3_L4), max_crypt_offset_octets=80, ip_protocol=254),
    },
    "eesp, Sub SAs": {
        "protocol": "eesp",
        "format": EESPFormat(session=FlowPolicy(FlowKind.FIVE_TUPLE), sub_sas=SubSAs(max_id=7)),
        "key": bytes(range(32)),
        "salt": b"",
    },
    "eesp, no numbers": {"protocol": "eesp", "format": EESPFormat(sequence_numbers=False), "window": 0},
}


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("around", [{}, {"encapsulation": UDPEncapsulation()}, OUTER6], ids=["", "udp", "v6"])
def test_relatives_there_and_back(kind: str, around: dict[str, Any], engine_name: str) -> None:
    sa = replace(static_sa("aes-gcm-16", **around), esn=True, **FAMILY[kind])
    protected = [r.data for r in encrypted(captured([PACKET, PACKET6]), [sa], engine_name).records]
    number = 17 if "encapsulation" in around else sa.ip_protocol
    assert headers(protected) == [(6 if around is OUTER6 else 4, number)] * 2
    for reader in (sa, other_end(sa), replace(sa, spi=None)):
        assert decrypted(captured(protected), [reader], engine_name).inner == [PACKET, PACKET6]


def test_time_and_comments_stay(engine_name: str) -> None:
    crossed = encrypted(captured([PACKET, PACKET]), [static_sa()], engine_name)
    assert [r.timestamp_ns for r in crossed.records] == [0, SECOND]
    assert all(r.original_octets == len(r.data) for r in crossed.records)
    assert (crossed.tally.packets, crossed.tally.done, crossed.tally.other) == (2, 2, 0)


def test_first_number(engine_name: str) -> None:
    crossed = encrypted(captured([PACKET]), [static_sa(sequence=7)], engine_name, sequence=100)
    assert crossed.records[0].data[24:28] == (100).to_bytes(4, "big")
    crossed = encrypted(captured([PACKET]), [static_sa(sequence=7)], engine_name)
    assert crossed.records[0].data[24:28] == (8).to_bytes(4, "big")
    with pytest.raises(ConfigError, match="sequence"):
        encrypted(captured([PACKET]), [static_sa()], engine_name, sequence=0)


def test_selectors_choose(engine_name: str) -> None:
    to_b = Selector(remote=(AddressRange.parse("10.2.0.0/16"),))
    sas = [
        static_sa(spi=0x1000, selectors=(Selector(protocol=6),)),
        static_sa(spi=0x2000, selectors=(to_b,)),
        static_sa(spi=0x3000),
    ]
    elsewhere = ipv4(udp(), 17, destination="10.9.0.1")
    crossed = encrypted(captured([PACKET6, PACKET, elsewhere]), sas, engine_name)
    assert [int.from_bytes(r.data[20:24], "big") for r in crossed.records] == [0x1000, 0x2000, 0x3000]


def test_what_no_sa_is_for_is_carried_through(engine_name: str) -> None:
    sas = [static_sa(selectors=(Selector(protocol=6),))]
    arp = MAC + b"\x08\x06" + bytes(28)
    frame, frame6 = MAC + b"\x08\x00" + PACKET, MAC + b"\x86\xdd" + PACKET6
    octets = captured([arp, frame, frame6], LinkType.ETHERNET)
    crossed = encrypted(octets, sas, engine_name)
    assert [r.data for r in crossed.records][:2] == [arp, frame]
    assert (crossed.tally.done, crossed.tally.other) == (1, 2)
    alone = encrypted(octets, sas, engine_name, protected_only=True)
    assert [r.data for r in alone.records] == [crossed.records[2].data]
    assert alone.records[0].link_type == LinkType.ETHERNET


def test_transport_mode_takes_its_hosts_packets(engine_name: str) -> None:
    there = ipv4(icmp(8, 0), 1, source=LEFT4, destination=RIGHT4)
    back = ipv4(icmp(0, 0), 1, source=RIGHT4, destination=LEFT4)
    crossed = encrypted(captured([there, back, PACKET]), [static_sa(mode=Mode.TRANSPORT)], engine_name)
    assert headers([r.data for r in crossed.records]) == [(4, 50), (4, 1), (4, 17)]
    again = decrypted(captured([crossed.records[0].data]), [static_sa(mode=Mode.TRANSPORT)], engine_name)
    assert again.inner == [there]


def test_beet_mode(engine_name: str) -> None:
    sa = static_sa(mode=Mode.BEET, inner=Inner(A4, B4))
    crossed = encrypted(captured([PACKET]), [sa], engine_name)
    assert crossed.records[0].data[12:20] == LEFT4.packed + RIGHT4.packed
    assert decrypted(captured([crossed.records[0].data]), [sa], engine_name).inner == [PACKET]


def test_nothing_is_written_in_the_clear(engine_name: str) -> None:
    """What an SA is for and can't take is dropped and counted."""
    fragment = ipv4(bytes(16), 17, source=LEFT4, destination=RIGHT4, mf=True)
    crossed = encrypted(captured([fragment]), [static_sa(mode=Mode.TRANSPORT)], engine_name)
    assert (crossed.records, crossed.tally.dropped) == ([], {"mode_error": 1})
    crossed = encrypted(captured([ipv4(bytes(65515))]), [static_sa()], engine_name)
    assert (crossed.records, crossed.tally.dropped) == ([], {"too_big": 1})
    crossed = encrypted(captured([PACKET], cut=1), [static_sa()], engine_name)
    assert (crossed.records, crossed.tally.dropped, crossed.tally.cut) == ([], {"bad_packet": 1}, 1)
    crossed = encrypted(captured([PACKET] * 2), [static_sa(sequence=(1 << 32) - 2)], engine_name)
    assert (len(crossed.records), crossed.tally.dropped) == (1, {"sequence_overflow": 1})


@pytest.mark.parametrize(
    ("sas", "message"),
    [
        ([other_end(static_sa())], "direction: no outbound SA"),
        ([static_sa(spi=None)], "spi: left open, and needed to encrypt"),
        ([static_sa(mode=None)], "mode: left open"),
        ([static_sa(encapsulation=Encapsulated.AS_SEEN)], "encapsulation: left open"),
        ([static_sa(local=None)], "local: left open"),
        ([static_sa(remote=AddressRange.parse("192.0.2.0/24"))], "remote: left open"),
        ([static_sa(), static_sa(spi=0x2000)], "selectors: a second outbound SA without selectors"),
    ],
)
def test_key_files_that_do_not_do(sas: list[StaticSA], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encrypted(captured([PACKET]), sas, "reference")


def test_inbound_sas_stand_aside(engine_name: str) -> None:
    both = [static_sa(spi=0x2000, direction=Direction.IN), static_sa()]
    crossed = encrypted(captured([PACKET]), both, engine_name)
    assert crossed.records[0].data[20:24] == (0x1000).to_bytes(4, "big")


LINKS = [
    (LinkType.ETHERNET, MAC + b"\x08\x00", MAC + b"\x86\xdd"),
    (LinkType.ETHERNET, MAC + bytes.fromhex("8100 0007 0800"), MAC + bytes.fromhex("8100 0007 86dd")),
    (LinkType.ETHERNET, MAC + b"\x00\x30" + bytes.fromhex("aaaa03 000000 0800"), MAC + b"\x86\xdd"),
    (LinkType.LINUX_SLL, bytes(14) + b"\x08\x00", bytes(14) + b"\x86\xdd"),
    (LinkType.LINUX_SLL2, b"\x08\x00" + bytes(18), b"\x86\xdd" + bytes(18)),
    (LinkType.NULL, b"\x02\0\0\0", b"\x1e\0\0\0"),
    (LinkType.NULL, b"\0\0\0\x02", b"\0\0\0\x1e"),
    (LinkType.LOOP, b"\0\0\0\x02", b"\0\0\0\x1e"),
]


@pytest.mark.parametrize(("link_type", "head", "new_head"), LINKS)
def test_link_layer_says_what_follows(link_type: int, head: bytes, new_head: bytes, engine_name: str) -> None:
    crossed = encrypted(captured([head + PACKET], link_type), [static_sa(**OUTER6)], engine_name)
    (record,) = crossed.records
    assert record.link_type == link_type
    assert record.data.startswith(new_head)
    assert ip_offset(link_type, record.data) == len(new_head)
    assert decrypted(captured([record.data], link_type), [static_sa(**OUTER6)], engine_name).inner == [PACKET]
    # The same IP version: the header stays, octet for octet, but for LLC's length, which ends at 1500
    (record,) = encrypted(captured([head + PACKET], link_type), [static_sa()], engine_name).records
    kept = MAC + b"\x08\x00" if head[12:14] == b"\x00\x30" else head
    assert record.data.startswith(kept + b"\x45")


def test_pppoe_and_mpls(engine_name: str) -> None:
    session = MAC + bytes.fromhex("8864 1100 0001") + (len(PACKET) + 2).to_bytes(2, "big") + b"\x00\x21"
    (record,) = encrypted(captured([session + PACKET], LinkType.ETHERNET), [static_sa(**OUTER6)], engine_name).records
    octets = len(record.data) - len(session)
    assert record.data[12:22] == session[12:18] + (octets + 2).to_bytes(2, "big") + b"\x00\x57"
    label = MAC + bytes.fromhex("8847 00010140")
    (record,) = encrypted(captured([label + PACKET], LinkType.ETHERNET), [static_sa(**OUTER6)], engine_name).records
    assert record.data[: len(label) + 1] == label + b"\x60"


@pytest.mark.parametrize("link_type", [LinkType.RAW, LinkType.RAW_12, LinkType.RAW_14, LinkType.IPV4])
def test_link_types_without_header_become_raw(link_type: int, engine_name: str) -> None:
    crossed = encrypted(captured([PACKET], link_type), [static_sa(**OUTER6)], engine_name)
    assert [r.link_type for r in crossed.records] == [LinkType.RAW]


def test_ethernet_padding_is_not_protected(engine_name: str) -> None:
    frame = MAC + b"\x08\x00" + PACKET + bytes(10)
    (record,) = encrypted(captured([frame], LinkType.ETHERNET), [static_sa()], engine_name).records
    assert decrypted(captured([record.data], LinkType.ETHERNET), [static_sa()], engine_name).inner == [PACKET]
    assert record.data[16:18] == (len(record.data) - 14).to_bytes(2, "big")
