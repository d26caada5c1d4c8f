from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from wesper.demo.tshark import declared_fields, has_dissector, named_fields, second_opinion
from wesper.engine import open_engine
from wesper.keying import StaticSA
from wesper.pcap import Interface, LinkType, create_capture
from wesper.sa import (
    SA,
    AddressRange,
    Direction,
    EESPFormat,
    FlowKind,
    FlowPolicy,
    Outer,
    Profile,
    UDPEncapsulation,
    WESPv2Format,
)
from wesper.verdict import Delivered

HERE, THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")
ECHO = bytes.fromhex("4500001c0000400040016ba90a0000010a00000208004f5600013005")
FORMATS = {
    "wespv2": WESPv2Format(flow_identifier=FlowPolicy(FlowKind.FIVE_TUPLE)),
    "eesp": EESPFormat(session=FlowPolicy(FlowKind.FIVE_TUPLE)),
}


def keys(protocol: str) -> StaticSA:
    return StaticSA(
        "aes-gcm-16", 0x1000, bytes(range(16)), b"salt", name="office", direction=Direction.OUT, protocol=protocol,
        local=AddressRange.parse("192.0.2.1"), remote=AddressRange.parse("192.0.2.2"), esn=protocol != "esp",
        encapsulation=UDPEncapsulation(), format=FORMATS.get(protocol),
    )  # fmt: skip


def wire(folder: Path, protocol: str) -> tuple[Path, bytes]:
    """Return a capture of three packets of a protocol, and one of them."""
    engine, sa = open_engine("reference"), keys(protocol)
    profile = Profile(
        sa.suite, outer=Outer(HERE, THERE), encapsulation=UDPEncapsulation(), protocol=protocol, format=sa.format,
        esn=sa.esn,
    )  # fmt: skip
    out = engine.install(SA(profile, Direction.OUT, 0x1000, sa.key, sa.salt))
    path = folder / "wire.pcapng"
    with create_capture(path) as writer:
        writer.add_interface(Interface(LinkType.ETHERNET))
        for _ in range(3):
            verdict = engine.encapsulate(out, ECHO, 0)
            assert isinstance(verdict, Delivered)
            writer.write(bytes(12) + b"\x08\0" + verdict.packet, 0, interface=0)
    return path, verdict.packet


@pytest.mark.needs_tool("tshark", package="tshark")
def test_tshark_opens_the_same_and_nothing_with_other_keys(tmp_path: Path) -> None:
    plain = keys("esp")  # without 64-bit numbers, which an older tshark does not take
    path, _ = wire(tmp_path, "esp")
    assert second_opinion([plain], path) == (3, 3)
    assert second_opinion([replace(plain, key=bytes(16))], path) == (3, 0)


def test_a_suite_that_not_every_tshark_knows_gets_no_second_opinion(tmp_path: Path) -> None:
    sa = replace(keys("esp"), suite="chacha20-poly1305", key=bytes(32))
    assert second_opinion([sa], tmp_path / "none.pcapng") is None


@pytest.mark.parametrize(
    ("protocol", "some"),
    [
        ("wesp", {"wesp.encrypted", "wesp.trailerlen", "esp.spi", "esp.iv"}),
        ("wespv2", {"wespv2.hdrlen", "wespv2.flow.identifier", "esp.sequence", "esp.iv"}),
        ("eesp", {"eesp.session_id", "eesp.sequence", "eesp.iv"}),
    ],
)
@pytest.mark.needs_tool("tshark", package="tshark")
def test_tshark_names_what_is_declared(tmp_path: Path, protocol: str, some: set[str]) -> None:
    path, packet = wire(tmp_path, protocol)
    names = declared_fields(protocol, packet, [keys(protocol)])
    assert some <= set(names)
    assert "wesp.padding" not in names, "there is none over IPv4"
    assert not any("pad_len" in name for name in names), "what is encrypted is none's to name"
    assert named_fields(protocol, path, names) == dict.fromkeys(names, 3)
    assert has_dissector(protocol)


def test_without_tshark_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert named_fields("eesp", tmp_path / "none.pcapng", ["eesp.spi"]) is None
    assert second_opinion([keys("esp")], tmp_path / "none.pcapng") is None
    assert not has_dissector("esp"), "tshark's own can open it"
