"""What a daemon tells those who look at it, without a daemon."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from wesper.tunnel import control
from wesper.tunnel.control import MAX_BACKLOG
from wesper.tunnel.loop import Tapped
from wesper.tunnel.tapping import BadAnswer, TapHub, from_json
from wesper.tunnel.watching import MAX_UNSENT, numbers_of, tap


class Loop:
    """Gives what it is told to, and says how much its tap lost."""

    def __init__(self) -> None:
        self.passing: list[Tapped] = []
        self.lost = 0

    def tap(self, octets: int) -> None:
        pass

    def tapped(self) -> list[Tapped]:
        passing, self.passing = self.passing, []
        return passing

    def counts(self) -> dict[str, int]:
        return {"tap_lost": self.lost}


class Connection:
    """Takes what is sent, or lets it lie."""

    is_open = True

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.unsent = 0

    def send(self, answer: dict[str, Any]) -> bool:
        self.sent.append(answer)
        self.unsent += len(json.dumps(answer)) + 1
        assert self.unsent <= MAX_BACKLOG, "a connection with so much unsent is closed"
        return self.is_open


@pytest.fixture
def tapped() -> tuple[Loop, TapHub, Connection]:
    """Return a loop, its hub, and a connection that has asked for what passes."""
    loop, connection = Loop(), Connection()
    daemon = SimpleNamespace(loop=loop, taps=TapHub(loop))  # type: ignore[arg-type]
    assert tap(daemon, connection, {}) == {}  # type: ignore[arg-type]
    return loop, daemon.taps, connection


def packet(number: int, octets: int = 60) -> Tapped:
    return Tapped(number, "inner", "out", bytes(octets), None)


def told(connection: Connection) -> list[int]:
    return [from_json(each).time_ns for line in connection.sent for each in line["packets"]]


def test_everything_is_told_in_order(tapped: tuple[Loop, TapHub, Connection]) -> None:
    loop, hub, connection = tapped
    loop.passing = [packet(number) for number in range(100)]
    hub.pump()
    loop.passing = [packet(number) for number in range(100, 110)]
    hub.pump()
    assert told(connection) == list(range(110))
    assert {line["lost"] for line in connection.sent} == {0}


def test_a_pump_without_packets_is_a_sign_of_life(tapped: tuple[Loop, TapHub, Connection]) -> None:
    _, hub, connection = tapped
    hub.pump()
    assert connection.sent == [{"packets": [], "lost": 0}]


def test_who_does_not_read_loses_packets_and_not_the_connection(tapped: tuple[Loop, TapHub, Connection]) -> None:
    loop, hub, connection = tapped
    loop.passing = [packet(number, 65_000) for number in range(400)]  # 35 MB as JSON
    hub.pump()
    first = len(told(connection))
    assert 0 < first < 400
    assert connection.unsent > MAX_UNSENT
    loop.passing, loop.lost = [packet(400)], 7
    hub.pump()
    assert len(told(connection)) == first, "nothing more while it waits"
    connection.unsent = 0
    loop.passing = [packet(401)]
    hub.pump()
    assert told(connection)[first:] == [401]
    assert connection.sent[-1]["lost"] == 400 - first + 1 + 7


def test_a_closed_connection_is_let_go(tapped: tuple[Loop, TapHub, Connection]) -> None:
    _, hub, connection = tapped
    connection.is_open = False
    hub.pump()
    assert not hub.is_open


@pytest.mark.parametrize("status", [{}, {"name": "x"}, {"name": "x", "interface": 7}, {"name": "x", "interface": {}}])
def test_a_status_without_sense_is_told(status: dict[str, Any]) -> None:
    with pytest.raises(BadAnswer):
        numbers_of(status)


def test_requests_of_somebody_who_has_been_dropped_are_not_looked_at() -> None:
    ours, theirs = socket.socketpair()
    connection = control.Connection(ours)
    theirs.sendall(b'{"op": "status"}\n' * 1000)
    looked_at = 0
    for _ in connection.requests():
        looked_at += 1
        connection.close()
    theirs.close()
    ours.close()
    assert looked_at == 1
