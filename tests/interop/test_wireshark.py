"""Our dissectors in the real tshark: every field of every vector's packet, by name."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wesper.pcap import LinkType
from wesper.wireshark import dissectors, install

pytestmark = pytest.mark.needs_tool("tshark", "tshark")

VECTORS = Path(__file__).parents[2] / "vectors"


def tshark(packets: list[bytes], link_type: int, home: Path, *arguments: str) -> str:
    """Run tshark with our plugins, and no others, on packets."""
    plugins = home / ".local" / "lib" / "wireshark" / "plugins"
    install(plugins)
    capture = home / "seen.pcap"
    with capture.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, link_type))
        for packet in packets:
            file.write(struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet)
    env = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
    env.pop("WIRESHARK_CONFIG_DIR", None)
    done = subprocess.run(
        ["tshark", *(arguments if "-G" in arguments else ("-n", "-r", str(capture), *arguments))],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Lua" not in done.stderr, done.stderr
    return done.stdout


def fields(packets: list[bytes], link_type: int, home: Path, *names: str) -> list[dict[str, str]]:
    """Return the values of fields, packet by packet."""
    arguments = ["-T", "fields", "-E", "occurrence=a", "-E", "aggregator=/s"]
    for name in names:
        arguments += ["-e", name]
    rows = [line.split("\t") for line in tshark(packets, link_type, home, *arguments).splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows]


def psp_vectors() -> Iterator[dict[str, Any]]:
    loaded = json.loads((VECTORS / "psp.json").read_text())
    yield from loaded["vectors"]
    yield from loaded["own_vectors"]


def test_psp_fields_have_the_vectors_values(tmp_path: Path) -> None:
    vectors = list(psp_vectors())
    packets = [bytes.fromhex(vector["encrypted_packet_hex"]) for vector in vectors]
    names = ("psp.spi", "psp.version", "psp.cryptoffset", "psp.iv", "psp.nexthdr", "psp.is_virt", "psp.icv")
    rows = fields(packets, LinkType.ETHERNET, tmp_path, *names)
    for vector, packet, row in zip(vectors, packets, rows, strict=True):
        assert int(row["psp.spi"], 16) == int(vector["spi"], 16), vector["name"]
        assert int(row["psp.version"]) == vector["version"]
        assert int(row["psp.cryptoffset"]) == vector["crypt_offset"]
        assert int(row["psp.iv"], 16) == int(vector["iv_hex"], 16)
        assert int(row["psp.nexthdr"]) == vector["next_header"]
        assert int(row["psp.is_virt"]) == (vector["vc"] is not None)
        assert row["psp.icv"] == packet[-16:].hex()


def test_clear_cookie_and_inner_ports_are_named(tmp_path: Path) -> None:
    vectors = [v for v in psp_vectors() if v["vc"] and v["crypt_offset"] >= 3 and v["mode"] == "transport"]
    assert vectors
    packets = [bytes.fromhex(vector["encrypted_packet_hex"]) for vector in vectors]
    rows = fields(packets, LinkType.ETHERNET, tmp_path, "psp.vc", "psp.inner.srcport", "psp.inner.dstport", "psp.clear")
    for vector, row in zip(vectors, rows, strict=True):
        assert row["psp.vc"] == vector["vc"]
        clear = bytes.fromhex(vector["cleartext_packet_hex"])
        start = 14 + (20 if vector["ip_version"] == 4 else 40)
        shown = bytes.fromhex(row["psp.clear"])
        assert clear[start : start + len(shown)] == shown
        if row["psp.inner.srcport"]:
            assert struct.unpack(">HH", clear[start : start + 4]) == (
                int(row["psp.inner.srcport"]),
                int(row["psp.inner.dstport"]),
            )


def family(name: str) -> list[dict[str, Any]]:
    """Return the vectors that a sender could make; the others are for `test_no_packet_breaks_a_dissector`."""
    return [v for v in json.loads((VECTORS / f"{name}.json").read_text())["vectors"] if v["direction"] == "both"]


def test_wespv2_fields_have_the_vectors_values(tmp_path: Path) -> None:
    vectors = family("wespv2")
    packets = [bytes.fromhex(vector["protected_packet_hex"]) for vector in vectors]
    names = ("esp.spi", "esp.sequence", "wespv2.ver", "wespv2.cryptoffset", "wespv2.optlen", "wespv2.options", "esp.iv")
    rows = fields(packets, LinkType.RAW, tmp_path, *names)
    for vector, row in zip(vectors, rows, strict=True):
        params = vector["params"]
        assert int(row["esp.spi"], 16) == int(params["spi"], 16), vector["name"]
        assert int(row["esp.sequence"]) == int(params["seq"], 16) & 0xFFFFFFFF
        assert int(row["wespv2.ver"]) == 1
        assert int(row["wespv2.cryptoffset"]) == params.get("crypt_offset", 0)
        assert row["wespv2.options"] == params.get("options_hex", "")
        assert int(row["wespv2.optlen"]) == len(params.get("options_hex", "")) // 2
        assert row["esp.iv"] == (params["iv_hex"] if params["iv_mode"] == "explicit" else "")


def test_eesp_fields_have_the_vectors_values(tmp_path: Path) -> None:
    # The preferences say that there are sequence numbers and an IV of 8 octets.
    vectors = [v for v in family("eesp") if v["params"]["sn"] == "64" and v["params"]["iv_mode"] == "explicit"]
    packets = [bytes.fromhex(vector["protected_packet_hex"]) for vector in vectors]
    names = (
        "eesp.spi",
        "eesp.session_id",
        "eesp.sequence",
        "eesp.options",
        "eesp.iv",
        "eesp.crypt_offset.crypt_offset_words",
    )
    rows = fields(packets, LinkType.RAW, tmp_path, *names)
    for vector, row in zip(vectors, rows, strict=True):
        params = vector["params"]
        assert int(row["eesp.spi"], 16) == int(params["spi"], 16), vector["name"]
        assert int(row["eesp.session_id"]) == params.get("session_id", 0)
        assert int(row["eesp.sequence"], 16) == int(params["seq"], 16)
        assert row["eesp.options"] == params.get("options_hex", "")
        assert row["eesp.iv"] == params["iv_hex"]


def test_the_inner_packet_of_figure_19_is_named_as_far_as_it_is_clear(tmp_path: Path) -> None:
    vector = next(v for v in family("eesp") if v["name"] == "crypt-offset-figure-19")
    names = ("eesp.info.nxt", "eesp.inner.src", "eesp.inner.dst", "eesp.inner.srcport", "eesp.inner.dstport")
    row = fields([bytes.fromhex(vector["protected_packet_hex"])], LinkType.RAW, tmp_path, *names)[0]
    clear = bytes.fromhex(vector["plaintext_packet_hex"])
    assert row["eesp.info.nxt"] == "4"
    assert row["eesp.inner.src"] == ".".join(str(octet) for octet in clear[12:16])
    assert row["eesp.inner.dst"] == ".".join(str(octet) for octet in clear[16:20])
    assert struct.unpack(">HH", clear[20:24]) == (int(row["eesp.inner.srcport"]), int(row["eesp.inner.dstport"]))


def test_port_4500_is_shared(tmp_path: Path) -> None:
    wespv2 = next(v for v in family("wespv2") if v["name"] == "v4-udp-encap-co0")
    eesp = next(v for v in family("eesp") if v["name"] == "udp-v4")
    packets = [bytes.fromhex(v["protected_packet_hex"]) for v in (wespv2, eesp)]
    head = packets[0][:28]
    ike = bytes(4) + struct.pack(">QQBBBBII", 1, 0, 0, 0x20, 34, 8, 0, 28)
    esp, ike = (head + payload + bytes(84 - len(payload)) for payload in (bytes.fromhex("00001234"), ike))
    rows = fields(
        [*packets, esp, ike], LinkType.RAW, tmp_path, "wespv2.hdrlen", "eesp.spi", "esp.spi", "isakmp.exchangetype"
    )
    assert [{name for name, value in row.items() if value} for row in rows] == [
        {"wespv2.hdrlen", "esp.spi"},
        {"eesp.spi"},
        {"esp.spi"},
        {"isakmp.exchangetype"},
    ]


def hostile() -> Iterator[tuple[int, bytes]]:
    """Every vector's packet, the bad ones too; and one of each protocol cut at every octet."""
    for vector in psp_vectors():
        yield LinkType.ETHERNET, bytes.fromhex(vector["encrypted_packet_hex"])
    for name in ("wespv2", "eesp"):
        vectors = json.loads((VECTORS / f"{name}.json").read_text())["vectors"]
        packets = [bytes.fromhex(vector["protected_packet_hex"]) for vector in vectors]
        longest = max(packets, key=len)
        for packet in (*packets, *(longest[:size] for size in range(20, len(longest)))):
            yield LinkType.RAW, packet
    packet = next(bytes.fromhex(v["encrypted_packet_hex"]) for v in psp_vectors() if v["vc"] and v["ip_version"] == 4)
    for size in range(42, len(packet)):
        yield LinkType.ETHERNET, packet[:size]


def test_no_packet_breaks_a_dissector(tmp_path: Path) -> None:
    for link_type in (LinkType.ETHERNET, LinkType.RAW):
        shown = tshark([packet for kind, packet in hostile() if kind == link_type], link_type, tmp_path, "-V")
        assert "Lua Error" not in shown
        assert "Fewer octets than the header needs" in shown


def test_every_dissector_has_every_field_of_its_declaration(tmp_path: Path) -> None:
    from wesper.wire.layouts import LAYOUTS

    listed = tshark([], LinkType.ETHERNET, tmp_path, "-G", "fields")
    known = {line.split("\t")[2] for line in listed.splitlines() if line.startswith("F\t")}
    for name in dissectors():
        layout = LAYOUTS[name.removeprefix("wesper-").removesuffix(".lua")]
        wanted = {f"{part.header.NAME}.{f.wire_name}" for part in layout.parts for f in part.header.FIELDS}
        assert wanted <= known
