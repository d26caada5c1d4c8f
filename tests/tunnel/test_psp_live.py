"""PSP tunnels between two hosts: modes, IP versions, cookies, rotation; what is told of them; a kill at any moment."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import time
from collections import Counter
from ipaddress import ip_address
from pathlib import Path

import pytest

from wesper.cli.tunnel import status as show_status
from wesper.cli.watch import keys, metrics
from wesper.errors import ConfigError
from wesper.keying import load_psp_keys
from wesper.lab import pair
from wesper.pcap import open_capture
from wesper.pcap.psp_opener import PSPOpener
from wesper.protocols import ip
from wesper.psp import GatewayProfile, Replay, ReplayRule, open_engine
from wesper.tunnel.file import load_file
from wesper.tunnel.psp_settings import PSPSettings
from wesper.vectors.ip_packets import ip_packet

from .ends import PATIENCE_S, Side, Stream, add_pair, await_ping, drop_first_pair, ending, eventually, ping, two_ends
from .test_live import ENGINES, network_of, tcp
from .test_watch import start

pytestmark = pytest.mark.usefixtures("namespaces")
COOKIE = bytes.fromhex("00000000cafe0007")
LOOKS = {
    "plain": PSPSettings(),
    "vni": PSPSettings(1, 2, COOKIE),
    "gmac": PSPSettings(2),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_every_way_to_carry(mode: str, version: int, look: str, engine: str, tmp_path: Path) -> None:
    with pair() as lab:
        a, b = lab
        before = network_of(a)
        left, right = two_ends(tmp_path, a, b, engine, mode=mode, version=version, psp=LOOKS[look])
        with ending(left, right):
            left.up()
            right.up()
            targets = [right.inner, right.inner6] if mode == "tunnel" else [b.interfaces[0].address(version)]
            await_ping(left, targets[0])
            for target in targets:
                assert ping(left, target, 3) == 3
                assert ping(left, target, 3, octets=1200) == 3
                assert tcp(a, b, target, 1 << 18) == 1 << 18
            found = left.pair()
            eventually(lambda: left.pair()["proven"])
            assert found["out"]["packets"] > 12
            assert found["in"]["packets"] > 12
            status = left.status()
            assert (status["protocol"], status["tunnels"][0]["suite"]) == ("psp", LOOKS[look].suite)
            assert status["loop"] == status["engine"] == engine
            assert status["counters"]["tx_packets"] >= found["out"]["packets"]
            assert not set(status["drops"]) - {"PSP_EMPTY"}
            left.down()
            right.down()
        assert network_of(a) == before


@pytest.mark.parametrize("engine", ENGINES)
def test_device_keys_rotate_without_losing_a_packet(engine: str, tmp_path: Path) -> None:
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, engine, psp=True)
        with ending(left, right), contextlib.ExitStack() as stack:
            left.up()
            right.up()
            await_ping(left, right.inner)
            stream = stack.enter_context(Stream(left, right))
            slots = []
            for first, second in ((left, right), (right, left), (left, right)):
                slots.append(left.pair(-1)["in"]["spi"] >> 31)
                add_pair(left, right)
                with pytest.raises(ConfigError, match="has associations still"):
                    add_pair(left, right)
                first.ask("reload")
                stream.run(0.3)
                second.ask("reload")
                eventually(lambda: left.pair(-1)["sending"] and right.pair(-1)["sending"])
                for side in (first, second):
                    drop_first_pair(side)
                    side.ask("reload")
                    stream.run(0.2)
            assert slots == [0, 1, 0]
            assert stream.lost() == []
            assert stream.twice == 0
            assert {each["event"] for each in left.ask("events")["events"]} >= {"pair_proven", "pair_sending"}


def _to(side: Side, frame: bytes) -> bool:
    """Whether a frame is a PSP packet of the association that leads to a side."""
    datagram = ip.parse(frame[14:])
    if datagram is None or datagram.upper != 17:
        return False
    head = datagram.packet[datagram.upper_at :]
    spi = load_file(side.path).tunnels[0].pairs[0].spi_in
    return head[2:4] == (1000).to_bytes(2, "big") and head[12:16] == spi.to_bytes(4, "big")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bitmap_drops_what_is_replayed_on_the_wire_also_after_a_restart(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pair(offloads=False) as lab:
        a, b = lab
        rule = ReplayRule(Replay.EXACT, window=64)
        left, right = two_ends(tmp_path, a, b, engine, psp=PSPSettings(replay=rule))
        right.set("tunnel", psp={"replay": "bitmap", "window": 64})
        with ending(left, right), a.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
            wire.bind((a.interfaces[0].name, 3))
            right.up()  # before anything is sent: what did not arrive would be fresh
            left.up()
            await_ping(left, right.inner)
            wire.setblocking(False)
            assert ping(left, right.inner, 20) == 20
            frames = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    frames.append(wire.recv(2048))
            frames = [frame for frame in frames if _to(right, frame)]
            assert len(frames) >= 20
            left.kill()  # else it sends more in between

            def replay() -> dict[str, int]:
                """Send them all again, until as many are counted as came twice; return what else there was."""
                for frame in frames:
                    wire.send(frame)

                def replays() -> int:
                    return int(right.pair()["in"]["replay"])

                eventually(lambda: replays() >= len(frames))
                assert replays() == len(frames)
                return dict(right.status()["drops"])

            assert right.status()["tunnels"][0]["replay"] == {"rule": "bitmap", "window": 64}
            before = right.pair()["in"]["packets"]
            dropped = replay()
            assert right.pair()["in"]["packets"] == before
            # Dummies among them are told by their own name, as they were when they came first.
            assert dropped["PSP_REPLAY"] >= 20
            assert right.status()["counters"]["rx_replay"] == dropped["PSP_REPLAY"]
            assert show_status("right", run_dir=right.sock.parent) == 0
            told = capsys.readouterr().out
            assert "test: replay rule bitmap, window 64" in told
            assert f"psp_replay {dropped['PSP_REPLAY']}" in told
            right.down()
            right.up()
            assert replay()["PSP_REPLAY"] >= 20
            assert right.pair()["in"]["packets"] == 0
            eventually(lambda: right.status()["uptime_seconds"] > 1.5)  # tops are saved once a second
            right.kill()
            right.up()
            assert replay()["PSP_REPLAY"] >= 20
            assert right.pair()["in"]["packets"] == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_time_window_drops_what_is_older_than_its_margin(engine: str, tmp_path: Path) -> None:
    with pair(offloads=False) as lab:
        a, b = lab
        rule = ReplayRule(Replay.TIME_WINDOW, margin_ns=20_000_000)
        left, right = two_ends(tmp_path, a, b, engine, psp=PSPSettings(replay=rule))
        right.set("tunnel", psp={"replay": "time", "margin_ms": 20})
        near, far = (ip_address(each.interfaces[0].address(4)) for each in lab)
        settings = load_file(left.path).tunnels[0]
        profile = settings.profile(near, far, None, 1500)
        assert isinstance(profile, GatewayProfile)
        sender = open_engine("reference")
        inside = ip_packet(ip_address(left.inner), ip_address(right.inner), bytes(8), protocol=253)

        def send(iv: int) -> None:
            """Send as a NIC would, whose IVs are a clock."""
            made = sender.encapsulate(profile.look, inside, settings.pairs[0].spi_out, settings.pairs[0].row_out, iv)
            assert isinstance(made, bytes)
            socket_a.sendto(made[28:], (str(far), 1000))

        with ending(right), a.socket() as socket_a:
            right.up()
            now, ms = time.time_ns(), 1_000_000
            # A copy within the margin passes, as the rule has it; forged packets and old ones move nothing.
            for iv in (now, now - 19 * ms, now, now - 21 * ms, now + 5 * ms, now - 16 * ms, now):
                send(iv)
            eventually(lambda: right.pair()["in"]["packets"] + right.pair()["in"]["replay"] == 7)
            assert (right.pair()["in"]["packets"], right.pair()["in"]["replay"]) == (5, 2)
            assert right.status()["drops"]["PSP_REPLAY"] == 2
            right.down()
            right.up()  # its newest IV is kept
            send(now - 16 * ms)
            send(now - 14 * ms)
            eventually(lambda: right.pair()["in"]["packets"] == right.pair()["in"]["replay"] == 1)


def test_what_cannot_change_is_refused(tmp_path: Path) -> None:
    with pair() as lab:
        left, _ = two_ends(tmp_path, *lab, psp=True)
        with ending(left):
            left.up()
            for key, value in (("psp", {"version": 0, "crypt_offset": 3}), ("mode", "transport")):
                before = left.path.read_text()
                left.set("tunnel", **{key: value})
                if key == "mode":
                    lines = left.path.read_text().splitlines(keepends=True)
                    left.path.write_text("".join(line for line in lines if not line.startswith("networks")))
                with pytest.raises(Exception, match="can't change in a running tunnel"):
                    left.ask("reload")
                left.path.write_text(before)


class Wire:
    """All PSP packets that leave a host's interface, counted by SPI and IV."""

    def __init__(self, sock: socket.socket, interface: str) -> None:
        self._sock = sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        sock.bind((interface, 3))
        sock.setblocking(False)
        self.seen: Counter[bytes] = Counter()
        self.ports: Counter[tuple[bytes, int]] = Counter()

    def take(self) -> None:
        """Count what has passed."""
        while True:
            try:
                frame = self._sock.recv(2048)
            except BlockingIOError:
                return
            datagram = ip.parse(frame[14:])
            if datagram is None or datagram.upper != 17:
                continue
            source, destination = struct.unpack_from(">HH", datagram.packet, datagram.upper_at)
            if destination == 1000:
                self.seen[datagram.packet[datagram.upper_at + 12 : datagram.upper_at + 24]] += 1
                self.ports[datagram.header.source, source] += 1

    def lost(self) -> int:
        """Return how many frames it missed."""
        return int(struct.unpack("II", self._sock.getsockopt(263, 6, 8))[1])  # PACKET_STATISTICS


@pytest.mark.parametrize("engine", ENGINES)
def test_no_iv_comes_twice_though_the_daemon_is_killed(engine: str, tmp_path: Path) -> None:
    chance, kills = random.Random(f"kill psp {engine}"), 30
    with pair(offloads=False) as lab:
        a, b = lab
        left, right = two_ends(tmp_path, a, b, engine, psp=True)
        with (
            ending(left, right),
            a.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sniff,
            a.socket() as flood,
        ):
            wire = Wire(sniff, a.interfaces[0].name)
            right.up()
            flood.setblocking(False)
            for number in range(kills):
                left.begin()
                if number % 4:  # else it is killed while it starts
                    await_ping(left, right.inner)
                    for _ in range(chance.randrange(40)):
                        with contextlib.suppress(OSError):
                            flood.sendto(b"more IVs", (right.inner, 9))
                time.sleep(chance.random() * (0.01 if number % 4 else 0.1))
                left.kill()
                wire.take()
            left.up()
            await_ping(left, right.inner)
            wire.take()
            assert wire.lost() == 0
    assert len(wire.seen) > 2 * kills
    assert [key for key, count in wire.seen.items() if count > 1] == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_flow_keeps_its_source_port_and_flows_are_spread(engine: str, tmp_path: Path) -> None:
    with pair(offloads=False) as lab:
        a, b = lab
        left, right = two_ends(tmp_path, a, b, engine, psp=PSPSettings(source_ports=tuple(range(50000, 50016))))
        left.set("tunnel", psp={"source_ports": "50000-50015"})
        with ending(left, right), a.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sniff:
            left.up()
            right.up()
            await_ping(left, right.inner)
            own = socket.inet_aton(a.interfaces[0].address(4))
            wire = Wire(sniff, a.interfaces[0].name)
            with a.socket() as one:
                one.bind((left.inner, 0))
                for _ in range(20):
                    one.sendto(b"one flow", (right.inner, 9))
            eventually(lambda: (wire.take(), any(count >= 20 for count in wire.ports.values()))[1])
            for _ in range(64):
                with a.socket() as other:
                    other.sendto(b"another", (right.inner, 9))

            def ports() -> set[int]:
                wire.take()
                return {port for source, port in wire.ports if source == own}

            eventually(lambda: len(ports()) > 8)
            assert ports() <= set(range(50000, 50016))


def test_two_files_carry_esp_and_psp_beside_each_other(tmp_path: Path) -> None:
    with pair() as lab:
        sides = two_ends(tmp_path / "esp", *lab, "native")
        inner = {"left": ("10.9.0.1/24",), "right": ("10.9.0.2/24",)}
        others = two_ends(
            tmp_path / "psp", *lab, "native", psp=PSPSettings(replay=ReplayRule(Replay.EXACT)), inner=inner
        )
        for side in others:
            side.set("interface", name=f"{side.name}-psp")
            side.name = f"{side.name}-psp"
        with ending(*sides, *others):
            for side in (*sides, *others):
                side.up()
            await_ping(sides[0], sides[1].inner)
            await_ping(others[0], "10.9.0.2")
            before = sides[0].pair()["out"]["packets"], others[0].pair()["out"]["packets"]
            assert ping(sides[0], sides[1].inner, 5) == 5
            assert ping(others[0], "10.9.0.2", 7) == 7
            after = sides[0].pair()["out"]["packets"], others[0].pair()["out"]["packets"]
            assert (after[0] - before[0] >= 5, after[1] - before[1] >= 7) == (True, True)
            assert [each.status()["protocol"] for each in (sides[0], others[0])] == ["esp", "psp"]
            sides[0].down()
            assert ping(others[0], "10.9.0.2", 3) == 3


def test_what_those_who_look_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, psp=PSPSettings(cookie=COOKIE))
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            run = left.path.parent / "run"
            found = tmp_path / "psp.toml"
            assert keys("left", output=str(found), run_dir=run) == 0
            assert found.stat().st_mode & 0o777 == 0o600
            with pytest.raises(ConfigError, match="Wireshark"):
                keys("left", output=str(tmp_path / "esp_sa"), run_dir=run)
            by_way = {each.direction.value: each for each in load_psp_keys(found).associations}
            assert by_way["out"].spi == left.pair()["out"]["spi"]
            assert metrics("left", run_dir=run) == 0
            told = capsys.readouterr().out
            assert 'wesper_psp_total{name="left",counter="rx_auth_fail"} 0' in told
            assert 'reason="PSP_AUTH"' in told
            assert 'reason="REPLAY"' not in told


@pytest.mark.parametrize("engine", ENGINES)
def test_packets_are_traced_captured_and_opened_with_the_keys(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, engine, psp=PSPSettings(cookie=COOKIE))
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            path, found = tmp_path / "seen.pcapng", tmp_path / "psp.toml"
            run = left.sock.parent
            capturing = start(left, "capture", "left", "-o", str(path), "--count", "24")
            assert ping(left, right.inner, 6) == 6
            capturing.communicate(timeout=PATIENCE_S)
            assert keys("left", output=str(found), run_dir=run) == 0
            opener = PSPOpener(load_psp_keys(found))
            with open_capture(path) as seen:
                records = [record.data for record in seen]
            outer = [each for each in records if opener.concerns(each)]
            opened = {each.packet for each in opener.open(outer) if each.reason is None}
            assert len(outer) >= 10
            assert len(opened & set(records)) >= 10
            tracing = start(left, "trace", "--live", "left", "--json", "--count", "8")
            assert ping(left, right.inner, 6) == 6
            told = json.loads(tracing.communicate(timeout=PATIENCE_S)[0])["packets"]
            stages = {step["stage"] for each in told for step in each["steps"]}
            assert {"policy", "icv", "association"} <= stages


def test_a_packet_without_a_udp_checksum_is_taken(tmp_path: Path) -> None:
    for version, level, option in ((4, socket.SOL_SOCKET, 11), (6, socket.IPPROTO_UDP, 101)):  # UDP_NO_CHECK6_TX
        with pair() as lab:
            a, b = lab
            left, right = two_ends(tmp_path / str(version), a, b, psp=True, version=version)
            with ending(left), a.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as bare:
                bare.setsockopt(level, option, 1)
                right.up()
                with ending(right):
                    bare.sendto(b"no PSP", (b.interfaces[0].address(version), 1000))
                    eventually(lambda: right.status()["drops"].get("PSP_TRUNCATED"))  # noqa: B023
