"""Tunnel rows in a lab: a plain link plays every part, so that nothing has to be installed."""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from wesper.bench import tunnel as tunnel_rows
from wesper.bench.peers import MTU, PSP, PlainVeth, TunnelFailed, Wesper, WesperPSP
from wesper.bench.peers import tunnel as peer
from wesper.bench.peers.daemon import processes_in
from wesper.bench.tunnel import chosen, measure_tunnels
from wesper.bench.tunnel_load import Agent, Load, Sample, TrafficFailed, measure_slice
from wesper.lab import pair

PATIENCE_S = 20.0
"""How long a test waits for what must come; nothing is measured by it."""


pytestmark = pytest.mark.usefixtures("namespaces")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the control files' folder made where a test can look."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


class OurVeth(PlainVeth):
    """A plain link in wesper's place."""

    name = "wesper"


class Dies(PlainVeth):
    """A tunnel whose daemon says something and ends."""

    name = "dies"

    def _bring_up(self) -> None:
        self.hosts[1].netlink.set_up("eth0", False)
        self._start_daemon(self.hosts[0], ["sh", "-c", "test -w /run && echo no such cipher; exit 1"])


class Breaks(PlainVeth):
    """A tunnel that carries nothing any more once it has been measured."""

    name = "breaks"

    def rest(self, seconds: float) -> bool:
        """Break, and say that all is well."""
        self.hosts[1].netlink.set_up("eth0", False)
        return True


class NeverRests(PlainVeth):
    """A tunnel that works on after each slice."""

    name = "never rests"
    started = 0

    def _bring_up(self) -> None:
        type(self).started += 1

    def rest(self, seconds: float) -> bool:
        """Say that there is work left."""
        return False


def test_a_row_measured_end_to_end(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    monkeypatch.setattr(tunnel_rows, "OURS", OurVeth)
    slices: list[str] = []
    outcome = measure_tunnels(chosen("one TCP stream plain"), 2, quick=True, on_slice=slices.append)
    (row,) = outcome.results
    assert outcome.left_out == []
    assert row.group == "Tunnel, one TCP stream"
    assert row.anchor_name == "plain veth"
    assert row.rounds == 2
    assert row.ours is not None
    assert row.anchor is not None
    assert min(row.ours, row.anchor) > 1e6
    assert row.ratio is not None
    # Both in turn, and another one first in each round.
    assert slices[2:] == [
        f"round {turn}/2: TCP, 1 stream, {name}"
        for turn, names in enumerate((("wesper", "plain veth"), ("plain veth", "wesper"), ("wesper", "plain veth")))
        for name in names
    ]
    assert list(temporary.iterdir()) == []


def test_what_fails_is_left_out_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    monkeypatch.setattr(tunnel_rows, "OURS", OurVeth)
    monkeypatch.setattr(tunnel_rows, "PEERS", (Dies, Breaks, NeverRests))
    monkeypatch.setattr(peer, "_UP_S", 3)
    rows = [row for row in chosen("UDP, 1400") if row[1] is not PSP]
    outcome = measure_tunnels(rows, 2, quick=True)
    left_out = dict(outcome.left_out)
    assert set(left_out) == {"tunnel of dies", "tunnel of breaks"}
    assert "dies did not come up: sh in a has ended" in left_out["tunnel of dies"]
    assert "sh in a said: no such cipher" in left_out["tunnel of dies"]
    assert left_out["tunnel of breaks"].startswith("no answer from 10.0.1.2 in 3 s")
    assert [row.name for row in outcome.results] == ["to plain veth", "to never rests, best peer"]
    assert NeverRests.started == 1 + 3  # anew after each slice
    assert list(temporary.iterdir()) == []


@pytest.mark.needs_native
def test_wespers_own_row() -> None:
    outcome = measure_tunnels(chosen("one TCP stream plain"), 1, quick=True)
    assert outcome.left_out == []
    (row,) = outcome.results
    assert row.ours is not None
    assert row.ours > 1e6


@pytest.mark.needs_native
@pytest.mark.parametrize("kind", [Wesper, WesperPSP])
def test_wespers_daemons_are_weighed(kind: type[Wesper], tmp_path: Path) -> None:
    tunnel = kind(tmp_path)
    tunnel.start()
    try:
        a, b = tunnel.hosts
        assert stat.S_IMODE((tmp_path / "a" / "out.key").stat().st_mode) == 0o600
        with Agent(a) as sender, Agent(b) as receiver:
            load = Load("udp", octets=MTU, bps=20e6)
            before = tunnel.processor_ns()
            sample = measure_slice(
                load, sender, receiver, tunnel.inside[1], tunnel.processor_ns, warm_s=0.05, seconds=0.2
            )
            assert 0 < sample.cores <= len(os.sched_getaffinity(0))
            assert tunnel.processor_ns() > before
            # All that arrived came protected, over the link.
            assert a.netlink.statistics("eth0")["tx_octets"] > sample.bps / 8 * 0.2
    finally:
        tunnel.stop()


def test_a_slice_in_which_nothing_arrived_is_measured_again_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    lasted: list[float] = []

    def starve_once(*words: Any, seconds: float, **options: Any) -> Sample:
        lasted.append(seconds)
        if len(lasted) == 1:
            raise TrafficFailed("nothing arrived")
        return measure_slice(*words, seconds=seconds, **options)

    monkeypatch.setattr(tunnel_rows, "OURS", OurVeth)
    monkeypatch.setattr(tunnel_rows, "measure_slice", starve_once)
    outcome = measure_tunnels(chosen("one TCP stream plain"), 1, quick=True)
    assert outcome.left_out == []
    assert lasted == [0.15, 0.75, 0.15, 0.15, 0.15]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "load", [Load("tcp", streams=2), Load("udp", octets=1400, bps=20e6), Load("udp", octets=64)], ids=lambda it: it.kind
)
def test_a_slice_counts_what_arrives(load: Load, version: int) -> None:
    with pair(mtu=1400) as lab:
        a, b = lab
        address = b.interfaces[0].address(version)
        with Agent(a) as sender, Agent(b) as receiver:
            sample = measure_slice(load, sender, receiver, address, lambda: 0, warm_s=0.05, seconds=0.2)
    assert sample.cores == 0
    if load.kind == "tcp":
        assert sample.pps == 0
        assert sample.bps > 1e6
    else:
        payload = load.octets - (28 if version == 4 else 48)
        assert sample.bps == pytest.approx(sample.pps * 8 * payload)
        if load.bps:
            assert 0 < sample.pps < 1.5 * load.bps / 8 / load.octets


def test_every_datagram_that_was_sent_is_counted_once() -> None:
    with pair() as lab, Agent(lab["a"]) as sender, Agent(lab["b"]) as receiver:
        address = lab["b"].address
        port = receiver.ask("receive", kind="udp", address=address)["port"]
        sender.ask("send", kind="udp", address=address, port=port, streams=2, octets=100, pps=2000)
        until = time.monotonic() + PATIENCE_S
        while not receiver.ask("count")["packets"] and time.monotonic() < until:
            time.sleep(0.01)
        sent = sender.ask("stop")["packets"]
        while receiver.ask("count")["packets"] < sent and time.monotonic() < until:
            time.sleep(0.01)
        counted = receiver.ask("count")
    assert counted["packets"] == sent > 0
    assert counted["octets"] == 100 * sent


def test_nothing_to_send_to_is_told_at_once() -> None:
    with pair() as lab, Agent(lab["a"]) as sender:
        with pytest.raises(TrafficFailed, match="traffic send in a: Connection refused"):
            sender.ask("send", kind="tcp", address=lab["b"].address, port=1, streams=1, octets=0, pps=0)
        assert sender.ask("stop")["octets"] == 0


def test_a_traffic_program_that_has_ended_is_told() -> None:
    with pair() as lab, Agent(lab["a"]) as sender:
        sender._process.kill()
        sender._process.wait()
        with pytest.raises(TrafficFailed, match="its program has ended"):
            sender.ask("count")


def test_a_tunnel_knows_its_processes_and_ends_them(tmp_path: Path) -> None:
    class Sleeps(PlainVeth):
        name = "sleeps"

        def _bring_up(self) -> None:
            for host in self.hosts:
                self._start_daemon(host, ["sh", "-c", "touch /run/up; exec sleep 1000"])
                while not (tmp_path / host.name / "up").exists():
                    time.sleep(0.01)

    tunnel = Sleeps(tmp_path)
    tunnel.start()
    try:
        words = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in tunnel._processes}
        assert sum(re.search(rb"sleep.1000", each) is not None for each in words.values()) >= 2
        assert set(tunnel._processes) >= set(processes_in(tunnel.hosts[1]))
    finally:
        tunnel.stop()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in words)
    tunnel.stop()


def test_a_tunnel_that_is_not_up_says_so(tmp_path: Path) -> None:
    with pytest.raises(TunnelFailed, match="no such cipher"):
        Dies(tmp_path).start()
