"""One packet in every protocol: sizes against the documents, every octet accounted for, and what a network sees."""

from __future__ import annotations

import json
import struct
from ipaddress import ip_address
from pathlib import Path

import pytest

from wesper.cli import main
from wesper.compare import FLOWS, Comparison, Kind, compare, page
from wesper.errors import ConfigError
from wesper.vectors.ip_packets import ip_packet

PORTS = struct.pack(">HHHH", 40000, 443, 40, 0)
V4 = ip_packet(ip_address("192.0.2.10"), ip_address("198.51.100.20"), PORTS + bytes(32), protocol=17)
V6 = ip_packet(ip_address("2001:db8:1::10"), ip_address("2001:db8:2::20"), PORTS + bytes(32), protocol=17)


@pytest.fixture(scope="module")
def by_family() -> dict[str, Comparison]:
    return {"v4": compare(V4), "v6": compare(V6, 6)}


# Without the outer IP header. The inner length is a multiple of 4, so ESP's trailer takes four octets and EESP's none.
# RFC 4303 §2, eesp.md of the draft's authors: tunnels with and without implicit IV; PSP's packet formats.
SIZES = {
    "ESP tunnel": 8 + 8 + 4 + 16,
    "ESP tunnel, implicit IV": 8 + 4 + 16,
    "ESP tunnel in UDP": 8 + 8 + 8 + 4 + 16,
    "WESP tunnel": 4 + 8 + 8 + 4 + 16,
    "WESPv2 tunnel": 4 + 8 + 8 + 4 + 16,
    "WESPv2 tunnel, headers readable": 4 + 8 + 8 + 4 + 16,
    "WESPv2 tunnel, flow identifier": 4 + 12 + 8 + 8 + 4 + 16,
    "EESP tunnel": 8 + 8 + 8 + 16,
    "EESP tunnel, implicit IV": 8 + 8 + 16,
    "EESP tunnel, headers readable": 8 + 4 + 8 + 8 + 4 + 16,
    "PSP tunnel": 8 + 16 + 16,
    "PSP tunnel, cookie": 8 + 24 + 16,
}


@pytest.mark.parametrize("title", SIZES)
def test_sizes_are_those_of_the_documents(by_family: dict[str, Comparison], title: str) -> None:
    row = next(row for row in by_family["v4"].rows if row.case.title == title)
    assert row.overhead == 20 + SIZES[title]


def test_alignment_over_ipv6_costs_what_the_drafts_say(by_family: dict[str, Comparison]) -> None:
    rows = {row.case.title: row.overhead - 40 for row in by_family["v6"].rows}
    # HdrLen is a multiple of 8: four octets of padding in front of ESP.
    assert rows["WESPv2 tunnel"] == SIZES["WESPv2 tunnel"] + 4
    assert rows["WESP tunnel"] == SIZES["WESP tunnel"] + 4
    assert rows["EESP tunnel"] == SIZES["EESP tunnel"]


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_every_octet_is_in_one_span(by_family: dict[str, Comparison], family: str) -> None:
    for row in by_family[family].rows:
        at = 0
        for span in row.spans:
            assert span.at == at
            assert span.octets > 0
            at += span.octets
        assert at == len(row.packet)
        assert sum(row.octets(kind) for kind in Kind) == len(row.packet)


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_what_is_called_readable_is_the_packet_itself(by_family: dict[str, Comparison], family: str) -> None:
    packet = {"v4": V4, "v6": V6}[family]
    for row in by_family[family].rows:
        for span in row.spans:
            if span.kind is Kind.CLEAR:
                clear = span.clear[4:] if row.case.protocol == "eesp" else span.clear
                inside = packet if row.case.mode.value == "tunnel" else packet[-40:]
                # Behind a packet that is readable in full stands ESP's trailer.
                assert inside.startswith(clear[: len(inside)])
            if span.kind is Kind.ENCRYPTED:
                assert PORTS not in row.packet[span.at : span.at + span.octets]


def test_flows_are_told_apart_where_something_names_them(by_family: dict[str, Comparison]) -> None:
    rows = {row.case.title: row for row in by_family["v4"].rows}
    for title in ("ESP tunnel", "WESP tunnel", "WESPv2 tunnel", "EESP tunnel", "ESP transport"):
        assert rows[title].seen == ()
    assert dict(rows["WESPv2 tunnel, flow identifier"].seen) == {"wespv2.options": FLOWS}
    # Hashes of 16 bits and less meet now and then.
    assert dict(rows["EESP tunnel, session per flow"].seen)["eesp.session_id"] >= FLOWS - 8
    assert dict(rows["PSP tunnel"].seen)["udp.srcport"] >= FLOWS - 16
    assert dict(rows["PSP transport, ports readable"].seen)["ports"] == FLOWS
    assert rows["WESPv2 tunnel, headers readable"].readable == ("addresses", "ports")


def test_a_packet_without_ports_has_one_flow() -> None:
    ping = ip_packet(ip_address("192.0.2.10"), ip_address("198.51.100.20"), bytes([8, 0, 0, 0]) + bytes(20), protocol=1)
    assert all(row.told_apart == 1 for row in compare(ping, only=["eesp", "psp"]).rows)


def test_only_what_is_asked_for() -> None:
    rows = compare(V4, only=["eesp", "psp", "transport"]).rows
    assert {(row.case.protocol, row.case.mode.value) for row in rows} == {("eesp", "transport"), ("psp", "transport")}
    with pytest.raises(ConfigError, match="'gre'"):
        compare(V4, only=["gre"])


@pytest.mark.parametrize("packet", [b"", b"\x45", bytes(40), V4[:30]])
def test_what_is_no_packet_is_told(packet: bytes) -> None:
    with pytest.raises(ConfigError, match="no IP packet"):
        compare(packet)


def test_page_has_every_case_and_needs_no_network(by_family: dict[str, Comparison]) -> None:
    made = page(by_family["v4"])
    for row in by_family["v4"].rows:
        assert f"<h2>{row.case.title}</h2>" in made
    assert "http://" not in made.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in made


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    with pytest.raises(SystemExit) as ended:
        main(["compare", V4.hex(), "--only", "eesp", "--only", "tunnel", "--diagram", "-o", str(path)])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "EESP tunnel, headers readable" in shown
    assert "session_id = 0" in shown
    assert path.read_text().startswith("<!doctype html>")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--only", "psp", "--json", "--inner", "6", "--outer", "6"])
    made = json.loads(capsys.readouterr().out)
    assert made["schema"] == 1
    assert {case["protocol"] for case in made["cases"]} == {"psp"}
    assert all(sum(span["octets"] for span in case["spans"]) * 2 == len(case["packet"]) for case in made["cases"])
