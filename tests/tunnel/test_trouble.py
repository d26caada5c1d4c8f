"""What goes wrong at night: peers that move or vanish, links that flap, full disks, floods. Told, and survived."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from wesper.lab import nat, pair, third_host
from wesper.protocols import ip
from wesper.tunnel.loop import Loop
from wesper.tunnel.reference_loop import ReferenceLoop
from wesper.tunnel.state import State
from wesper.wire.ipv4 import IPv4

from .ends import (
    PATIENCE_S,
    Side,
    Stream,
    add_pair,
    await_ping,
    drop_first_pair,
    ending,
    eventually,
    follow_through_nat,
    ping,
    two_ends,
)

pytestmark = pytest.mark.usefixtures("namespaces")
ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_peer_behind_a_nat_is_found_and_followed(engine: str, tmp_path: Path) -> None:
    with nat(random_ports=True) as lab:
        a, n, b = lab
        left, right = two_ends(tmp_path, a, b, engine, address="any")
        with ending(left, right):
            right.up()
            assert right.status()["tunnels"][0]["peer"] is None
            assert ping(right, left.inner, timeout=0.2) == 0  # nobody knows where to
            left.up()
            follow_through_nat(left, right, n)


def test_a_fixed_peer_is_not_followed(tmp_path: Path) -> None:
    with nat(random_ports=True) as lab:
        a, n, b = lab
        left, right = two_ends(tmp_path, a, b, address="any", peer_address=b.address)
        right.set("tunnel", peer=n.interface("n-b").address())
        with ending(left, right):
            right.up()
            left.up()
            eventually(lambda: right.told("peer_elsewhere"))
            assert right.status()["tunnels"][0]["peer_port"] == 4500


@pytest.mark.parametrize("engine", ENGINES)
def test_a_vanished_peer_is_told_and_comes_back(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wesper.tunnel.pairs.SILENT_NS", 500_000_000)
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, engine)
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            right.kill()

            def is_silent() -> bool:
                ping(left, right.inner, timeout=0.05)  # who sends nothing waits for nothing
                return bool(left.status()["tunnels"][0]["silent"])

            eventually(is_silent)
            assert left.told("peer_silent")
            heard = len(left.told("peer_heard"))
            right.up()
            await_ping(left, right.inner)
            eventually(lambda: len(left.told("peer_heard")) > heard)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_link_that_flaps_and_an_address_that_changes(engine: str, tmp_path: Path) -> None:
    with pair() as lab:
        a, b = lab
        left, right = two_ends(tmp_path, a, b, engine, address="any", peer_address=b.address)
        with ending(left, right):
            right.up()
            left.up()
            await_ping(left, right.inner)
            link = lab.links["a-b"]
            for _ in range(3):
                link.down()
                ping(left, right.inner, timeout=0.05)
                link.up()
                await_ping(left, right.inner)
            interface = a.interfaces[0]
            interface.add_address("10.0.1.77/24")
            interface.remove_address(f"{a.address}/24")
            await_ping(left, right.inner)
            eventually(lambda: right.status()["tunnels"][0]["peer"] == "10.0.1.77")
            await_ping(right, left.inner)


def test_lost_packets_are_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wesper.tunnel.daemon.LOST_NS", 100_000_000)
    with pair() as lab:
        a, b = lab
        left, right = two_ends(tmp_path, a, b)
        with ending(left, right):
            left.up()
            a.interfaces[0].remove_address(f"{a.address}/24")
            ping(left, right.inner, timeout=0.05)
            eventually(lambda: any("link_unreachable" in each for each in left.told("lost")))
            a.interfaces[0].add_address("10.0.1.1/24")
            right.up()
            await_ping(left, right.inner)


def test_a_full_disk_at_the_start_is_one_message(tmp_path: Path) -> None:
    with pair() as lab:
        a, _ = lab
        left, _ = two_ends(tmp_path, *lab)
        state = tmp_path / "state-left"
        state.mkdir()
        script = f'mount -t tmpfs -o size=8k,mode=700 none {state} && cat /dev/zero > {state}/full; exec "$@"'
        wesper = [sys.executable, "-m", "wesper", "up", "--foreground", str(left.path)]
        done = a.run(["unshare", "--mount", "sh", "-c", script, "sh", *wesper], check=False)
        assert done.returncode == 4, done.stderr
        assert done.stderr.splitlines()[-1] == f"wesper: {state}/left.state: No space left on device"
        assert "left" not in a.run(["ip", "-o", "link"]).stdout


@pytest.mark.parametrize("engine", ENGINES)
def test_a_disk_that_can_not_be_written(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Reserved numbers are used up, then packets are dropped by name; and it goes on when the disk does.
    import errno

    monkeypatch.setattr("wesper.tunnel.state.BLOCK", 40)
    full = tmp_path / "full"
    real = os.fdatasync

    def sync(descriptor: int) -> None:
        if full.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr("wesper.tunnel.state.os.fdatasync", sync)
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, engine)
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            full.touch()
            with suppress(AssertionError):
                for _ in range(50):
                    assert ping(left, right.inner, 4, timeout=0.05)
            eventually(lambda: left.told("state_not_saved"))
            assert "No space left" in left.status()["trouble"]["state_not_saved"]
            eventually(lambda: left.status()["drops"].get("OUT_NOT_RESERVED"))
            full.unlink()
            eventually(lambda: left.told("state_saved"))
            await_ping(left, right.inner)
            assert left.status()["trouble"] == {}


def resident_octets(side: Side) -> int:
    """Return what a daemon has in memory."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(side.sock))
        (pid,) = struct.unpack_from("i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sent_by(address: str, sniff: socket.socket) -> Iterator[bytes]:
    """Yield what UDP datagrams of an address carry, of those that have passed."""
    while True:
        try:
            datagram = ip.parse(sniff.recv(2048)[14:])
        except BlockingIOError:
            return
        if datagram is not None and datagram.upper == 17 and datagram.header.source == ip_address(address).packed:
            yield datagram.packet[28:]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_flood_is_counted_by_name_and_harms_nobody(engine: str, tmp_path: Path) -> None:
    chance = random.Random("flood")
    with third_host() as lab:
        a, r, b, c = (lab[name] for name in "arbc")
        left, right = two_ends(tmp_path, a, b, engine)
        with ending(left, right), ExitStack() as stack:
            left.up()
            right.up()
            await_ping(left, right.inner)
            spi = right.pair()["in"]["spi"]
            sniff = stack.enter_context(r.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
            sniff.bind((r.interfaces[1].name, 3))
            sniff.setblocking(False)
            ping(left, right.inner, 20)
            replays = list(sent_by(a.address, sniff))
            assert replays
            bad = stack.enter_context(c.socket())
            spoof = stack.enter_context(c.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
            target = (b.address, 4500)
            stream = stack.enter_context(Stream(left, right))
            dropped = right.status()["drops"]
            before = resident_octets(right)
            sent = 0
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                for _ in range(10):
                    garbage = chance.randbytes(chance.randrange(1, 200))
                    forged = struct.pack(">II", spi, chance.randrange(1 << 20)) + chance.randbytes(80)
                    for octets in (garbage, forged, chance.choice(replays)):
                        bad.sendto(octets, target)
                    header = IPv4(
                        total_length=28 + len(forged), ttl=64, protocol=17, source=ip_address(a.address).packed,
                        destination=ip_address(b.address).packed,
                    )  # fmt: skip
                    udp = struct.pack(">HHHH", 4500, 4500, 8 + len(forged), 0)
                    spoof.sendto(header.build() + udp + forged, (b.address, 0))
                    sent += 4
                stream.run(0.005)
            assert stream.number > 50
            assert stream.lost() == []
            assert sent > 400

            def total() -> int:
                now = right.status()["drops"]
                return sum(now.values()) - sum(dropped.values())

            eventually(lambda: total() >= sent)
            assert resident_octets(right) - before < 32 << 20
            names = right.status()["drops"]
            for name in ("REPLAY", "AUTH", "NO_SA"):
                assert names.get(name, 0) > dropped.get(name, 0), name
            # Nothing went back to who asked for it.
            bad.setblocking(False)
            with pytest.raises(BlockingIOError):
                bad.recv(100)
            assert right.status()["tunnels"][0]["peer"] == a.address
            assert ping(left, right.inner, 3, timeout=PATIENCE_S) == 3


@pytest.mark.parametrize("engine", ENGINES)
def test_an_interface_that_somebody_deletes_ends_the_daemon(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wesper.tunnel.daemon.PATH_NS", 50_000_000)
    with pair() as lab:
        a, _ = lab
        left, _ = two_ends(tmp_path, *lab, engine)
        with ending(left):
            left.up()
            a.run(["ip", "link", "delete", "left"])
            assert left.running is not None
            with pytest.raises(OSError, match=r"deleted the interface|bad state|No such device"):
                left.running.result(PATIENCE_S)
            assert not left.sock.exists()
            assert " failed " in (tmp_path / "left.log").read_text()


def test_strangers_requests_do_not_end_a_daemon(tmp_path: Path) -> None:
    with pair() as lab:
        left, _ = two_ends(tmp_path, *lab)
        with ending(left):
            left.up()
            with socket.socket(socket.AF_UNIX) as asking:
                asking.connect(str(left.sock))
                lines = asking.makefile("rb")
                for octets in (
                    b"{}", b"[]", b"\xff", b"[" * 2000, b'{"op": 7}', b'{"op": "reload", "path": "\\u0000"}',
                    b'{"op": "reload", "path": "/nowhere"}', b'{"op": "tap", "x": 1e999}',
                ):  # fmt: skip
                    asking.sendall(octets + b"\n")
                    assert b'"ok"' in lines.readline()
                with suppress(BrokenPipeError, ConnectionResetError):  # it will not hear so much
                    asking.sendall(b"x" * (1 << 20))
            assert left.status()["schema"] == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_lifetimes_ask_for_new_keys_and_get_them(engine: str, tmp_path: Path) -> None:
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, engine)
        left.set("tunnel", lifetime={"packets": 50})
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            with suppress(AssertionError):
                for _ in range(60):
                    assert ping(left, right.inner, timeout=0.2)
            eventually(lambda: left.pair()["out"]["expired"])
            assert left.told("pair_ending")[0]["limit"] == "packets"
            assert left.told("pair_expired")
            ping(left, right.inner, timeout=0.05)
            eventually(lambda: left.told("no_sa"))
            add_pair(left, right)
            drop_first_pair(left)
            left.ask("reload")
            right.ask("reload")
            await_ping(left, right.inner)


def test_keepalives_go_out_of_a_quiet_tunnel(tmp_path: Path) -> None:
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab)
        left.set("tunnel", keepalive=1)
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            packets = right.pair()["in"]["packets"]
            eventually(lambda: right.status()["drops"].get("KEEPALIVE", 0) >= 2)
            assert right.pair()["in"]["packets"] - packets < 4


@pytest.mark.parametrize("engine", ENGINES)
def test_pairs_whose_lifetime_is_over_are_told_and_the_daemon_goes_on(engine: str, tmp_path: Path) -> None:
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, engine)
        left.set("tunnel", lifetime={"seconds": 2})
        left.path.write_text(left.path.read_text() + '\n[metrics]\nlisten = "127.0.0.1:9464"\n')
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            eventually(lambda: left.told("pair_expired"))
            eventually(lambda: left.pair()["out"]["expired"])
            with left.host.socket(kind=socket.SOCK_STREAM) as scraper:
                scraper.connect(("127.0.0.1", 9464))
                scraper.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                assert scraper.recv(12) == b"HTTP/1.1 200"
            left.ask("reload")
            assert left.answers()


def test_no_number_is_given_back_while_workers_may_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = tmp_path / "order"

    def fail(_: Loop) -> None:
        raise OSError(errno.EAGAIN, "no more threads")

    def note(what: str) -> None:
        with order.open("a") as file:
            file.write(f"{what} ")

    monkeypatch.setattr(ReferenceLoop, "start", fail)
    monkeypatch.setattr(ReferenceLoop, "stop", lambda *_: note("stop"))
    monkeypatch.setattr(State, "settle", lambda *_: note("settle"))
    with pair() as lab:
        left, _ = two_ends(tmp_path, *lab)
        with pytest.raises(Exception, match="no more threads"):
            left.up()
    assert order.read_text() == "stop settle "


def test_a_daemon_leaves_no_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "limits"
    resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
    monkeypatch.setattr(
        ReferenceLoop, "start", lambda _: said.write_text(str(resource.getrlimit(resource.RLIMIT_CORE)))
    )
    with pair() as lab:
        left, _ = two_ends(tmp_path, *lab)
        with ending(left):
            left.up()
            assert said.read_text() == "(0, 0)"


def test_a_second_signal_does_not_cut_the_end_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wesper.tunnel.daemon.DRAIN_S", 0.5)
    stopping = tmp_path / "stopping"
    before = ReferenceLoop.stop

    def stop(loop: ReferenceLoop, drain_seconds: float) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        stopping.touch()
        before(loop, drain_seconds)

    monkeypatch.setattr(ReferenceLoop, "stop", stop)
    with pair() as lab:
        left, _ = two_ends(tmp_path, *lab)
        left.up()
        left.down()
        assert stopping.exists()
        assert [each.name for each in left.sock.parent.iterdir()] == ["left.lock"]
