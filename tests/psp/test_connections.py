"""Connections between hosts of a lab, each with its daemon: datagrams, streams, re-keying, trouble."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wesper import psp
from wesper.cli.psp_host import status as show_status
from wesper.errors import ConfigError
from wesper.pcap import open_capture
from wesper.protocols import ip
from wesper.psp import blocking, listing, local
from wesper.psp.flows import Flow, Flows

from .hosts import CONTROL, PORT, PSPHost, two_hosts, until

pytestmark = pytest.mark.usefixtures("namespaces")
ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]
MARKER = b"the quick brown fox jumps over the lazy dog"


def address(host: PSPHost, version: int = 4) -> str:
    return str(host.node.address if version == 4 else host.node.address6)


@contextmanager
def connected(left: PSPHost, right: PSPHost, port: int = 7000, version: int = 4) -> Iterator[tuple[Any, Any]]:
    """Both ends of a datagram connection."""
    with (
        blocking.listen(port, via=right.socket) as listener,
        blocking.connect(address(right, version), port, via=left.socket) as ours,
        listener.accept(10) as theirs,
    ):
        yield ours, theirs


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_both_ways(tmp_path: Path, engine: str, version: int) -> None:
    with (
        two_hosts(tmp_path, version, engine=engine) as (left, right, _),
        connected(left, right, version=version) as (ours, theirs),
    ):
        assert (ours.identity, theirs.identity) == ("right", "left")
        assert ours.peer == (address(right, version), 7000)
        assert theirs.peer == (address(left, version), ours.local[1])
        for octets in (0, 1, 1000, ours.most):
            sent = random.Random(octets).randbytes(octets)
            ours.send(sent)
            assert theirs.receive(10) == sent
            theirs.send(sent[::-1])
            assert ours.receive(10) == sent[::-1]
        with pytest.raises(psp.TooLarge, match=f"{ours.most} do"):
            ours.send(bytes(ours.most + 1))
        theirs.close()
        with pytest.raises(psp.ConnectionClosed):
            ours.receive(10)


def test_the_wire_has_psp_and_nothing_in_clear(tmp_path: Path) -> None:
    seen = tmp_path / "seen.pcapng"
    with two_hosts(tmp_path) as (left, right, _), left.node.capture(seen):
        with connected(left, right) as (ours, theirs):
            for _ in range(50):
                ours.send(MARKER)
                assert theirs.receive(10) == MARKER
        time.sleep(0.2)
    kinds: dict[str, int] = {}
    with open_capture(str(seen)) as capture:
        for record in capture:
            assert MARKER not in record.data
            datagram = ip.parse(record.data[14:])
            if datagram is None:
                kinds["link"] = kinds.get("link", 0) + 1
                continue
            ports = int.from_bytes(datagram.packet[datagram.upper_at + 2 : datagram.upper_at + 4], "big")
            sources = int.from_bytes(datagram.packet[datagram.upper_at : datagram.upper_at + 2], "big")
            if datagram.upper == 17 and ports == PORT:
                kind = "psp"
            elif datagram.upper == 6 and CONTROL in (ports, sources):
                kind = "control"
            else:
                kind = f"protocol {datagram.upper}"
            kinds[kind] = kinds.get(kind, 0) + 1
    assert kinds.pop("psp") >= 50
    assert kinds.pop("control") > 5
    assert set(kinds) <= {"link", "protocol 58"}, kinds  # ARP, and IPv6's neighbours


def test_asyncio_has_the_same(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (left, right, _):

        async def talk() -> list[bytes]:
            async with await psp.listen(7000, via=right.socket) as listener:
                async with await psp.connect(address(right), 7000, via=left.socket) as ours:
                    theirs = await listener.accept()
                    for word in (b"one", b"two", b"three"):
                        await ours.send(word)
                    got = [await theirs.receive() for _ in range(3)]
                async with theirs:
                    assert [each async for each in theirs] == []  # the other end has closed it
                return got

        assert asyncio.run(talk()) == [b"one", b"two", b"three"]


def transfer(left: PSPHost, right: PSPHost, octets: int, version: int = 4) -> None:
    """Carry octets over a stream and compare what comes out."""
    data = random.Random(1).randbytes(octets)
    with blocking.listen_stream(0, via=right.socket) as listener:
        digests = []

        def take() -> None:
            stream, _ = listener.accept(20)
            with stream:
                digest = hashlib.sha256()
                while part := stream.recv(1 << 16):
                    digest.update(part)
                digests.append(digest.digest())
                stream.sendall(digest.digest())

        taking = threading.Thread(target=take)
        taking.start()
        with blocking.connect_stream(address(right, version), listener.local[1], via=left.socket, seconds=20) as stream:
            stream.settimeout(30)
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
            assert stream.recv(32) == hashlib.sha256(data).digest()
        taking.join(20)
        assert digests == [hashlib.sha256(data).digest()]


@pytest.mark.needs_root
@pytest.mark.parametrize("version", [4, 6])
def test_a_stream_is_the_kernels_tcp_in_psp(tmp_path: Path, version: int) -> None:
    seen = tmp_path / "seen.pcapng"
    with two_hosts(tmp_path, version) as (left, right, _):
        with left.node.capture(seen):
            transfer(left, right, 2_000_000, version)
            time.sleep(0.2)
        until(lambda: left.status()["connections"]["stream"] == 0)
        until(lambda: right.status()["connections"]["stream"] == 0)
    with open_capture(str(seen)) as capture:
        for record in capture:
            datagram = ip.parse(record.data[14:])
            if datagram is not None and datagram.upper == 6:
                ports = datagram.packet[datagram.upper_at : datagram.upper_at + 4]
                assert CONTROL in (int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:], "big")), "TCP in clear"


@pytest.mark.needs_root
def test_ten_megabytes_and_two_rotations_lose_nothing(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (left, right, _):
        done = threading.Event()

        def turn() -> None:
            while not done.wait(0.05):
                left.rotate()
                right.rotate()

        turning = threading.Thread(target=turn)
        turning.start()
        try:
            transfer(left, right, 10_000_000)
        finally:
            done.set()
            turning.join()
        assert left.status()["generation"] >= 2
        for host in (left, right):
            assert host.status()["counters"]["rx_auth_fail"] == 0


def test_datagrams_flow_across_rotations_and_limits(tmp_path: Path) -> None:
    with two_hosts(tmp_path, limits={"packets": 200}) as (left, right, _):
        with connected(left, right) as (ours, theirs):
            for number in range(900):
                word = number.to_bytes(4, "big")
                ours.send(word)
                assert theirs.receive(10) == word
                theirs.send(word)
                assert ours.receive(10) == word
                if number % 300 == 150:
                    left.rotate()
                    right.rotate()
                    time.sleep(0.1)
                if number % 40 == 39:
                    time.sleep(0.06)  # a look at the limits is due twenty times a second
        for host in (left, right):
            found = host.status()
            assert found["counters"]["tx_error"] == found["counters"]["rx_auth_fail"] == 0
            assert not {key for key in found["drops"] if key != "no_connection"}


def test_processes_share_one_daemon_and_port(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (left, right, _):
        with ExitStack() as stack:
            pairs = [stack.enter_context(connected(left, right, port)) for port in (7001, 7002, 7003)]
            for number, (ours, _) in enumerate(pairs):
                ours.send(b"for %d" % number)
            for number, (_, theirs) in enumerate(pairs):
                assert theirs.receive(10) == b"for %d" % number
            with pytest.raises(ConfigError, match="7001 is taken"):
                blocking.listen(7001, via=right.socket)
            assert right.status()["connections"]["datagram"] == 3
        until(lambda: right.status()["connections"]["datagram"] == 0)
        until(lambda: left.status()["associations"] == 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_connections_are_listed_with_spis_both_ways_and_what_is_left_of_their_keys(
    tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"packets": 1000, "seconds": 3600}
    with two_hosts(tmp_path, engine=engine, limits=limits) as (left, right, _), ExitStack() as stack:
        pairs = [stack.enter_context(connected(left, right, port)) for port in (7001, 7002, 7003)]
        ours, theirs = pairs[1]
        for _ in range(5):
            ours.send(b"x" * 100)
            theirs.receive(10)
        theirs.send(b"y")
        ours.receive(10)
        near, number = blocking.listed("connections", 100, left.socket)
        assert number == 3
        assert [each["peer"][1] for each in near] == [7003, 7002, 7001]  # the newest first
        told = near[1]
        far = blocking.listed("connections", 100, right.socket)[0][1]
        assert set(told) == {
            "kind", "local", "peer", "identity", "version", "age_seconds", "heard_seconds_ago", "out", "in",
        }  # fmt: skip
        assert (told["kind"], told["identity"], told["version"]) == ("datagram", "right", 0)
        assert (told["local"], told["peer"]) == (far["peer"], far["local"]) == ([*ours.local], [*ours.peer])
        assert ([told["out"]["spi"]], [far["out"]["spi"]]) == (far["in"]["spis"], told["in"]["spis"])
        assert (
            (told["out"]["packets"], told["in"]["packets"]) == (far["in"]["packets"], far["out"]["packets"]) == (5, 1)
        )
        used, rest = told["out"]["association"], told["out"]["left"]
        assert (used["packets"], rest["packets"], rest["octets"]) == (5, 995, None)
        assert used["octets"] >= 5 * 108
        assert 3500 < rest["seconds"] <= 3600
        assert 86_000 < told["in"]["left_seconds"] / 2 <= 86_400  # its device key is active for a day, and kept another
        assert 0 <= told["heard_seconds_ago"] <= told["age_seconds"] < 60
        right.rotate()
        until(lambda: blocking.listed("connections", 100, left.socket)[0][1]["out"]["spi"] != told["out"]["spi"])
        fresh = blocking.listed("connections", 100, left.socket)[0][1]["out"]
        assert fresh["spi"] >> 31 == 1
        assert (fresh["packets"], fresh["association"]["packets"], fresh["left"]["packets"]) == (5, 0, 1000)
        assert show_status(connections=True, most=2, socket=left.socket) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "7002" in line or "older" in line]
        assert f"SPI {fresh['spi']:#x}" in lines[0]
        assert "1,000 packets or 3," in lines[0]
        assert "1 connections more" in lines[1]
        assert show_status(json=True, connections=True, socket=left.socket) == 0
        told_all = json.loads(capsys.readouterr().out)
        assert (len(told_all["connection_list"]), told_all["connections_more"]) == (3, 0)
        assert (told_all["peers"][0]["identity"], told_all["peers_more"]) == ("right", 0)
        with pytest.raises(ConfigError, match="most"):
            show_status(most=0, socket=left.socket)


def test_long_lists_come_in_pages_that_fit_a_message() -> None:
    device = psp.Device(engine="reference")
    table = psp.TransmitTable(device, [psp.Profile()])
    flows = Flows(device, table)
    for number in range(1000):
        association = device.allocate()
        ends = bytes(16), bytes(15) + b"\1", 50_000, number
        flow = Flow("datagram", *ends, 0, table.install(association.spi, association.key), 1000, identity="peer " * 20)
        flows.add(flow)
        flows.own(flow, association.spi)
    host: Any = SimpleNamespace(
        flows=flows, table=table, device=device,
        settings=SimpleNamespace(limits=psp.Limits(), rotate_seconds=60),
        agreements=SimpleNamespace(status=lambda: [{"peer": number} for number in range(700)]),
    )  # fmt: skip
    for what, key, wanted in (
        ("connections", lambda row: row["peer"][1], list(range(999, -1, -1))),
        ("peers", lambda row: row["peer"], list(range(699, -1, -1))),
    ):
        found: list[int] = []
        before, pages = None, 0
        while pages == 0 or before is not None:
            answer = listing.page(host, what, before, now=0)
            assert len(local.encode({"ok": True, **answer})) < local.MAX_MESSAGE
            assert 0 < len(answer["rows"]) <= listing.PAGE_ROWS
            assert answer["all"] == len(wanted)
            found += [key(row) for row in answer["rows"]]
            before, pages = answer["before"], pages + 1
        assert found == wanted
        assert pages > 2
    huge, last = listing.fitting([(1, {"identity": "x" * 60_000}), (2, {})])
    assert (len(huge), last) == (1, 1)


def test_refusals_say_why(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (left, right, _):
        with pytest.raises(psp.PeerRefused, match="nobody listens on datagram port 9"):
            blocking.connect(address(right), 9, via=left.socket)
        with pytest.raises(psp.NoDaemon, match="wesper psp up"):
            blocking.connect(address(right), 9, via=tmp_path / "none.sock")
        right.end()
        with pytest.raises(psp.PeerUnreachable):
            blocking.connect(address(right), 9, via=left.socket)


def test_a_peer_that_is_killed_ends_its_connections_and_comes_back(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (left, right, _):
        with connected(left, right) as (ours, theirs):
            right.end(signal.SIGKILL)
            with pytest.raises(psp.NoDaemon):
                theirs.receive(10)
            with pytest.raises(psp.ConnectionLost):
                ours.receive(10)
        right.up()
        with connected(left, right) as (ours, theirs):
            ours.send(b"again")
            assert theirs.receive(10) == b"again"


def test_our_daemon_that_ends_is_told(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (left, right, _), connected(left, right) as (ours, theirs):
        left.end()
        with pytest.raises(psp.ConnectionLost, match="daemon has ended"):
            ours.receive(10)
        with pytest.raises(psp.ConnectionLost):
            theirs.receive(10)
        assert not left.socket.exists()


def test_rubbish_of_a_local_process_harms_nobody(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (left, right, _), connected(left, right) as (ours, theirs):
        for message in (
            b"",
            b"\xff" * 9,
            b"[]",
            b"{}",
            b'{"op": "connect"}',
            b'{"op": "listen", "kind": 5}',
            b"{" * 9000,
        ):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as rude:
                rude.connect(str(left.socket))
                rude.settimeout(5)
                if message:
                    rude.send(message)
                    rude.recv(65536)
        ours.send(b"still here")
        assert theirs.receive(10) == b"still here"


def test_packets_of_nobody_are_counted_by_name(tmp_path: Path) -> None:
    with (
        two_hosts(tmp_path) as (left, right, _),
        connected(left, right) as (ours, theirs),
        left.node.socket() as rude,
    ):
        for octets in (b"rubbish" * 10, bytes.fromhex("1101000100000001") + bytes(40), b""):
            rude.sendto(octets, (address(right), PORT))
        ours.send(b"still here")
        assert theirs.receive(10) == b"still here"
        counters = right.status()["counters"]
        assert counters["rx_auth_fail"] == 1
        assert counters["rx_error"] + counters["rx_bad"] >= 1


@pytest.mark.needs_root
def test_an_interface_that_somebody_deletes_ends_its_streams_and_no_more(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (left, right, _), connected(left, right) as (ours, theirs):
        with blocking.listen_stream(7100, via=right.socket):
            right.node.run(["ip", "link", "delete", "psp0"])
            until(lambda: not any(each["kind"] == "stream" for each in right.status()["listeners"]))
            with pytest.raises(psp.PeerRefused, match="nobody listens on stream port 7100"):
                blocking.connect_stream(address(right), 7100, via=left.socket)
        ours.send(b"still here")
        assert theirs.receive(10) == b"still here"
        transfer(left, right, 10_000)  # the next one makes it again
