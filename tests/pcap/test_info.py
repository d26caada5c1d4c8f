"""What `info` counts: protocols, sizes, times, and each SPI's numbers."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.pcap import LinkType, open_capture
from wesper.pcap import info as info_module
from wesper.pcap.esp_seen import WINDOW, Seen
from wesper.pcap.info import Info, read_info

from ..engine.packets import A4, B4, icmp, ipv4, ipv6, udp
from .crossing import SECOND, captured, sealed

MAC = bytes(12)


def info_of(octets: bytes) -> Info:
    info = Info()

    def truncated(error: Exception) -> None:
        info.truncated = str(error)

    with open_capture(io.BytesIO(octets), on_truncated=truncated) as capture:
        read_info(capture, info)
    return info


def numbers(*sequence: int) -> dict[str, Any]:
    seen = Seen("a", "b", 1, False, sequence[0], sequence[0], sequence[0])
    for number in sequence:
        seen.count(number, 100)
    return seen.as_json()


def test_packets_times_and_sizes() -> None:
    packets = [ipv4(icmp(8, 0), 1), ipv4(bytes(100)), ipv6(icmp(128, 0), 58)]
    info = info_of(captured(packets, cut=4))
    found = info.as_json()
    sizes = [len(packet) for packet in packets]
    assert (found["packets"], found["octets"], found["original_octets"]) == (3, sum(sizes) - 12, sum(sizes))
    assert (found["smallest"], found["largest"], found["cut"]) == (min(sizes), max(sizes), 3)
    assert (found["first_ns"], found["last_ns"]) == (0, 2 * SECOND)
    assert found["interfaces"] == [{"name": "eth0", "link_type": "RAW", "snap_octets": 0, "packets": 3}]
    assert found["protocols"] == {"IPv4 ICMP": 1, "IPv4 protocol 253": 1, "IPv6 ICMPv6": 1}
    assert (found["format"], found["section"], found["truncated"]) == ("pcapng", {"application": "wesper"}, None)


def test_protocols() -> None:
    esp = sealed(ipv4())[20:]
    kinds = {
        "not IP": MAC + b"\x08\x06" + bytes(28),
        "IP, malformed": MAC + b"\x08\x00\x45" + bytes(30),
        "IPv4 fragment": MAC + b"\x08\x00" + ipv4(bytes(8), offset=8),
        "IPv4 UDP": MAC + b"\x08\x00" + ipv4(udp(), 17),
        "IPv4 ESP": MAC + b"\x08\x00" + ipv4(esp, 50),
        "IPv4 ESP in UDP": MAC + b"\x08\x00" + ipv4(udp(esp, 4500, 1), 17),
        "IPv4 UDP ": MAC + b"\x08\x00" + ipv4(udp(b"hello", 4500, 1), 17),
        "IPv4 NAT keepalive": MAC + b"\x08\x00" + ipv4(udp(b"\xff", 4500, 4500), 17),
        "IPv4 IKE in UDP": MAC + b"\x08\x00" + ipv4(udp(bytes(4) + b"IKE_SA_INIT", 1, 4500), 17),
    }
    info = info_of(captured(kinds.values(), LinkType.ETHERNET))
    assert info.protocols == Counter(map(str.strip, kinds))
    assert [(seen.udp, seen.packets) for seen in info.sas.rows.values()] == [(False, 1), (True, 1)]


def test_spi_of_a_packet_that_the_capture_cut() -> None:
    info = info_of(captured([sealed(ipv4())], cut=30))
    (seen,) = info.sas.rows.values()
    assert (seen.spi, seen.packets, seen.source, seen.destination) == (0x1000, 1, "192.0.2.1", "198.51.100.2")


def test_each_direction_is_an_entry_of_its_own() -> None:
    packets = [sealed(ipv4()), sealed(ipv4(), source=A4), sealed(ipv4(), destination=B4), sealed(ipv4(), spi=0x2000)]
    assert len(info_of(captured(packets * 2)).sas.rows) == 4


def test_gaps_and_duplicates() -> None:
    found = numbers(1, 2, 5, 5, 3, 6)
    assert (found["first_sequence"], found["last_sequence"]) == (1, 6)
    assert (found["missing"], found["duplicates"], found["late"], found["wraps"]) == (1, 1, 0, 0)
    assert numbers(7)["missing"] == 0
    # An earlier number first seen later widens the range
    assert (numbers(10, 8)["first_sequence"], numbers(10, 8)["missing"]) == (8, 1)


def test_wrap_of_the_32_bits() -> None:
    found = numbers(0xFFFFFFFE, 0xFFFFFFFF, 0, 1, 0xFFFFFFFF)
    assert (found["first_sequence"], found["last_sequence"], found["wraps"]) == (0xFFFFFFFE, 1, 1)
    assert (found["missing"], found["duplicates"]) == (0, 1)


def test_numbers_behind_the_window_are_late() -> None:
    found = numbers(1, 1 + WINDOW, 1, 2)
    assert (found["late"], found["duplicates"]) == (1, 0)


@given(st.lists(st.integers(1, WINDOW), min_size=1, max_size=200))
def test_counts_within_the_window(sequence: list[int]) -> None:
    found = numbers(*sequence)
    distinct = set(sequence)
    assert found["duplicates"] == len(sequence) - len(distinct)
    assert found["missing"] == max(distinct) - min(distinct) + 1 - len(distinct)
    assert found["late"] == 0


def test_table_of_spis_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info_module, "MAX_SAS", 5)
    info = info_of(captured([sealed(ipv4(), spi=0x1000 + number) for number in range(9)]))
    assert (len(info.sas.rows), info.unlisted) == (5, 4)


def test_truncated_and_empty() -> None:
    octets = captured([ipv4(), ipv4()])
    info = info_of(octets[:-7])
    assert info.packets == 1
    assert "the file ends" in info.truncated
    empty = info_of(captured([])).as_json()
    assert (empty["packets"], empty["first_ns"], empty["smallest"]) == (0, None, 0)
