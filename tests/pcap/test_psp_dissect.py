"""PSP packets taken apart: what is in clear without a key, with a key all of it, and hostile octets."""

from __future__ import annotations

import json
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wesper.keying import PSPAssociation, PSPDevice, PSPKeys
from wesper.pcap import LinkType
from wesper.pcap.dissect import MAX_DEPTH, Keyring, dissect
from wesper.pcap.dissection import Dissection
from wesper.protocols.ip import checksum
from wesper.protocols.psp import Profile

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "psp.json").read_text())
PACKETS = [*VECTORS["vectors"], *VECTORS["own_vectors"]]
BY_NAME = {entry["name"]: entry for entry in PACKETS}
NAMES = [entry["name"] for entry in PACKETS]
LINK = 14


def packet(entry: dict[str, Any], word: str = "encrypted") -> bytes:
    return bytes.fromhex(entry[f"{word}_packet_hex"])


def keyring(entry: dict[str, Any], *, alone: bool = False) -> Keyring:
    """A key file's keys: the receiver's device keys, or one association."""
    if alone:
        key, spi = bytes.fromhex(entry["derived_key_hex"]), int(entry["spi"], 16)
        return Keyring([], PSPKeys([PSPAssociation(Profile(version=entry["version"]), spi, key, "alone")]))
    keys = bytes.fromhex(entry["master_key0_hex"]), bytes.fromhex(entry["master_key1_hex"])
    return Keyring([], PSPKeys((), [PSPDevice(keys, "receiver")]))


def field(dissection: Dissection, name: str) -> Any:
    return next((value.value for value in dissection.values() if value.name == name), None)


def opaque(dissection: Dissection) -> list[str]:
    return [layer.title for layer in dissection.layers if layer.name == "data"]


@pytest.mark.parametrize("entry", PACKETS, ids=NAMES)
def test_header_without_a_key(entry: dict[str, Any]) -> None:
    found = dissect(packet(entry), LinkType.ETHERNET)
    assert found.problem == ""
    wanted = {
        "psp.spi": int(entry["spi"], 16),
        "psp.iv": int(entry["iv_hex"], 16),
        "psp.version": entry["version"],
        "psp.nexthdr": entry["next_header"],
        "psp.cryptoffset": entry["crypt_offset"],
        "psp.reserved": entry.get("r_bits") or 0,
        "psp.sample": (entry.get("sd_bits") or 0) >> 1,
        "psp.drop": (entry.get("sd_bits") or 0) & 1,
        "psp.is_virt": int(bool(entry["vc"])),
        "psp.one_bit": 1,
    }
    assert {name: field(found, name) for name in wanted} == wanted
    in_clear = entry["version"] >= 2 or 4 * entry["crypt_offset"] >= 8
    assert field(found, "psp.vc") == (bytes.fromhex(entry["vc"]) if entry["vc"] and in_clear else None)
    assert field(found, "psp.icv") == packet(entry)[-16:]
    assert all(value.field.source for value in found.values()), "every field has its source"
    covered = sorted((value.bit, value.bits) for value in found.values())
    at = 0
    for bit, bits in covered:
        assert bit == at, "no octet is left out or shown twice"
        at += bits
    assert at == 8 * len(packet(entry))


@pytest.mark.parametrize("alone", [False, True], ids=["device", "association"])
@pytest.mark.parametrize("entry", PACKETS, ids=NAMES)
def test_with_a_key_all_of_it(entry: dict[str, Any], alone: bool) -> None:
    found = dissect(packet(entry), LinkType.ETHERNET, keyring(entry, alone=alone))
    assert found.problem == ""
    assert "Encrypted" not in opaque(found)
    assert field(found, "psp.vc") == (bytes.fromhex(entry["vc"]) if entry["vc"] else None)
    extension = entry.get("ext_hex")
    assert field(found, "psp.ext") == (bytes.fromhex(extension) if extension else None)
    notes = {value.name: value.note for value in found.values() if value.note}
    assert notes["psp.icv"] == "right"
    assert notes["psp.spi"] == ("alone" if alone else f"receiver, device key {int(entry['spi'], 16) >> 31}")
    # The inside says what the packet said before it was protected.
    clear = dissect(packet(entry, "cleartext"), LinkType.ETHERNET)
    first = 1 if entry["mode"] == "tunnel" else 2  # behind Ethernet, and the IP header that stays outside
    names = [(value.name, value.value) for layer in clear.layers[first:] for value in layer.values]
    inner = [(value.name, value.value) for layer in found.layers if layer.decrypted for value in layer.values]
    assert [pair for pair in inner if not pair[0].startswith("psp.")] == names


def test_what_crypt_offset_leaves_in_clear() -> None:
    ports = dissect(packet(BY_NAME["v4_transport_crypt_off_128"]), LinkType.ETHERNET)
    assert ports.problem == ""
    part = next(layer for layer in ports.layers if layer.title.endswith(", its part in clear"))
    assert part.name in ("tcp", "udp")
    assert part.value("destination_port") is not None
    assert not any(value.name.endswith("checksum") and value.note.startswith("wrong") for value in ports.values())
    tunnel = dissect(packet(BY_NAME["v4_tunnel_crypt_off_256"]), LinkType.ETHERNET)
    parts = [layer.name for layer in tunnel.layers if layer.title.endswith(", its part in clear")]
    assert parts[0] == "ip"
    split = dissect(packet(BY_NAME["e_v4_transport_vc_split_co1"]), LinkType.ETHERNET)
    assert opaque(split) == ["Extension in clear", "Encrypted"]


def test_another_key_and_none() -> None:
    entry = BY_NAME["e_v4_tunnel_co63"]
    wrong = Keyring([], PSPKeys((), [PSPDevice((bytes(32), bytes(32)), "other")]))
    found = dissect(packet(entry), LinkType.ETHERNET, wrong)
    assert found.problem == "psp.icv does not fit: another key, or changed octets"
    assert field(found, "psp.spi") == int(entry["spi"], 16)
    notes = {value.name: value.note for value in found.values() if value.note}
    assert (notes["psp.icv"], "Encrypted" in opaque(found)) == ("wrong", True)
    found = dissect(packet(entry), LinkType.ETHERNET, Keyring([], PSPKeys()))
    assert found.problem.startswith(f"no key in the key file for PSP's SPI {int(entry['spi'], 16):#010x}")


def test_another_port() -> None:
    octets = bytearray(packet(BY_NAME["e_v4_tunnel_co63"])[LINK:])
    octets[22:24] = (4000).to_bytes(2, "big")
    assert field(dissect(bytes(octets)), "psp.spi") is None
    assert field(dissect(bytes(octets), psp_ports=[4000]), "psp.spi") is not None
    at_4000 = Keyring([], PSPKeys([PSPAssociation(Profile(port=4000), 1, bytes(16))]))
    assert field(dissect(bytes(octets), keys=at_4000), "psp.spi") is not None, "the key file names the port"


@pytest.mark.parametrize("entry", VECTORS["negative"], ids=[entry["name"] for entry in VECTORS["negative"]])
def test_what_must_be_dropped_is_told(entry: dict[str, Any]) -> None:
    keys = bytes.fromhex(entry["master_key0_hex"]), bytes.fromhex(entry["master_key1_hex"])
    found = dissect(bytes.fromhex(entry["packet_hex"]), LinkType.ETHERNET, Keyring([], PSPKeys((), [PSPDevice(keys)])))
    assert found.problem != ""


def test_packets_in_packets_end_somewhere() -> None:
    inner = bytes(8)
    for _ in range(300):  # UDP to PSP's port with GMAC inside, which is in clear
        body = bytes((17, 1, 0, 0x09)) + (1).to_bytes(4, "big") + bytes(8) + inner + bytes(16)
        inner = pack(">HHHH", 50000, 1000, 8 + len(body), 0) + body
    head = bytearray(bytes.fromhex("4500000000004000401100000000000000000000"))
    head[2:4] = (20 + len(inner)).to_bytes(2, "big")
    head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
    found = dissect(bytes(head) + inner)
    assert found.problem == "packets nested too deeply"
    assert sum(layer.title == "PSP Security Protocol" for layer in found.layers) < MAX_DEPTH


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PACKETS), st.data())
def test_any_octets_make_a_dissection(entry: dict[str, Any], data: st.DataObject) -> None:
    octets = bytearray(packet(entry))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(LINK + 20, min(len(octets) - 1, LINK + 80)))
        octets[place] = data.draw(st.integers(0, 255))
    cut = bytes(octets[: data.draw(st.integers(0, len(octets)) | st.just(len(octets)))])
    for keys in (None, keyring(entry)):
        found = dissect(cut, LinkType.ETHERNET, keys)
        assert json.dumps(found.as_json())
        assert all(value.bit + value.bits <= 8 * len(cut) for value in found.values())
