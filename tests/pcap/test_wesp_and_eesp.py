"""WESP, WESPv2 and EESP in captures: settings in key files, encrypted, decrypted, dissected."""

from __future__ import annotations

import itertools
import json
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.keying.toml_file import read_toml
from wesper.pcap.dissect import dissect
from wesper.pcap.opener import Opener
from wesper.vectors.ip_packets import ip_packet

from .crossing import captured, decrypted, encrypted
from .family import protected, sa_of, vectors

VECTORS = Path(__file__).parents[2] / "vectors"
HERE, THERE = ip_address("192.0.2.10"), ip_address("198.51.100.20")
PACKETS = [
    ip_packet(HERE, THERE, struct.pack(">HHHH", port, 443, 24, 0) + bytes(16), protocol=17)
    for port in (4000, 4001, 4002)
]
FORMATS = {
    "wesp": [""],
    "wespv2": [
        "",
        '[sa.wespv2]\ncrypt_offset = "l3+l4"\nmax_crypt_offset_octets = 252',
        '[sa.wespv2]\nflow_identifier = "5-tuple"\noptions = [{ type = 28, data = "0102" }]',
    ],
    "eesp": [
        "",
        '[sa.eesp]\ncrypt_offset = "l3"\nmax_crypt_offset_octets = 60\nsession = "5-tuple"',
        "window = 0\n[sa.eesp]\nsequence_numbers = false\nsession = 77",
        '[sa.eesp]\noptions = [{ type = 230, data = "00" }]',
    ],
}
CASES = [
    (protocol, text, around)
    for protocol, texts in FORMATS.items()
    for text, around in itertools.product(texts, ("none", "udp"))
]
ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]


def keys(protocol: str, text: str, around: str, key: str = "00" * 16, salt: str = "00010203") -> str:
    return f"""[[sa]]
spi = 0x3000
suite = "aes-gcm-16"
protocol = "{protocol}"
local = "203.0.113.1"
remote = "203.0.113.2"
encapsulation = "{around}"
key = "{key}"
salt = "{salt}"
{text}
"""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("protocol", "text", "around"), CASES)
def test_what_is_encrypted_is_decrypted(engine: str, protocol: str, text: str, around: str) -> None:
    sas = read_toml(keys(protocol, text, around), "keys.toml")
    sent = [record.data for record in encrypted(captured(PACKETS), sas, engine).records]
    assert len(sent) == len(PACKETS)
    for packet in sent:
        assert packet[9] == (17 if around == "udp" else 253 if protocol == "eesp" else 141)
    opened = decrypted(captured(sent), sas, engine)
    assert [record.data for record in opened.records if record.data not in sent] == PACKETS


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("protocol", "text", "said"),
    [
        ("wesp", "", "sequence {}"),
        ("wespv2", "", "sequence {}"),
        ("wespv2", "[sa.wespv2]\nflow_identifier = 258", "flow identifier 0x102, sequence {}"),
        ("eesp", "[sa.eesp]\nsession = 7", "Session ID 7, sequence {}"),
    ],
)
def test_comments_name_the_flow(engine: str, protocol: str, text: str, said: str) -> None:
    """Numbers of Sub SAs are told apart by it."""
    sas = read_toml(keys(protocol, text, "udp"), "keys.toml")
    sent = [record.data for record in encrypted(captured(PACKETS), sas, engine).records]
    opened = decrypted(captured(sent), sas, engine)
    comments = [dict(record.options)[1].decode() for record in opened.records if record.data in PACKETS]
    assert comments == [f"wesper: SPI 0x00003000, {said.format(number)}" for number in (1, 2, 3)]


@pytest.mark.parametrize("engine", ENGINES)
def test_flows_of_all_vectors(engine: str) -> None:
    for protocol in ("wespv2", "eesp"):
        for vector in vectors(protocol):
            if vector["expect"] != "ok" or vector["params"]["mode"] == "iptfs" or not vector["plaintext_packet_hex"]:
                continue
            (opened,) = Opener([sa_of(vector, protocol)], engine).open([protected(vector)])
            assert opened.packet.hex() == vector["plaintext_packet_hex"]
            first = (vector["params"]["options"] or [{}])[0]
            named = first.get("type") == 27
            flow = f"flow identifier {int(first['data_hex'], 16):#x}" if protocol == "wespv2" and named else ""
            assert opened.flow == (flow if protocol == "wespv2" else f"Session ID {vector['params']['session_id']}")


def family(name: str) -> list[dict[str, Any]]:
    return [v for v in json.loads((VECTORS / f"{name}.json").read_text())["vectors"] if v["direction"] == "both"]


@pytest.mark.parametrize("vector", family("wespv2") + family("eesp"), ids=lambda v: v["name"])
def test_dissect_shows_the_headers_without_a_key(vector: dict[str, Any]) -> None:
    params = vector["params"]
    found = dissect(bytes.fromhex(vector["protected_packet_hex"]))
    assert not found.problem
    values = {value.name: value.value for value in found.values()}
    if "sub_sa" in params:
        assert values["eesp.spi"] == int(params["spi"], 16)
        assert values["eesp.session_id"] == params.get("session_id", 0)
        options = values.get("eesp.options", b"")
    else:
        assert values["esp.spi"] == int(params["spi"], 16)
        assert values["wespv2.cryptoffset"] == params.get("crypt_offset", 0)
        options = values.get("wespv2.options", b"")
    assert isinstance(options, bytes)
    assert options.hex() == params.get("options_hex", "")
    assert sum(layer.octets for layer in found.layers if layer.name == "data") > 0


@given(st.binary(max_size=120), st.sampled_from([141, 253]), st.booleans())
def test_dissect_takes_any_octets(octets: bytes, number: int, in_udp: bool) -> None:
    if in_udp:
        octets = bytes.fromhex("11941194") + (8 + len(octets)).to_bytes(2, "big") + bytes(2) + octets
    dissect(ip_packet(HERE, THERE, octets, protocol=17 if in_udp else number))
