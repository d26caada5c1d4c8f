"""Looking at a running tunnel: metrics, capture, trace, top, keys."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wesper.cli import app
from wesper.errors import ConfigError
from wesper.keying import load_keys
from wesper.lab import pair
from wesper.pcap import open_capture
from wesper.pcap.opener import Opener
from wesper.tunnel.export import sas_of_file
from wesper.tunnel.file import load_file
from wesper.verdict import DropReason

from .ends import Side, add_pair, await_ping, ending, eventually, ping, two_ends

pytestmark = pytest.mark.usefixtures("namespaces")
LISTEN = "127.0.0.1:9464"
"""Of a host of a lab, where nobody else listens."""


@pytest.fixture(params=["reference", pytest.param("native", marks=pytest.mark.needs_native)])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    """Return two ends that are up and have heard each other; the left one tells metrics."""
    with pair() as lab:
        left, right = two_ends(tmp_path, *lab, request.param)
        left.path.write_text(left.path.read_text() + f'\n[metrics]\nlisten = "{LISTEN}"\n')
        with ending(left, right):
            left.up()
            right.up()
            await_ping(left, right.inner)
            yield left, right


def run(side: Side, command: str, *words: str) -> Any:
    """Run a command that looks at a side's daemon, and return its exit code."""
    arguments = [command, side.name, "--run-dir", str(side.sock.parent), *words]
    return app(arguments, exit_on_error=False, result_action="return_value")


def start(side: Side, command: str, *words: str) -> subprocess.Popen[str]:
    """Start such a command and return when the daemon's tap is open."""
    options = ["--run-dir", str(side.sock.parent), *words]
    process = subprocess.Popen(
        [sys.executable, "-m", "wesper", command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    eventually(lambda: side.status()["watchers"])
    return process


def value(text: str, metric: str, /, **labels: str) -> float:
    """Return the one sample of a metric that has these labels."""
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    (found,) = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == metric and labels.items() <= sample.labels.items()
    ]
    return float(found)


@pytest.mark.needs_module("prometheus_client", package="prometheus-client")
def test_metrics_over_http_and_from_the_command_line(
    ends: tuple[Side, Side], capsys: pytest.CaptureFixture[str]
) -> None:
    left, right = ends
    assert ping(left, right.inner, 5) == 5

    def scrape() -> str:
        with urllib.request.urlopen(f"http://{LISTEN}/metrics", timeout=10) as response:
            text: str = response.read().decode()
            return text

    scraped = left.host.call(scrape)
    assert value(scraped, "wesper_packets_total", side="device", direction="out") >= 5
    assert value(scraped, "wesper_sa_packets_total", direction="in", tunnel="test") >= 5
    assert value(scraped, "wesper_drops_total", reason="REPLAY") == 0
    assert value(scraped, "wesper_daemon_info", name="left", interface="left") == 1
    capsys.readouterr()
    assert run(left, "metrics") == 0
    printed = capsys.readouterr().out
    assert printed.endswith("# EOF\n")
    assert value(printed, "wesper_events_total", event="pair_proven") == 1


def test_capture_has_both_sides_of_what_passes_and_keys_open_it(
    ends: tuple[Side, Side], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right = ends
    path, keys, unread = tmp_path / "seen.pcapng", tmp_path / "keys.toml", tmp_path / "esp_sa"
    with start(left, "capture", left.name, "-o", str(path), "--seconds", "3") as capturing:
        assert ping(left, right.inner, 5) == 5
        assert capturing.wait(30) == 0
    with open_capture(path) as capture:
        seen = list(capture)
        assert [each.name for each in capture.interfaces] == ["left/inner", "left/outer"]
    way = {1: "in", 2: "out"}
    found: dict[tuple[int, str], list[bytes]] = {}
    for each in seen:
        found.setdefault((each.interface, way[dict(each.options)[2][0]]), []).append(each.data)
    echoes = [packet for packet in found[0, "out"] if packet[9] == 1]
    assert len(echoes) == len([packet for packet in found[0, "in"] if packet[9] == 1]) == 5
    assert run(left, "keys", "-o", str(keys)) == 0
    assert keys.stat().st_mode & 0o077 == 0
    opener = Opener(load_keys(keys))
    opened = [each.packet for each in opener.open(found[1, "out"]) if each.reason is not DropReason.DUMMY]
    assert [packet for packet in opened if packet[9:10] == b"\1"] == echoes
    capsys.readouterr()
    outer = len(found[1, "out"]) + len(found[1, "in"])
    for way, number in (((), outer), (("--outbound",), len(seen) - outer)):
        app(
            ["trace", str(path), "--keys", str(keys), "--json", *way], exit_on_error=False, result_action="return_value"
        )
        assert len(json.loads(capsys.readouterr().out)["packets"]) == number
    assert run(left, "keys", "-o", str(unread)) == 0
    assert unread.read_text().count("AES-GCM with 16 octet ICV") == 2


def test_keys_of_a_running_tunnel_are_those_of_its_file(ends: tuple[Side, Side], tmp_path: Path) -> None:
    left, _ = ends
    keys = tmp_path / "keys.toml"
    run(left, "keys", "-o", str(keys))
    running = {(sa.spi, sa.direction, sa.key, sa.salt, sa.local, sa.remote) for sa in load_keys(keys)}
    assert running == {
        (sa.spi, sa.direction, sa.key, sa.salt, sa.local, sa.remote) for sa in sas_of_file(load_file(left.path))
    }


def test_trace_follows_what_passes_and_names_what_is_dropped(ends: tuple[Side, Side], tmp_path: Path) -> None:
    left, right = ends
    forged = (b"\0\0\x10\0" + bytes(40), b"\0\0\x10\0" + bytes(2), b"\xff\xff\xff\xff" + bytes(60))
    options = ("--json", "--drops", "--count", "3", "--seconds", "20")
    with start(right, "trace", "--live", right.name, *options) as tracing, left.host.socket() as socket:
        for payload in forged:
            socket.sendto(payload, (right.host.address, 4500))
        out, err = tracing.communicate(timeout=30)
    assert tracing.returncode == 1, err
    printed = json.loads(out)
    assert printed["schema"] == 1
    assert [packet["reason"] for packet in printed["packets"]] == ["NO_SA", "TRUNCATED_HEADER", "NO_SA"]
    last = printed["packets"][-1]
    assert (last["direction"], last["dropped_at"], last["counter"]) == ("in", "sa", "XfrmInNoStates")
    assert any("SPI 0xffffffff" in step["text"] for step in last["steps"])


def test_a_dummy_is_no_drop_for_a_trace(ends: tuple[Side, Side], capsys: pytest.CaptureFixture[str]) -> None:
    left, right = ends
    with start(right, "trace", "--live", right.name, "--json", "--count", "1", "--seconds", "20") as tracing:
        add_pair(left, right)
        for side in (right, left):
            side.ask("reload")  # a dummy tries the new pair
        out, err = tracing.communicate(timeout=30)
    assert json.loads(out)["packets"][0]["reason"] == "DUMMY"
    assert tracing.returncode == 0, err
    capsys.readouterr()
    assert run(right, "status") == 0
    shown = capsys.readouterr().out
    assert "no loss: dummy" in shown
    assert "dropped:" not in shown


def test_top_shows_rates_and_drops(ends: tuple[Side, Side], capsys: pytest.CaptureFixture[str]) -> None:
    left, right = ends
    assert ping(left, right.inner, 3) == 3
    assert run(left, "top", "--count", "2", "--every", "0.1") == 0
    shown = capsys.readouterr().out
    assert shown.count("out, from this host") == 2
    assert f"{left.pair()['out']['spi']:#010x}" in shown
    assert run(left, "top", "--count", "2", "--every", "0.1", "--json") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["seconds"] is None
    assert second["seconds"] >= 0.1
    assert second["sas"][0]["spi"] == left.pair()["out"]["spi"]
    with pytest.raises(ConfigError, match="every"):
        run(left, "top", "--every", "0")


def test_a_tap_closes_with_whoever_opened_it(ends: tuple[Side, Side], tmp_path: Path) -> None:
    left, right = ends
    with start(left, "capture", left.name, "-o", str(tmp_path / "seen.pcapng")) as capturing:
        capturing.kill()
    eventually(lambda: not left.status()["watchers"])
    assert ping(left, right.inner, 2) == 2


def test_a_wrong_place_for_metrics_is_told_with_its_line(tmp_path: Path) -> None:
    with pair() as lab:
        left, _ = two_ends(tmp_path, *lab)
    left.path.write_text(left.path.read_text() + '\n[metrics]\nlisten = "localhost:9464"\n')
    with pytest.raises(ConfigError, match=r"left\.toml:\d+: metrics\.listen: 'localhost:9464' is no place to listen"):
        load_file(left.path)


def test_trace_names_what_is_dropped_on_its_way_out_too(ends: tuple[Side, Side], tmp_path: Path) -> None:
    left, right = ends
    with start(left, "trace", "--live", left.name, "--json", "--drops", "--count", "2", "--seconds", "20") as tracing:
        # No selector of the tunnel has such an address; and a packet larger than the interface's MTU may not be cut.
        left.host.run(["ip", "route", "add", "10.9.0.0/24", "dev", left.name])
        with left.host.socket() as socket:
            socket.sendto(b"to nobody", ("10.9.0.1", 9))
            left.host.netlink.set_mtu(left.name, 9000)
            socket.setsockopt(0, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
            socket.sendto(bytes(3000), (right.inner, 9))
        out, err = tracing.communicate(timeout=30)
    assert tracing.returncode == 1, err
    found = json.loads(out)["packets"]
    assert [(each["direction"], each["reason"]) for each in found] == [("out", "OUT_DISCARD"), ("out", "OUT_TOO_BIG")]
    assert [each["dropped_at"] for each in found] == ["policy", "size"]
