"""Looking at running tunnels of WESP, WESPv2 and EESP: trace, capture, keys."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from wesper.keying import load_keys
from wesper.lab import pair
from wesper.pcap import open_capture
from wesper.pcap.dissect import Keyring, dissect
from wesper.protocols import ip
from wesper.sa import CryptOffset, EESPFormat, Exposure, FlowPolicy, Option, WESPv2Format
from wesper.wire.numbers import ICMP, ICMPV6

from .ends import add_pair, await_ping, ending, eventually, ping, two_ends
from .test_live import ENGINES
from .test_watch import run, start

pytestmark = pytest.mark.usefixtures("namespaces")
FORMATS = {
    "wesp": None,
    "wespv2": WESPv2Format(flow_identifier=FlowPolicy(value=258)),
    "eesp": EESPFormat(session=FlowPolicy(value=7)),
    "eesp as 254": EESPFormat(session=FlowPolicy(value=7), ip_protocol=254),
}
NAMED = {"wesp": "low half", "wespv2": "flow identifier 0x102", "eesp": "Session ID 7", "eesp as 254": "Session ID 7"}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FORMATS)
def test_trace_and_capture(name: str, engine: str, tmp_path: Path) -> None:
    protocol, path, found = name.split(" ")[0], tmp_path / "seen.pcapng", tmp_path / "keys.toml"
    with pair() as lab:
        port = 0 if "254" in name else 4500
        left, right = two_ends(tmp_path, *lab, engine, protocol=protocol, format=FORMATS[name], port=port)
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            with start(right, "trace", "--live", right.name, "--json", "--count", "6", "--seconds", "20") as tracing:
                assert ping(left, right.inner, 3) == 3
                out, err = tracing.communicate(timeout=30)
            assert tracing.returncode == 0, err
            walks = [{step["stage"]: step["text"] for step in each["steps"]} for each in json.loads(out)["packets"]]
            inbound = [walk for walk in walks if "header" in walk]
            assert len(inbound) == 3
            for walk in inbound:
                assert walk["header"].startswith(f"SPI {right.pair()['in']['spi']:#010x}, ")
                assert NAMED[name] in walk["header"]
                assert walk["sa"] == "test, aes-gcm-16"
            with start(right, "capture", right.name, "-o", str(path), "--seconds", "2") as capturing:
                assert ping(left, right.inner, 2) == 2
                assert capturing.wait(30) == 0
            assert run(right, "keys", "-o", str(found)) == 0
    keys = Keyring(load_keys(found))
    with open_capture(path) as capture:
        outer = [each for each in capture if capture.interfaces[each.interface].name == "right/outer"]
    shown = [dissect(each.data, each.link_type, keys) for each in outer]
    assert len(shown) >= 4
    assert {each.problem for each in shown} == {""}
    assert sum(each.layer("icmp") is not None for each in shown) == 4


ASKING = WESPv2Format(options=(Option(0x9C, b"\1\2"),))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("version", "port"), [(4, 4500), (4, 0), (6, 4500), (6, 0)])
def test_a_peer_is_told_of_an_option_that_is_not_known(version: int, port: int, engine: str, tmp_path: Path) -> None:
    """By ICMP, if this end's file says so; not of every packet; the packet stands in it as it was on the wire."""
    with pair() as lab:
        a, b = lab
        options: dict[str, Any] = {"version": version, "port": port, "protocol": "wespv2", "format": ASKING}
        left, right = two_ends(tmp_path, a, b, engine, **options)
        right.set("tunnel", option_errors=True)
        ends = [str(host.interfaces[0].address(version)) for host in (b, a)]
        with ending(left, right), contextlib.ExitStack() as stack:
            frames = stack.enter_context(a.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
            frames.bind((a.interfaces[0].name, 3))
            frames.settimeout(5)
            left.up()
            right.up()
            began = time.monotonic()
            ping(left, right.inner, 30, timeout=0.01, octets=600)
            eventually(lambda: right.status()["loop_counts"]["icmp_unknown_option"])
            sent, told = list[bytes](), b""
            while len(told) < 500:  # dummies are quoted too
                datagram = ip.parse(frames.recv(1 << 16)[14:])
                if datagram is None:
                    continue
                if datagram.upper not in (ICMP, ICMPV6):
                    sent.append(datagram.packet)
                elif datagram.packet[datagram.upper_at :][:2] == (b"\x0c\0" if version == 4 else b"\4\2"):
                    told = datagram.packet
            at = 20 if version == 4 else 40
            pointer = at + (12 if port else 0) + 4
            source = told[12:20] if version == 4 else told[8:40]
            assert source == b"".join(ip_address(each).packed for each in ends)
            kind = (12, 0, pointer << 24) if version == 4 else (4, 2, pointer)
            assert struct.unpack_from(">BB2xI", told, at) == kind
            quoted = told[at + 8 :]
            assert quoted[pointer] == 0x9C
            inside = at + (8 if port else 0)  # sockets give what is in a datagram, not the sum over it
            assert any(packet[inside:].startswith(quoted[inside:]) for packet in sent)
            status, took = right.status(), time.monotonic() - began
            assert status["loop_counts"]["icmp_unknown_option"] <= 10 * (took + 2)
            assert status["drops"]["UNKNOWN_OPTION"] > 1
            assert left.status()["drops"]["UNKNOWN_OPTION"] >= 1
            assert left.status()["loop_counts"]["icmp_unknown_option"] == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_peer_that_shows_too_much_ends_its_sas(engine: str, tmp_path: Path) -> None:
    """Both ways, and nothing leaves then; new keys begin anew, a reload with the old ones does not."""
    showing = EESPFormat(crypt_offset=CryptOffset(Exposure.L3), max_crypt_offset_octets=40)
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, engine, protocol="eesp", format=showing)
        agreed = right.path.read_text()
        right.path.write_text(agreed.replace("max_crypt_offset_octets = 40", "max_crypt_offset_octets = 8"))
        with ending(left, right):
            left.up()
            right.up()
            eventually(lambda: left.pair()["proven"])  # by dummies, which show nothing
            assert not right.told("broken_agreement")
            ping(left, right.inner, 3, timeout=0.1)
            eventually(lambda: right.told("broken_agreement"))
            ping(left, right.inner, 3, timeout=0.1)
            for _ in range(2):
                ended = right.pair()
                assert ended["ended"]
                assert ended["in"]["expired"]
                assert ended["out"]["expired"]
                sent = right.status()["loop_counts"]["link_sent_packets"]
                assert ping(right, left.inner, 2, timeout=0.1) == 0
                assert right.status()["loop_counts"]["link_sent_packets"] == sent
                right.ask("reload")
            eventually(lambda: right.told("no_sa"))
            assert len(right.told("broken_agreement")) == 1
            add_pair(left, right)
            for side in (left, right):
                side.ask("reload")
            eventually(lambda: right.pair(-1)["sending"])
            ping(left, right.inner, 3, timeout=0.1)
            eventually(lambda: right.pair(-1)["ended"])


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_peer_does_not_keep_to_is_told(engine: str, tmp_path: Path) -> None:
    """An option that asks for an answer, and more in clear than the other end has announced."""
    showing = EESPFormat(crypt_offset=CryptOffset(Exposure.L3), max_crypt_offset_octets=40)
    for format, event, reason in (
        (ASKING, "unknown_option", "UNKNOWN_OPTION"),
        (showing, "broken_agreement", "BAD_CRYPT_OFFSET"),
    ):
        with pair() as lab:
            left, right = two_ends(tmp_path / event, *lab, engine, protocol=format.protocol, format=format)
            text = right.path.read_text()
            right.path.write_text(text.replace("max_crypt_offset_octets = 40", "max_crypt_offset_octets = 8"))
            with ending(left, right):
                left.up()
                right.up()
                assert ping(left, right.inner, 3, timeout=0.2) == 0
                eventually(lambda right=right, event=event: right.status()["events"].get(event))
                assert right.status()["drops"][reason] >= 1
                assert right.status()["loop_counts"]["icmp_unknown_option"] == 0  # the file did not ask for it
