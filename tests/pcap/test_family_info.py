"""What `info` counts of WESP, WESPv2 and EESP: names, SPIs, numbers where they can be seen, flows."""

from __future__ import annotations

import io
import json
import struct
from collections import Counter
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.cli.pcap import info as command
from wesper.pcap import esp_seen, open_capture
from wesper.pcap.info import Info, read_info
from wesper.vectors.ip_packets import ip_packet

from .crossing import captured
from .family import protected, sas_of, sent_by, vectors

HERE, THERE = ip_address("192.0.2.10"), ip_address("198.51.100.20")
PACKETS = [
    ip_packet(HERE, THERE, struct.pack(">HHHH", port, 443, 24, 0) + bytes(16), protocol=17)
    for port in (4000, 4001, 4002, 4000)
]
FLOWS = {
    "wesp": "",
    "wespv2": '[sa.wespv2]\nflow_identifier = "5-tuple"',
    "eesp": '[sa.eesp]\nsession = "5-tuple"',
}
NAMES = {"wesp": "WESP", "wespv2": "WESPv2", "eesp": "EESP"}


def info_of(packets: list[bytes]) -> Info:
    info = Info()
    with open_capture(io.BytesIO(captured(packets))) as capture:
        read_info(capture, info)
    return info


@pytest.mark.parametrize("around", ["none", "udp"])
@pytest.mark.parametrize("protocol", FLOWS)
def test_a_row_for_each_spi(protocol: str, around: str) -> None:
    sent = sent_by(sas_of(protocol, FLOWS[protocol], around), PACKETS)
    info = info_of(sent)
    in_udp = around == "udp"
    assert info.protocols == Counter({f"IPv4 {NAMES[protocol]}{' in UDP' if in_udp else ''}": 4})
    (row,) = info.as_json()["sas"]
    assert (row["spi"], row["src"], row["dst"]) == ("0x00003000", "203.0.113.1", "203.0.113.2")
    assert (row["protocol"], row["udp"], row["packets"]) == (protocol, in_udp, 4)
    around_octets = 20 + (8 + (4 if protocol != "eesp" else 0) if in_udp else 0)
    assert row["octets"] == sum(len(packet) - around_octets for packet in sent)
    assert (row["flows"], row["more_flows"]) == (None if protocol == "wesp" else 3, False)
    if protocol == "eesp":
        assert {row[key] for key in ("first_sequence", "last_sequence", "missing", "duplicates")} == {None}
    else:
        assert (row["first_sequence"], row["last_sequence"], row["missing"]) == (1, 4, 0)


def test_all_vectors_have_the_name_of_their_protocol() -> None:
    for name in ("wespv2", "eesp"):
        good = [vector for vector in vectors(name) if vector["expect"] == "ok"]
        info = info_of([protected(vector) for vector in good])
        udp = sum("udp" in vector["params"] for vector in good)
        counts = Counter[str]()
        for protocol, count in info.protocols.items():
            counts[protocol.removeprefix("IPv4 ").removeprefix("IPv6 ")] += count
        assert counts == {NAMES[name]: len(good) - udp, f"{NAMES[name]} in UDP": udp}
        assert sum(row["packets"] for row in info.as_json()["sas"]) == len(good)


def test_what_is_no_eesp_keeps_its_number() -> None:
    experiments = [bytes(40), b"\x81" + bytes(39), b"\x80\x03" + bytes(38), b"\x80\x04" + bytes(6) + b"\x05\xff\0\0"]
    info = info_of([ip_packet(HERE, THERE, octets, protocol=253) for octets in experiments])
    assert info.protocols == Counter({"IPv4 protocol 253": 4})
    unknown = info_of([ip_packet(HERE, THERE, b"\0\0\0\xc0" + bytes(36), protocol=141)])
    assert (unknown.protocols, unknown.as_json()["sas"]) == (Counter({"IPv4 WESP": 1}), [])


def test_flows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(esp_seen, "MAX_FLOWS", 2)
    sent = sent_by(sas_of("wespv2", FLOWS["wespv2"]), PACKETS)
    sent += sent_by(sas_of("eesp", FLOWS["eesp"]), PACKETS)
    rows = info_of(sent).as_json()["sas"]
    assert [(row["flows"], row["more_flows"]) for row in rows] == [(2, True), (None, True)]


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent = [packet for name, text in FLOWS.items() for packet in sent_by(sas_of(name, text), PACKETS)]
    path = tmp_path / "seen.pcapng"
    path.write_bytes(captured(sent))
    assert command(path) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in shown if line[:3] == ["0x00003000", "203.0.113.1", "203.0.113.2"]]
    assert [line[3:5] + line[6:] for line in rows] == [
        ["WESP", "4", "-", "1-4", "0", "0"],
        ["WESPv2", "4", "3", "1-4", "0", "0"],
        ["EESP", "4", "3", "-", "-", "-"],
    ]
    assert command(path, json=True) == 0
    assert [row["protocol"] for row in json.loads(capsys.readouterr().out)["sas"]] == list(FLOWS)


@given(st.binary(max_size=90), st.sampled_from([50, 141, 253, 17]))
def test_any_octets(octets: bytes, number: int) -> None:
    if number == 17:
        octets = bytes.fromhex("11941194") + (8 + len(octets)).to_bytes(2, "big") + bytes(2) + octets
    info_of([ip_packet(HERE, THERE, octets, protocol=number)]).as_json()
