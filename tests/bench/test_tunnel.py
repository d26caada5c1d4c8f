"""Rows of tunnels: which there are, and what becomes of slices, without any tunnel."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from wesper.bench.machine import Load as Moment
from wesper.bench.machine import between, describe
from wesper.bench.measure import Result
from wesper.bench.peers import PEERS, PSP, OpenVPN, PlainVeth, Tunnel, TunnelFailed, WireGuardGo
from wesper.bench.peers import tunnel as tunnel_module
from wesper.bench.peers.daemon import processor_ns
from wesper.bench.peers.wireguard_go import configure
from wesper.bench.report import Report
from wesper.bench.tunnel import FIGURES, NOTES, Figure, chosen, compare
from wesper.bench.tunnel_load import Load, Sample
from wesper.errors import UnsupportedError

LOAD = Load("tcp")
FIGURE = Figure("streams", "bit/s", LOAD, lambda it: it.bps, to_plain=0.36, to_best=10)
COST = Figure("cost", "cores a Gbit/s", LOAD, lambda it: it.cores_per_gbps, to_best=0.5, at_most=True, of_daemons=True)
PEER_NAMES = [kind.name for kind in PEERS]


def samples(**rates: list[float]) -> dict[Load, dict[str, list[Sample]]]:
    """Return slices of these rates in bit/s, each at the cost of one core."""
    named = {name.replace("_", " "): each for name, each in rates.items()}
    return {LOAD: {name: [Sample(bps, 0.0, 1.0) for bps in each] for name, each in named.items()}}


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    taken = samples(wesper=[10, 20, 30, 40, 50], plain_veth=[20, 20, 20, 20, 200])
    (row,) = compare(taken, {FIGURE: ["plain veth"]}, "wesper")
    # Of 0.5, 1, 1.5, 2, 0.25; not the ratio of the medians, which is 1.5.
    assert (row.ratio, row.low, row.high) == (1.0, 0.25, 2.0)
    assert (row.ours, row.anchor, row.rounds, row.goal, row.met) == (30, 20, 5, 0.36, True)
    assert row.anchor_name == "plain veth"


def test_the_goal_of_the_peers_is_for_the_best_of_them_alone() -> None:
    taken = samples(wesper=[9, 9, 9], openvpn=[1, 1, 1], strongswan=[3, 2, 2], plain_veth=[90, 90, 90])
    rows = compare(taken, {FIGURE: ["plain veth", "wireguard-go", "strongswan", "openvpn"]}, "wesper")
    assert [(row.name, row.goal, row.met) for row in rows] == [
        ("to plain veth", 0.36, False),
        ("to strongswan, best peer", 10, False),
        ("to openvpn", None, None),
    ]
    assert [row.ratio for row in rows] == [0.1, 4.5, 9.0]


def test_of_costs_the_best_peer_has_the_lowest() -> None:
    taken = samples(wesper=[4e9], openvpn=[2e9], strongswan=[1e9])
    rows = compare(taken, {COST: ["strongswan", "openvpn"]}, "wesper")
    assert [row.name for row in rows] == ["to openvpn, best peer", "to strongswan"]
    assert (rows[0].ours, rows[0].anchor, rows[0].ratio, rows[0].met) == (0.25, 0.5, 0.5, True)


def test_without_wesper_a_row_shows_the_others() -> None:
    taken = samples(openvpn=[1, 2, 3])
    (row,) = compare(taken, {FIGURE: ["openvpn"]}, "wesper")
    assert (row.ours, row.anchor, row.ratio, row.goal, row.met) == (None, 2, None, None, None)
    report = Report((row,), describe({}), between(Moment.now(), Moment.now()), (), True, NOTES)
    assert report.as_json()["rows"][0]["ours"] is None
    assert "| Tunnel, streams: to openvpn, best peer |  | 2 |" in report.as_markdown()


def test_without_anyone_else_a_row_shows_wesper() -> None:
    (row,) = compare(samples(wesper=[1, 2, 3], plain_veth=[9, 9, 9]), {FIGURE: ["openvpn"]}, "wesper")
    assert (row.ours, row.anchor, row.ratio, row.met, row.rounds) == (2, None, None, None, 3)
    assert row.name == "by itself, no peer here"


def test_notes_of_fairness_stand_under_the_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    result = Result("Tunnel, x", "to openvpn, best peer", "bit/s", "openvpn", 3e9, 4e8, 7.5, 7.0, 8.0, 10, False, 5)
    report = Report((result,), describe({}), between(Moment.now(), Moment.now()), (("a", "b"),), True, NOTES)
    report.print(Console(width=1000))
    shown = capsys.readouterr().out
    assert shown.index("7.50") < shown.index("super-packets") < shown.index("left out: a: b")
    assert report.as_json()["notes"] == list(NOTES)
    assert "super-packets" in report.as_markdown()


def test_rows_are_chosen_by_their_text() -> None:
    assert len(chosen("")) == 6 * len((*PEERS, PSP)) + 4  # the plain link has no daemons whose cost could be told
    assert {figure.name for figure, _ in chosen("TCP stream")} == {figure.name for figure in FIGURES[:3]}
    assert chosen("Tunnel, one TCP stream plain") == [(FIGURES[0], PlainVeth)]
    assert {kind for _, kind in chosen("wireguard")} == {WireGuardGo}
    assert {kind for _, kind in chosen("PSP")} == {PSP}
    assert chosen("idle SAs") == []


def test_psps_tunnel_stands_beside_esps_and_is_no_peer() -> None:
    against = {FIGURE: ["openvpn", PSP.name]}
    taken = samples(wesper=[10, 20, 40], openvpn=[5, 5, 5])
    taken[FIGURE.load][PSP.name] = samples(psp=[9, 19, 30])[FIGURE.load]["psp"]
    peer, psp = compare(taken, against, "wesper")
    assert (peer.name, peer.ours, peer.anchor) == ("to openvpn, best peer", 20, 5)
    assert (psp.name, psp.ours, psp.anchor, psp.ratio) == ("PSP beside ESP", 19, 20, 0.9)
    taken[FIGURE.load].pop("wesper")
    _, psp = compare(taken, against, "wesper")
    assert (psp.ours, psp.anchor, psp.ratio, psp.met) == (19, None, None, None)


def test_goals_are_those_of_the_issue() -> None:
    goals = {figure.name: (figure.to_plain, figure.to_best, figure.psp) for figure in FIGURES}
    assert goals == {
        "one TCP stream": (0.36, 10, 0.95),
        "four TCP streams": (None, 7, 0.95),
        "TCP stream, a core": (None, 9, None),
        "UDP, 1400 octets": (None, 2, 0.95),
        "UDP, 64 octets": (None, 1.8, None),
        "UDP at 400 Mbit/s": (None, 0.5, None),
    }


def test_a_sample_without_cost_or_traffic_divides_by_nothing() -> None:
    assert Sample(8e9, 0.0, 0.0).bps_per_core == 0
    assert Sample(0.0, 0.0, 1.0).cores_per_gbps == 0
    assert Sample(2e9, 0.0, 0.5).cores_per_gbps == 0.25
    assert Sample(2e9, 0.0, 0.5).bps_per_core == 4e9


@pytest.mark.parametrize("kind", PEERS, ids=PEER_NAMES)
def test_a_missing_peer_is_named_with_its_package(kind: type[Tunnel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "find", lambda program: None)
    with pytest.raises(UnsupportedError, match=r"apt-get install .*\b(wireguard-go|strongswan-charon|openvpn)\b"):
        kind.look_for_what_it_needs()


def test_a_device_that_may_not_be_opened_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tunnel_module, "find", lambda program: program)
    monkeypatch.setattr(tunnel_module, "_TUN", tmp_path / "tun")
    with pytest.raises(UnsupportedError, match=r"open .*/tun: No such file or directory"):
        OpenVPN.look_for_what_it_needs()

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnsupportedError, match="Permission denied"):
        OpenVPN.look_for_what_it_needs()


def test_processor_time_is_of_all_threads() -> None:
    def burn() -> None:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        burnt.set()
        hold.wait()

    hold, burnt = threading.Event(), threading.Event()
    before = processor_ns([os.getpid()])
    thread = threading.Thread(target=burn)
    thread.start()
    burnt.wait()
    # time.thread_time and schedstat are two clocks of the kernel's, a tick apart at most.
    assert processor_ns([os.getpid()]) - before >= 40_000_000
    hold.set()
    thread.join()
    assert processor_ns([2**22 + 1]) == 0  # no such process


class ControlSocket:
    """Answers one request, as wireguard-go would."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.heard = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, args=(answer,))
        self._thread.start()

    def _serve(self, answer: bytes) -> None:
        connection, _ = self._listener.accept()
        with connection:
            while not self.heard.endswith(b"\n\n"):
                self.heard += connection.recv(4096)
            connection.sendall(answer)

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


def test_wireguard_settings_go_over_the_control_socket(tmp_path: Path) -> None:
    path = tmp_path / "wg0.sock"
    control = ControlSocket(path, b"errno=0\n\n")
    configure(path, {"private_key": "00ff", "listen_port": "51820"})
    control.close()
    # The form that https://www.wireguard.com/xplatform/ shows.
    assert control.heard == b"set=1\nprivate_key=00ff\nlisten_port=51820\n\n"


def test_refused_wireguard_settings_are_told(tmp_path: Path) -> None:
    control = ControlSocket(tmp_path / "wg0.sock", b"errno=-22\n\n")
    with pytest.raises(TunnelFailed, match="refused its settings: errno=-22"):
        configure(tmp_path / "wg0.sock", {"private_key": "secret"})
    control.close()
