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


def test_no_packet_cut_anywhere_breaks_a_dissector(tmp_path: Path) -> None:
    packet = next(bytes.fromhex(v["encrypted_packet_hex"]) for v in psp_vectors() if v["vc"] and v["ip_version"] == 4)
    shown = tshark([packet[:size] for size in range(42, len(packet))], LinkType.ETHERNET, tmp_path, "-V")
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
