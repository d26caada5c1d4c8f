"""Our Scapy layers: every vector's packet parsed, and built again from the values alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.needs_module("scapy")

VECTORS = Path(__file__).parents[2] / "vectors"
PSP_VECTORS = json.loads((VECTORS / "psp.json").read_text())


@pytest.mark.parametrize("vector", PSP_VECTORS["vectors"] + PSP_VECTORS["own_vectors"], ids=lambda v: v["name"])
def test_psp(vector: dict[str, Any]) -> None:
    from scapy.layers.l2 import Ether

    from wesper.scapy import PSP

    octets = bytes.fromhex(vector["encrypted_packet_hex"])
    seen = Ether(octets)[PSP]
    assert (seen.spi, seen.version, seen.cryptoffset) == (
        int(vector["spi"], 16),
        vector["version"],
        vector["crypt_offset"],
    )
    assert seen.iv == int(vector["iv_hex"], 16)
    assert seen.nexthdr == vector["next_header"]
    values = {f.name: seen.getfieldval(f.name) for f in seen.fields_desc}
    values.update(hdrextlen=None, is_virt=None)
    assert bytes(PSP(**values) / seen.payload) == octets[-len(bytes(seen)) :]


def test_lengths_are_worked_out() -> None:
    from wesper.scapy import PSP

    built = bytes(PSP(spi=7, vc=bytes(8), ext=bytes(16)))
    assert built[1] == 4
    assert built[3] & 2
    assert len(built) == 40


def test_a_length_that_no_header_can_say_is_refused() -> None:
    from wesper.scapy import PSP

    with pytest.raises(ValueError, match="no hdrextlen says 3 octets"):
        bytes(PSP(ext=bytes(3)))


def test_agrees_with_scapys_own() -> None:
    from scapy.contrib import psp as contrib

    from wesper.scapy import PSP

    for vector in PSP_VECTORS["vectors"]:
        octets = bytes.fromhex(vector["encrypted_packet_hex"])
        at = 14 + (20 if vector["ip_version"] == 4 else 40) + 8
        ours, theirs = PSP(octets[at:]), contrib.PSP(octets[at:])
        for name in ("nexthdr", "hdrextlen", "cryptoffset", "sample", "drop", "version", "spi"):
            assert ours.getfieldval(name) == theirs.getfieldval(name), name
        assert ours.iv.to_bytes(8, "big") == bytes(theirs.iv)


def family(name: str) -> list[dict[str, Any]]:
    return [v for v in json.loads((VECTORS / f"{name}.json").read_text())["vectors"] if v["direction"] == "both"]


def seen(octets: bytes) -> Any:
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    return IP(octets) if octets[0] >> 4 == 4 else IPv6(octets)


@pytest.mark.parametrize("vector", family("wespv2"), ids=lambda v: v["name"])
def test_wespv2(vector: dict[str, Any]) -> None:
    from scapy.layers.ipsec import ESP

    from wesper.scapy import WESPIdentifier, WESPv2

    octets = bytes.fromhex(vector["protected_packet_hex"])
    packet = seen(octets)
    header = packet[WESPv2]
    assert (WESPIdentifier in packet) == (vector["params"].get("udp") is not None)
    assert header.cryptoffset == vector["params"].get("crypt_offset", 0)
    assert header.options.hex() == vector["params"].get("options_hex", "")
    assert header[ESP].spi == int(vector["params"]["spi"], 16)
    values = {f.name: header.getfieldval(f.name) for f in header.fields_desc}
    assert bytes(WESPv2(**{**values, "optlen": None}) / header.payload) == octets[-len(bytes(header)) :]


@pytest.mark.parametrize("vector", family("eesp"), ids=lambda v: v["name"])
def test_eesp(vector: dict[str, Any]) -> None:
    from wesper.scapy import EESP

    octets = bytes.fromhex(vector["protected_packet_hex"])
    header = seen(octets)[EESP]
    params = vector["params"]
    assert (header.spi, header.session_id) == (int(params["spi"], 16), params.get("session_id", 0))
    assert header.options.hex() == params.get("options_hex", "")
    values = {f.name: header.getfieldval(f.name) for f in header.fields_desc}
    assert bytes(EESP(**{**values, "optlen": None}) / header.payload) == octets[-len(bytes(header)) :]


def test_built_by_hand() -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.ipsec import ESP

    from wesper.scapy import EESP, WESP, WESPIdentifier, WESPv2

    assert bytes(IP() / EESP(spi=0x3000))[9] == 253
    built = bytes(
        IP() / UDP() / WESPIdentifier() / WESPv2(nxt=59, hdrlen=24, options=bytes.fromhex("01020000")) / ESP()
    )
    assert built[20:24].hex() == "11941194"
    assert built[28:40].hex() == "000000023b18004401020000"
    again = IP(built)
    assert again[WESPv2].optlen == 4
    assert bytes(IP() / WESP(nxt=4, hdrlen=20, trailerlen=16) / ESP(spi=9))[20:28].hex() == "0414100000000009"
