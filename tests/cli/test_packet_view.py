"""Packets on a terminal: tables and bit diagrams."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from wesper.cli.packet_view import drawn, render
from wesper.pcap import LinkType
from wesper.pcap.dissect import Keyring, dissect

from ..engine.packets import A4, A6, B4, B6, ipv4, ipv6, tcp, udp
from ..pcap.crossing import sealed, static_sa

FRAME = bytes.fromhex("020000000002 020000000001 0800") + ipv4(udp(ends=(A4, B4)), 17)
PACKETS = [(FRAME, LinkType.ETHERNET), (ipv6(tcp(bytes(200), ends=(A6, B6)), 6), LinkType.RAW), (sealed(ipv4()), 101)]

ETHERNET = """\
 0                   1                   2                   3
 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
|                  eth.dst = 02:00:00:00:00:02                  |
+                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
|                               |  eth.src = 02:00:00:00:00:01  |
+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+                               +
|                                                               |
+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
|   eth.type = 0x0800 (IPv4)    |
+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+"""


def printed(octets: bytes, link: int, **options: bool | int) -> str:
    file = io.StringIO()
    dissection = dissect(octets, link, Keyring([static_sa()]))
    Console(file=file, width=120).print(render(dissection, **options))  # type: ignore[arg-type]
    return file.getvalue()


def test_fields_that_cross_rows() -> None:
    layer = dissect(FRAME, LinkType.ETHERNET).layers[0]
    assert "\n".join(line.rstrip() for line in drawn(layer)) == ETHERNET


def test_every_bit_has_its_place() -> None:
    """Rows of a header are 32 bits wide, and cells as wide as their fields."""
    for octets, link in PACKETS:
        for layer in dissect(octets, link, Keyring([static_sa()])).layers:
            fixed = [value for value in layer.values if value.bits <= 64 or value.field.form == "address"]
            bits = sum(value.bits for value in fixed)
            rows = [line for line in drawn(layer) if line.startswith("|") and "octets)" not in line]
            cells = [cell for row in rows[: -(-bits // 32)] for cell in row[1:-1].split("|")]
            assert sum((len(cell) + 1) // 2 for cell in cells) == bits


def test_long_fields_are_cut() -> None:
    octets, link = PACKETS[1]
    for diagram in (False, True):
        assert "136 more octets" in printed(octets, link, diagram=diagram)
        assert "more octets" not in printed(octets, link, diagram=diagram, data_octets=200)


def test_problem_comes_last() -> None:
    octets, link = PACKETS[0]
    for diagram in (False, True):
        assert (
            printed(octets[:30], link, diagram=diagram)
            .rstrip()
            .endswith("! ip: the packet ends in ip.dst (0 of 4 octets)")
        )


@given(st.binary(max_size=100), st.sampled_from(sorted(LinkType)), st.booleans())
def test_any_octets(octets: bytes, link: int, diagram: bool) -> None:
    lines = printed(octets, link, diagram=diagram, meanings=True).split("\n")
    assert all(len(line) <= 120 for line in lines)
