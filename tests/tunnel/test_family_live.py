"""Tunnels of WESP, WESPv2 and EESP between two hosts: modes, IP versions, raw and in UDP, settings, reload."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest

from wesper.cli.watch import keys
from wesper.keying import load_keys
from wesper.lab import pair
from wesper.protocols import ip
from wesper.sa import CryptOffset, EESPFormat, Exposure, FlowKind, FlowPolicy, StatelessGroup, SubSAs, WESPv2Format

from .ends import INNER, Side, Stream, add_pair, await_ping, drop_first_pair, ending, eventually, ping, two_ends
from .test_live import BEET, ENGINES, network_of, tcp

pytestmark = pytest.mark.usefixtures("namespaces")
NUMBERS = {"wesp": 141, "wespv2": 141, "eesp": 253}
SHOWN = CryptOffset(Exposure.L3)
FORMATS = {
    "flows": WESPv2Format(SHOWN, 40, flow_identifier=FlowPolicy(FlowKind.FIVE_TUPLE)),
    "optimized": EESPFormat(session=FlowPolicy(FlowKind.FIVE_TUPLE)),
    "shown": EESPFormat(crypt_offset=SHOWN, max_crypt_offset_octets=40),
    "no numbers": EESPFormat(sequence_numbers=False),
    "sub SAs": EESPFormat(session=FlowPolicy(FlowKind.FIVE_TUPLE), sub_sas=SubSAs(max_id=7)),
    "stateless": EESPFormat(sequence_numbers=False, stateless=StatelessGroup(0x1122334455667788, (0,))),
    "another number": EESPFormat(ip_protocol=254),
}


def upper_of(frames: socket.socket) -> set[tuple[int, bytes]]:
    """Return what the packets that were seen carry: protocol in the IP header, 4 octets behind a UDP header."""
    found = set[tuple[int, bytes]]()
    with contextlib.suppress(BlockingIOError):
        while True:
            datagram = ip.parse(frames.recv(1 << 16)[14:])
            if datagram is not None and datagram.upper not in (1, 2, 58):
                at = datagram.upper_at + 8
                found.add((datagram.upper, datagram.packet[at : at + 4] if datagram.upper == 17 else b""))
    return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("port", [4500, 0], ids=["udp", "raw"])
@pytest.mark.parametrize(
    ("mode", "version"), [("tunnel", 4), ("tunnel", 6), ("transport", 6), ("beet", 4), ("beet", 6)]
)
@pytest.mark.parametrize("protocol", NUMBERS)
def test_every_way_to_carry(protocol: str, mode: str, version: int, port: int, engine: str, tmp_path: Path) -> None:
    with pair() as lab:
        a, b = lab
        before = network_of(a)
        options: dict[str, Any] = {"mode": mode, "version": version, "port": port, "protocol": protocol}
        if mode == "beet":
            options["inner"] = BEET
        left, right = two_ends(tmp_path, a, b, engine, **options)
        with ending(left, right), a.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as frames:
            frames.bind((a.interfaces[0].name, 3))
            frames.setblocking(False)
            left.up()
            right.up()
            targets = {
                "tunnel": [right.inner, right.inner6],
                "transport": [b.interfaces[0].address(version)],
                "beet": [right.inner],
            }[mode]
            await_ping(left, targets[0])
            for target in targets:
                assert ping(left, target, 3) == 3
                assert ping(left, target, 3, octets=1200) == 3
                assert tcp(a, b, target, 1 << 17) == 1 << 17
            back = a.interfaces[0].address(version) if mode == "transport" else left.inner
            assert ping(right, back, 3) == 3
            eventually(lambda: left.pair()["proven"] and right.pair()["proven"])
            status = left.status()
            assert (status["protocol"], status["loop"]) == (protocol, engine)
            assert not set(status["drops"]) - {"DUMMY", "OUT_DISCARD"}
            assert status["loop_counts"]["link_unreachable"] == 0
            seen = upper_of(frames)
            if not port:
                assert {number for number, _ in seen} == {NUMBERS[protocol]}
            elif protocol == "eesp":
                assert {number for number, _ in seen} == {17}
                assert all(octets[0] & 0x80 for _, octets in seen)
            else:
                assert seen == {(17, b"\0\0\0\2")}
            left.down()
            right.down()
        assert network_of(a) == before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("settings", FORMATS)
def test_every_setting(settings: str, engine: str, tmp_path: Path) -> None:
    format = FORMATS[settings]
    port = 0 if settings in ("another number", "flows") else 4500
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, engine, protocol=format.protocol, format=format, port=port)
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            assert ping(right, left.inner6, 3) == 3
            assert tcp(*lab, right.inner, 1 << 17) == 1 << 17
            assert not set(left.status()["drops"]) - {"DUMMY", "OUT_DISCARD"}
            run, found = left.path.parent / "run", tmp_path / "found.toml"
            assert keys("left", output=str(found), run_dir=run) == 0
            assert {(sa.protocol, sa.format) for sa in load_keys(found)} == {(format.protocol, format)}


@pytest.mark.needs_native
@pytest.mark.parametrize("settings", ["flows", "optimized", "sub SAs", "stateless"])
@pytest.mark.parametrize("version", [4, 6])
def test_flows_are_steered_to_workers(settings: str, version: int, tmp_path: Path) -> None:
    """Three workers at each end: what the kernel has steered is where the engine opens it, and all of it arrives."""
    format = FORMATS[settings]
    options: dict[str, Any] = {"protocol": format.protocol, "format": format, "version": version}
    with pair() as lab:
        a, b = lab
        left, right = two_ends(tmp_path, a, b, "native", **options)
        for side in (left, right):
            side.set("interface", workers=3)
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            early = unsteered(right)
            with contextlib.ExitStack() as stack:
                there = stack.enter_context(b.socket(socket.AF_INET, socket.SOCK_DGRAM))
                there.bind((right.inner, 7777))
                there.settimeout(5)
                flows = [stack.enter_context(a.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(40)]
                for turn in range(5):
                    for flow in flows:
                        flow.sendto(b"%d" % turn, (right.inner, 7777))
                came = [there.recvfrom(100) for _ in range(200)]
            assert len({source for _, source in came}) == 40
            for flow in {source for _, source in came}:
                assert [octets for octets, source in came if source == flow] == [b"0", b"1", b"2", b"3", b"4"]
            assert tcp(*lab, right.inner, 1 << 17) == 1 << 17
            status = right.status()
            assert {link["sockets"] for link in status["links"]} == {3}
            assert status["loop_counts"]["link_received_packets"] > 200
            assert unsteered(right) == early
            eventually(lambda: opened_as_received(right))
            left.down()
            right.down()


def unsteered(side: Side) -> int:
    """Packets that another worker opens.   The kernel chooses by itself until the sockets have their program."""
    return int(side.status()["loop_counts"]["link_unsteered_packets"])


def opened_as_received(side: Side) -> bool:
    """Whether what links received was opened or dropped by name.   While packets come, two questions are two times."""
    status = side.status()
    received = status["loop_counts"]["link_received_packets"]
    # A dummy was opened, and is dropped nonetheless; what was dropped on its way out has not come.
    lost = sum(number for name, number in status["drops"].items() if name != "DUMMY" and not name.startswith("OUT_"))
    return bool(side.pair()["in"]["packets"] == received - lost)


@pytest.mark.needs_native
def test_a_flow_keeps_its_order_and_nothing_comes_twice_without_steering(tmp_path: Path) -> None:
    """A raw socket has one worker, whatever the flows: it opens each in its shard."""
    format = FORMATS["flows"]
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, "native", protocol="wespv2", format=format, port=0)
        for side in (left, right):
            side.set("interface", workers=3)
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            assert tcp(*lab, right.inner, 1 << 17) == 1 << 17
            assert {link["sockets"] for link in right.status()["links"]} == {1}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("protocol", NUMBERS)
def test_new_keys_without_losing_a_packet(protocol: str, engine: str, tmp_path: Path) -> None:
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, engine, protocol=protocol)
        with ending(left, right), contextlib.ExitStack() as stack:
            left.up()
            right.up()
            await_ping(left, right.inner)
            stream = stack.enter_context(Stream(left, right))
            add_pair(left, right)
            left.ask("reload")
            stream.run(0.2)
            right.ask("reload")
            eventually(lambda: left.pair(-1)["sending"] and right.pair(-1)["sending"])
            for side in (left, right):
                drop_first_pair(side)
                side.ask("reload")
                stream.run(0.1)
            assert stream.lost() == []
            assert stream.twice == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_numbers_go_on_after_a_kill(engine: str, tmp_path: Path) -> None:
    format = FORMATS["sub SAs"]
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, engine, protocol="eesp", format=format)
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            used = left.pair()["out"]["sequence"]
            left.kill()
            left.up()
            assert left.pair()["out"]["sequence"] >= used
            await_ping(left, INNER["right"][0].partition("/")[0])
            assert left.pair()["out"]["sequence"] > used
