"""Tunnels between two hosts: every mode and version, in UDP and raw; and nothing is left when they end."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from wesper.errors import ConfigError, KeyMaterialError
from wesper.lab import Host, pair
from wesper.tunnel import explain
from wesper.tunnel.file import load_file

from .ends import INNER, PATIENCE_S, await_ping, ending, eventually, ping, two_ends

pytestmark = pytest.mark.usefixtures("namespaces")
ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]
BEET = {"left": ("10.8.0.1/32",), "right": ("10.8.0.2/32",)}


def network_of(host: Host) -> list[str]:
    """Return interfaces, rules and routes of a host."""
    return [host.run(["ip", "-o", *words]).stdout for words in (["link"], ["rule"], ["-6", "rule"], ["route"])]


def tcp(sender: Host, receiver: Host, address: str, octets: int, source: str = "") -> int:
    """Carry octets over TCP; returns how many came.   source: the sender's address, if not the one that it takes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with receiver.socket(family, socket.SOCK_STREAM) as listener, sender.socket(family, socket.SOCK_STREAM) as out:
        listener.bind((address, 0))
        listener.listen()
        for each in (listener, out):
            each.settimeout(PATIENCE_S)
        if source:
            out.bind((source, 0))
        out.connect(listener.getsockname()[:2])
        come, _ = listener.accept()
        with come:
            come.settimeout(PATIENCE_S)
            came = 0
            block = bytes(16384)
            for _ in range(octets // len(block)):
                out.sendall(block)
                came += len(come.recv(1 << 20))
            out.shutdown(socket.SHUT_WR)
            while more := come.recv(1 << 20):
                came += len(more)
    return came


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("port", [4500, 0], ids=["udp", "raw"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", ["tunnel", "transport", "beet"])
def test_every_way_to_carry(mode: str, version: int, port: int, engine: str, tmp_path: Path) -> None:
    with pair() as lab:
        a, b = lab
        before = network_of(a)
        options: dict[str, Any] = {"mode": mode, "version": version, "port": port}
        if mode == "beet":
            options["inner"] = BEET
        left, right = two_ends(tmp_path, a, b, engine, **options)
        with ending(left, right):
            left.up()
            right.up()
            if mode == "transport":
                targets = [b.interfaces[0].address(version)]
            else:
                targets = [right.inner] if mode == "beet" else [right.inner, right.inner6]
            for target in targets:
                assert ping(left, target, 3) == 3
                assert ping(left, target, 3, octets=1200) == 3
                assert tcp(a, b, target, 1 << 18) == 1 << 18
            found = left.pair()
            eventually(lambda: left.pair()["proven"])
            assert found["out"]["packets"] > 12
            assert found["in"]["packets"] > 12
            for name, count in left.status()["drops"].items():
                assert name in ("DUMMY", "OUT_DISCARD"), (name, count)
            assert left.status()["loop_counts"]["link_unreachable"] == 0
            left.down()
            right.down()
        assert network_of(a) == before
        assert not left.sock.exists()


@pytest.mark.parametrize("kind", [pytest.param("tun", marks=pytest.mark.needs_tun), "veth"])
@pytest.mark.parametrize("engine", ENGINES)
def test_both_kinds_of_interface(engine: str, kind: str, tmp_path: Path) -> None:
    with pair() as lab:
        a, b = lab
        left, right = two_ends(tmp_path, a, b, engine)
        left.set("interface", kind=kind)
        right.set("interface", kind=kind)
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            assert tcp(a, b, right.inner, 1 << 18) == 1 << 18
            assert tcp(b, a, left.inner6, 1 << 18) == 1 << 18
            assert left.status()["interface"]["kind"] == kind


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_an_end_of_any_kind_leaves_nothing_that_stops_the_next_start(how: str, tmp_path: Path) -> None:
    with pair() as lab:
        a, b = lab
        left, right = two_ends(tmp_path, a, b, mode="transport")  # with rules, which the kernel keeps
        with ending(left, right):
            right.up()
            for _ in range(3):
                left.up()
                await_ping(left, b.address)
                if how == "SIGKILL":
                    left.kill()
                    assert left.sock.exists()
                    continue
                pid = left.status()["pid"]
                assert left.running is not None
                a.run(["kill", str(pid)])
                left.running.result(PATIENCE_S)
                left.running = None
                assert not left.sock.exists()
                assert "fwmark" not in a.run(["ip", "rule"]).stdout


def test_a_second_daemon_and_a_lost_state_are_refused(tmp_path: Path) -> None:
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab)
        with ending(left, right):
            left.up()
            first = left.running
            left.begin()
            second, left.running = left.running, first
            assert second is not None
            with pytest.raises(ConfigError, match="left is running already"):
                second.result(PATIENCE_S)
            left.kill()
            eventually(lambda: not left.answers())
            (tmp_path / "state-left" / "left.state").unlink()
            with pytest.raises(KeyMaterialError, match=r"used before.*wesper keygen"):
                left.up()


def test_a_default_route_through_the_tunnel_spares_its_own_packets(tmp_path: Path) -> None:
    with pair() as lab:
        a, b = lab
        left, right = two_ends(tmp_path, a, b)
        left.set("tunnel", networks=["0.0.0.0/0", "::/0"])
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            await_ping(left, right.inner6)
            assert "dev left" in a.run(["ip", "route", "get", "203.0.113.9"]).stdout
            assert "dev left" in a.run(["ip", "-6", "route", "get", "2001:db8::9"]).stdout
            assert (
                "dev eth0" in a.run(["ip", "route", "get", b.address]).stdout
            )  # the lab's own network is known better
            left.down()
        assert a.run(["ip", "route", "get", "203.0.113.9"], check=False).returncode != 0


@pytest.mark.parametrize("mtu", [0, 1300])
def test_ipv6_inside_a_path_without_room_for_it_is_refused(mtu: int, tmp_path: Path) -> None:
    with pair(mtu=1500 if mtu else 1300) as lab:
        left, _ = two_ends(tmp_path, *lab)
        left.set("tunnel", path_mtu=mtu)
        for begin in (left.up, lambda: left.host.call(lambda: explain.steps(load_file(left.path)))):
            with pytest.raises(
                ConfigError, match=r"left.toml:\d+: interface.addresses\[1\]: fd08::1/64 on an interface"
            ):
                begin()
        left.path.write_text(left.path.read_text().replace(', "fd08::1/64"', ""))
        with pytest.raises(ConfigError, match=r"left.toml:\d+: tunnel\[0\].networks: fd08::2/128 on an interface"):
            left.up()
        left.path.write_text(left.path.read_text().replace(', "fd08::2/128"', ""))
        with ending(left):
            left.up()


def test_as_a_user_types_it(tmp_path: Path) -> None:
    with pair() as lab:
        a, b = lab
        wesper = [sys.executable, "-m", "wesper"]

        def run(host: Host, *words: str, code: int = 0) -> str:
            done = host.run([*wesper, *words], cwd=tmp_path, check=False)
            assert done.returncode == code, done.stderr
            return str(done.stdout + done.stderr)

        run(a, "keygen", "left.toml", "right.toml", "--local", a.address, "--peer", b.address)
        for name in ("left", "right"):
            path = tmp_path / f"{name}.toml"
            path.write_text(
                path.read_text().replace("[interface]", '[interface]\nrun_dir = "run"\nstate_dir = "state"')
            )
        assert (tmp_path / "left.1.out.key").stat().st_mode & 0o777 == 0o600
        assert "1 pair(s) of SAs: fine" in run(a, "check", "left.toml")
        assert "make the interface left" in run(a, "up", "left.toml", "--dry-run")
        would = json.loads(run(a, "up", "left.toml", "--dry-run", "--json"))
        assert (would["schema"], would["dry_run"]) == (1, True)
        assert any("make the interface left" in step for step in would["steps"])
        up = json.loads(run(a, "up", "left.toml", "--json"))
        assert (up["schema"], up["name"]) == (1, "left")
        assert up["pid"] > 0
        assert any("carries packets" in step for step in up["steps"])
        assert "right is up: pid" in run(b, "up", "right.toml")
        left, right = two_ends(tmp_path / "unused", a, b)
        await_ping(left, right.inner)
        assert "nothing has changed" in run(a, "reload", "left.toml")
        assert json.loads(run(a, "reload", "left.toml", "--dry-run", "--json"))["did"] == []
        assert "remove the interface left" in run(a, "down", "left.toml", "--dry-run")
        assert "left-right" in run(a, "status", "--run-dir", str(tmp_path / "run"))
        assert '"schema": 1' in run(a, "status", "left.toml", "--json")
        assert "left is down" in run(a, "down", "left.toml")
        assert "right is down" in run(b, "down", "right", "--run-dir", "run")
        assert "is not running" in run(a, "down", "left.toml", code=4)
        assert INNER["left"][0] not in a.run(["ip", "address"]).stdout


@pytest.mark.parametrize("number", [signal.SIGHUP])
def test_sighup_reads_the_file_again(number: signal.Signals, tmp_path: Path) -> None:
    with pair() as lab:
        a, b = lab
        left, right = two_ends(tmp_path, a, b)
        with ending(left, right):
            left.up()
            left.set("interface", addresses=["10.8.0.1/24", "10.8.7.1/24"])
            a.run(["kill", f"-{int(number)}", str(left.status()["pid"])])
            eventually(lambda: left.told("reloaded"))
            assert "10.8.7.1/24" in a.run(["ip", "address", "show", "left"]).stdout
