"""Points of the plots over the number of connections: what they hold, what becomes of them, and what is left out."""

from __future__ import annotations

import sys

import pytest

from wesper.bench import connections, connections_run
from wesper.bench.connections import COUNTS, QUICK_COUNTS, Cost, Point, PointFailed
from wesper.bench.report import Report

GIB = 2**30
FEW = Point(1, Cost(4096, 0, (5e6, 6e6, 7e6), (4e6,) * 3), Cost(0, 0, (10e6,) * 3, (8e6, 4e6, 2e6)))
MANY = Point(
    10_000_000,
    Cost(600 * 2**20, 2 * 2**20, (4e6,) * 3, (5e6,) * 3),
    Cost(2 * GIB, 5 * GIB, (1e6,) * 3, (5e5,) * 3),
)


@pytest.mark.needs_native
def test_a_point_is_measured_in_a_process_of_its_own() -> None:
    told: list[str] = []
    (point,), left_out = connections.measure_connections([3000], 1, told.append)
    assert left_out == []
    assert told == ["PSP, 3,000 connections and as many SAs"]
    assert point.connections == 3000
    # A row is 64 octets; what an SA keeps is many times that.
    assert point.psp.sender >= 3000 * 64 - 8192
    assert point.psp.receiver < point.psp.sender < min(point.esp.sender, point.esp.receiver)
    for cost in (point.psp, point.esp):
        assert len(cost.sent) == len(cost.received) == 1
        assert min(*cost.sent, *cost.received) > 0


def test_every_connection_is_live_before_the_weighing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    packets = connections_run.Packets.of([b"\x45\x00\x00\x40" + bytes(60)] * 7)
    seen: list[int] = []

    class Counting:
        def install(self, first: int, count: int) -> tuple[int, int]:
            return count, first

        def send(self, ids: connections_run.NDArray[connections_run.np.uint64], packets: object) -> object:
            seen.extend(ids.tolist())
            return packets

        def receive(self, packets: object) -> None: ...

    monkeypatch.setattr(connections_run, "resident", lambda: 0)
    assert connections_run.weigh(Counting(), 17, packets) == (17, 0 + 7 + 14)  # type: ignore[arg-type]
    assert set(seen) == set(range(17))


def test_rows_hold_memory_to_the_goals_and_rates_beside_esp() -> None:
    rows = {(row.group, row.name): row for row in connections.results([FEW, MANY])}
    few, many = "PSP, 1 connection", "PSP, 10,000,000 connections"
    assert rows[few, "receiver grows by, MiB"].met is True
    assert rows[few, "sender's table, MiB"].met is None
    assert rows[many, "receiver grows by, MiB"].met is False
    table = rows[many, "sender's table, MiB"]
    assert (table.ours, table.goal, table.met) == (600, 640, True)
    assert rows[many, "receiver with ESP's SAs, MiB"].ours == 5 * 1024
    sent = rows[few, "sent at random, beside ESP's SAs"]
    assert (sent.ours, sent.anchor, sent.ratio, sent.low, sent.high) == (6e6, 10e6, 0.6, 0.5, 0.7)
    received = rows[few, "received at random, beside ESP's SAs"]
    # Of 0.5, 1 and 2: the median of the ratios.
    assert (received.ratio, received.rounds) == (1.0, 3)


def test_what_the_memory_does_not_hold_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "free_memory", lambda: 4 * GIB)
    monkeypatch.setattr(connections, "_point", lambda count, rounds: Point(count, FEW.psp, FEW.esp))
    points, left_out = connections.measure_connections([1, 10_000_000], 5)
    assert [point.connections for point in points] == [1]
    assert left_out == [("PSP, 10,000,000 connections", "takes 10 GiB of memory, 4 are free")]


def test_a_process_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(PointFailed, match="measuring 5 connections: ended with 1"):
        connections.measure_connections([5], 1)


def test_points_are_chosen_by_their_heading() -> None:
    assert connections.chosen("", quick=False) == list(COUNTS)
    assert connections.chosen("", quick=True) == list(QUICK_COUNTS)
    assert connections.chosen("10,000,000 conn", quick=False) == [10_000_000]
    assert connections.chosen("PSP, 1 connection", quick=False) == [1]
    assert connections.chosen("tunnel", quick=False) == []


def test_a_run_becomes_a_page_with_both_plots() -> None:
    points = (FEW, MANY)
    rows = tuple(connections.results(points))
    report = Report(rows, {"cpu": "<fast>"}, {"load_before": 0.5}, (("x", "why"),), False, ("a note",), points)
    page = report.as_page().html()
    assert page.count("<svg") == 2
    for told in (
        "PSP receiver: 0.00195 at 10,000,000",
        "ESP receiver: 5 at 10,000,000",
        "2 of 3 goals",
        "&lt;fast&gt;",
    ):
        assert told in page
    assert [each["connections"] for each in report.as_json()["connections"]] == [1, 10_000_000]
    assert "<svg" not in Report((), {}, {}, (), False).as_page().html()
