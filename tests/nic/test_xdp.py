"""The XDP program: compiled by clang, taken by this kernel's verifier, counting on a veth pair."""

from __future__ import annotations

import socket
import struct
import subprocess
from pathlib import Path

import pytest

from wesper.errors import ConfigError, UnsupportedError
from wesper.lab import Lab
from wesper.nic import Counter, FlowCount, XDPError, source

from .test_steering import eesp, wespv2

FLOWS = {"esp": "", "wespv2": "wespv2.flow.identifier", "eesp": "eesp.session_id", "psp": "psp.vc"}


def test_source_is_written_from_the_declarations() -> None:
    text = source(FLOWS)
    assert "/* Enhanced Encapsulating Security Payload over IPv6 and UDP */" in text
    assert "return count(2, U32(at + 52), U16(at + 50), end - begin);" in text
    assert text.count("return count(") == 4 + 4 + 4 + 2


def test_the_verifier_finds_every_octet_within_the_packet() -> None:
    # The version is in octet 3 of WESP's header, behind the identifier, and no field behind it is read.
    assert "at + 36 <= end" in source({"wesp": ""})


def test_fields_that_move_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="behind options"):
        source({"wespv2": "esp.spi"})
    with pytest.raises(ConfigError, match="nothing"):
        source({"nothing": ""})
    with pytest.raises(ConfigError, match=r"eesp\.none"):
        source({"eesp": "eesp.none"})


@pytest.mark.needs_tool("clang", "clang")
def test_clang_takes_it_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "flows.c").write_text(source(FLOWS))
    command = ["clang", "-fsyntax-only", "-O2", "-target", "bpf", "-Wall", "-Wextra", "-Werror"]
    include = next(iter(Path("/usr/include").glob("*-linux-gnu")))
    subprocess.run([*command, "-I", str(include), str(tmp_path / "flows.c")], check=True)


def loaded(interface: str, flows: dict[str, str]) -> list[FlowCount]:
    """Count the packets that come while it is waited for; run in a host of a lab."""
    with Counter(interface, flows) as counter:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ready:
            ready.bind(("", 7))
            ready.settimeout(30)
            _, asker = ready.recvfrom(16)
            ready.sendto(b"counting", asker)
            ready.recvfrom(16)
        return counter.counts()


@pytest.mark.needs_root
@pytest.mark.needs_tool("clang", "clang")
@pytest.mark.needs_tool("bpftool", "bpftool")
@pytest.mark.usefixtures("namespaces")
def test_flows_are_counted_in_the_kernel_without_a_key() -> None:
    with Lab() as lab:
        a, b = lab.host("a"), lab.host("b")
        lab.link(a, b)
        counting = b.start(loaded, b.interfaces[0].name, FLOWS)
        with a.socket() as sock:
            sock.settimeout(1)
            for _ in range(30):
                try:
                    sock.sendto(b"ready?", (b.address, 7))
                    sock.recv(16)
                    break
                except (TimeoutError, ConnectionRefusedError):
                    continue
            for number in range(30):
                sock.sendto(eesp(session=number % 3), (b.address, 4500))
            for number in range(8):
                sock.sendto(wespv2(struct.pack(">Q", 1 << 40 | number % 2)), (b.address, 4500))
            sock.sendto(wespv2(struct.pack(">I", 5)), (b.address, 4500))
            for _ in range(4):
                sock.sendto(struct.pack(">II", 0x1234, 1) + bytes(60), (b.address, 4500))
            sock.sendto(
                bytes.fromhex("0402010300000007") + bytes(8) + struct.pack(">Q", 99) + bytes(40), (b.address, 1000)
            )
            sock.sendto(b"\xff", (b.address, 4500))  # a keepalive is nobody's
            sock.sendto(eesp(1), (b.address, 4501))  # another port
            sock.sendto(b"done", (b.address, 7))
        found = counting.result(30)
    size = 14 + 28 + len(eesp(0))
    assert [each for each in found if each.protocol == "eesp"] == [
        FlowCount("eesp", 0x3000, session, 10, 10 * size) for session in range(3)
    ]
    assert [(each.flow, each.packets) for each in found if each.protocol == "wespv2"] == [
        (1 << 40, 4),
        (1 << 40 | 1, 4),
        (5, 1),
    ]
    assert [(each.spi, each.packets) for each in found if each.protocol == "psp"] == [(7, 1)]
    assert next(each.flow for each in found if each.protocol == "psp") == 99
    # ESP shares its port with the other two: what is theirs is asked for first.
    assert [(each.spi, each.packets) for each in found if each.protocol == "esp"] == [(0x1234, 4)]


@pytest.mark.needs_root
@pytest.mark.needs_tool("clang", "clang")
@pytest.mark.needs_tool("bpftool", "bpftool")
def test_an_interface_that_is_not_there_is_told() -> None:
    with pytest.raises(XDPError, match="ip: "):
        Counter("wesper-none", FLOWS)
