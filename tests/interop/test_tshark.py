"""A second opinion from tshark: it decrypts what we write, and names the same values at plain headers."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from wesper.keying import save_keys
from wesper.keying.esp_sa import NEW_NAMES, write_esp_sa
from wesper.pcap import LinkType
from wesper.pcap.dissect import Keyring, dissect
from wesper.sa import AddressRange, Mode, UDPEncapsulation

from ..engine import oracle
from ..engine.packets import (
    A4,
    A6,
    B4,
    B6,
    LEFT4,
    LEFT6,
    RIGHT4,
    RIGHT6,
    extension,
    fragment_header,
    icmp,
    ipv4,
    ipv6,
    routing,
    tcp,
    udp,
)
from ..pcap.crossing import captured, encrypted, sealed, static_sa

pytestmark = pytest.mark.needs_tool("tshark", "tshark")

# What the esp_sa table of Wireshark 4.0 has names for; it knows no extended numbers.
SUITES = [
    (name, octets)
    for name, octets in oracle.ALL_SUITES
    if not name.startswith(("aes-ccm", "aes-gmac")) and name not in NEW_NAMES
]
V6 = {"local": AddressRange.parse(str(LEFT6)), "remote": AddressRange.parse(str(RIGHT6))}
SHAPES: dict[str, dict[str, Any]] = {
    "tunnel": {},
    "tunnel-v6": V6,
    "tunnel-udp": {"encapsulation": UDPEncapsulation()},
    "tunnel-v6-udp": {**V6, "encapsulation": UDPEncapsulation()},
    "transport": {"mode": Mode.TRANSPORT},
    "transport-v6": {"mode": Mode.TRANSPORT, **V6},
    "transport-udp": {"mode": Mode.TRANSPORT, "encapsulation": UDPEncapsulation()},
}


def tshark(path: Path, home: Path, *fields: str, esp: bool = False) -> list[dict[str, list[str]]]:
    """Values of fields, each in all its occurrences, packet by packet.   home: has the profile with the key file."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "occurrence=a", "-E", "aggregator=/s"]
    if esp:
        command += ["-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE"]
    command += ["-o", "ip.check_checksum:TRUE", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"]
    for field in fields:
        command += ["-e", field]
    env = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "WIRESHARK_CONFIG_DIR": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [
        {field: value.split(" ") if value else [] for field, value in zip(fields, row, strict=True)} for row in rows
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_tshark_decrypts(shape: str, tmp_path: Path, engine_name: str) -> None:
    """Every suite that it knows, each with an SPI of its own, in one capture with one key file."""
    settings = SHAPES[shape]
    transport, v6 = settings.get("mode") is Mode.TRANSPORT, "local" in settings
    source, destination = ((LEFT6, RIGHT6) if v6 else (LEFT4, RIGHT4)) if transport else (A4, B4)
    six = source.version == 6
    kind, name, inner = (128, "icmpv6", "ipv6") if six else (8, "icmp", "ip")
    body = icmp(kind, 0, b"\0\x07\0\x09the quick brown fox", ends=(source, destination) if six else None)
    packet = (ipv6 if six else ipv4)(body, 58 if six else 1, source=source, destination=destination)
    plain = body if transport else packet

    sas, protected = [], []
    for number, (suite, octets) in enumerate(SUITES):
        key = oracle.Keys.of(suite, octets).key
        sas.append(replace(static_sa(suite, spi=0x1000 + number, **settings), key=key, path=None))
        crossed = encrypted(captured([packet]), sas[-1:], engine_name)
        protected.append(crossed.records[0].data)
    path = tmp_path / "esp.pcapng"
    path.write_bytes(captured(protected))
    assert save_keys(sas, tmp_path / "esp_sa") == []
    outer = "ipv6" if v6 else "ip"
    fields = ("esp.icv_good", "esp.protocol", "esp.pad_len", "esp.decrypted_data", "esp.icv", "esp.iv", "udp.dstport")
    rows = tshark(path, tmp_path, *fields, f"{name}.type", f"{inner}.src", f"{outer}.dst", esp=True)
    for sa, octets, row in zip(sas, protected, rows, strict=True):
        assert row["esp.icv_good"] == ["1"], sa
        assert row["esp.decrypted_data"][0].startswith(plain.hex()), sa
        assert row[f"{name}.type"] == [str(kind)], sa
        assert row[f"{inner}.src"][-1] == str(source), sa
        assert row[f"{outer}.dst"][0] == str(RIGHT6 if v6 else RIGHT4), sa
        assert row["udp.dstport"] == (["4500"] if "udp" in shape else []), sa
        found = {value.name: value.value for value in dissect(octets, keys=Keyring([sa])).values()}
        assert int(row["esp.protocol"][0], 0) == found["esp.protocol"], sa
        assert int(row["esp.pad_len"][0]) == found["esp.pad_len"], sa
        assert row["esp.icv"] == [found["esp.icv"].hex()], sa
        assert row["esp.iv"] == ([found["esp.iv"].hex()] if "esp.iv" in found else []), sa


@pytest.mark.parametrize("suite", ["aes-gcm-16", "aes-cbc+hmac-sha2-256-128", "null+hmac-sha2-256-128"])
@pytest.mark.parametrize("shape", ["tunnel", "tunnel-v6", "tunnel-udp"])
def test_esp_inside_wesp_is_what_tshark_opens(shape: str, suite: str, tmp_path: Path) -> None:
    """tshark knows no WESP; without that header it is an ESP packet, since no ICV covers the header."""
    sa = replace(static_sa(suite, protocol="wesp", **SHAPES[shape]), path=None)
    inner = ipv4(udp(ends=(A4, B4)), 17)
    (packet,) = (record.data for record in encrypted(captured([inner]), [sa], "reference").records)
    found = dissect(packet, keys=Keyring([sa]))
    head = found.layer("wesp")
    assert head is not None
    bare = packet[head.at + head.octets :]
    esp = ipv6(bare, 50, source=LEFT6, destination=RIGHT6) if shape == "tunnel-v6" else None
    esp = esp or ipv4(bare, 50, source=LEFT4, destination=RIGHT4)
    path = tmp_path / "esp.pcapng"
    path.write_bytes(captured([esp]))
    save_keys([replace(sa, protocol="esp")], tmp_path / "esp_sa")
    ours = {value.name: value.value for value in found.values()}
    names = ("esp.icv_good", "esp.decrypted_data", "esp.icv", "esp.pad_len", "esp.protocol", "udp.dstport")
    (row,) = tshark(path, tmp_path, *names, esp=True)
    assert row["esp.icv_good"] == ["1"]
    assert row["esp.decrypted_data"][0].startswith(inner.hex())
    assert row["esp.icv"] == [ours["esp.icv"].hex()]
    assert (int(row["esp.pad_len"][0]), int(row["esp.protocol"][0], 0)) == (ours["esp.pad_len"], ours["esp.protocol"])
    shown = [layer for layer in found.layers if layer.decrypted and layer.name == "udp"]
    assert row["udp.dstport"] == [str(layer.value("destination_port")) for layer in shown]
    assert len(shown) == 1


def test_extended_numbers_are_more_than_wireshark_4_0_knows(tmp_path: Path) -> None:
    """It ignores the two fields that newer ones have, decrypts, and finds the ICV wrong; the file says so."""
    sa = static_sa(esn=True, sequence=5 << 32)
    crossed = encrypted(captured([ipv4()]), [sa], "reference")
    path = tmp_path / "esp.pcapng"
    path.write_bytes(captured([r.data for r in crossed.records]))
    text, _ = write_esp_sa([sa])
    assert "Wireshark 4.0 and older ignore the 64-bit number" in text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == 1
    eight = ",".join(lines[0].split(",")[:8])
    assert lines[0].removeprefix(eight) == ',"64-bit","5"'
    (tmp_path / "esp_sa").write_text(eight + "\n")
    (row,) = tshark(path, tmp_path, "esp.icv_good", "esp.decrypted_data", esp=True)
    if "TShark (Wireshark) 4.0." in subprocess.run(["tshark", "--version"], capture_output=True, text=True).stdout:
        assert row["esp.icv_good"] == ["0"]
    assert row["esp.decrypted_data"][0].startswith(ipv4().hex())


@pytest.mark.parametrize(
    ("wild", "opens"),
    [
        ({"spi": None}, True),
        ({"local": None, "remote": None}, True),
        ({"local": AddressRange.parse("10.0.0.1")}, False),
    ],
    ids=["spi", "addresses", "other"],
)
def test_wildcards_mean_the_same(wild: dict[str, Any], opens: bool, tmp_path: Path) -> None:
    path = tmp_path / "esp.pcapng"
    packet = sealed(ipv4(icmp(8, 0), 1))
    path.write_bytes(captured([packet]))
    sa = static_sa(**wild)
    save_keys([sa], tmp_path / "esp_sa")
    (row,) = tshark(path, tmp_path, "icmp.type", esp=True)
    assert row["icmp.type"] == (["8"] if opens else [])
    assert (dissect(packet, keys=Keyring([sa])).layer("icmp") is not None) is opens


MAC = bytes.fromhex("020000000002 020000000001")
PLAIN: list[tuple[str, bytes, int]] = [
    ("udp", ipv4(udp(ends=(A4, B4)), 17, tos=0xB9, df=True, ttl=3), LinkType.RAW),
    ("icmp", ipv4(icmp(8, 0), 1, options=b"\x94\x04\0\0"), LinkType.RAW),
    ("tcp", ipv4(tcp(ends=(A4, B4)), 6), LinkType.RAW),
    ("fragment", ipv4(bytes(16), 17, mf=True, offset=800), LinkType.RAW),
    ("v6", ipv6(tcp(ends=(A6, B6)), 6, traffic_class=0xB9, flow_label=0xABCDE), LinkType.RAW),
    ("extensions", ipv6(extension(43) + routing(60) + extension(17) + udp(ends=(A6, B6)), 0), LinkType.RAW),
    ("v6 fragment", ipv6(fragment_header(17, 80, True) + bytes(16), 44), LinkType.RAW),
    ("icmpv6", ipv6(icmp(128, 0, ends=(A6, B6)), 58), LinkType.RAW),
    ("ethernet", MAC + b"\x08\x00" + ipv4(udp(ends=(A4, B4)), 17), LinkType.ETHERNET),
    ("vlan", MAC + bytes.fromhex("8100 b007 86dd") + ipv6(udp(ends=(A6, B6)), 17), LinkType.ETHERNET),
    ("esp", sealed(ipv4()), LinkType.RAW),
    ("esp in udp", ipv4(udp(sealed(ipv4())[20:], 4500, 4500), 17), LinkType.RAW),
]

OTHER_UNITS = {"ip.hdr_len": 4, "tcp.hdr_len": 4}
"""Wireshark shows octets where the wire has words; ours is what the wire has."""

OURS_ALONE = {
    "data",
    "esp.iv",  # without keys nobody knows its length
    "icmp.rest",
    "icmpv6.rest",
    "ip.options",
    "ipv6.dstopts.data",
    "ipv6.hopopts.data",
    "ipv6.routing.data",
    "tcp.flags.res",  # Wireshark: 3 bits, RFC 9293 4; it takes AccECN's bit for a flag
}


@pytest.mark.parametrize(("name", "packet", "link"), PLAIN, ids=[name for name, *_ in PLAIN])
def test_same_values_as_tshark(name: str, packet: bytes, link: int, tmp_path: Path) -> None:
    path = tmp_path / "plain.pcapng"
    path.write_bytes(captured([packet], link))
    ours: dict[str, list[Any]] = {}
    for value in dissect(packet, link).values():
        if value.name not in OURS_ALONE:
            ours.setdefault(value.name, []).append(value)
    (theirs,) = tshark(path, tmp_path, *ours)
    for field, values in ours.items():
        assert len(theirs[field]) == len(values), field
        for text, value in zip(theirs[field], values, strict=True):
            if value.field.form == "address":
                assert ip_address(text) == ip_address(value.value), field
            elif isinstance(value.value, bytes):
                assert text.replace(":", "") == value.value.hex(), field
            else:
                number = {"True": 1, "False": 0}.get(text)
                number = int(text, 0) if number is None else number
                assert number == value.value * OTHER_UNITS.get(field, 1), field


def test_fields_of_the_declarations_are_wireshark_s() -> None:
    """Every name that we show and Wireshark could know, it does."""
    known = subprocess.run(["tshark", "-G", "fields"], capture_output=True, text=True, check=True).stdout
    names = {line.split("\t")[2] for line in known.splitlines() if line.startswith("F\t")}
    shown = {value.name for _, packet, link in PLAIN for value in dissect(packet, link).values()}
    inside = dissect(sealed(ipv4()), keys=Keyring([static_sa()]))
    shown |= {value.name for value in inside.values()}
    assert shown - names <= OURS_ALONE
