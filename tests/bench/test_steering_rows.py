"""The rows of steering work; none is judged by the clock, the flows' parts are."""

from __future__ import annotations

import pytest

from wesper.bench import steering

pytestmark = [pytest.mark.needs_native, pytest.mark.usefixtures("namespaces")]


def test_every_row_gives_figures() -> None:
    rows = steering.rows()
    assert len({row.name for row in rows}) == len(rows) == 6
    assert {row.goal for row in rows} == {1.7, 55, None}
    parts = []
    for row in rows:
        if row.anchor is None:
            parts.append(row.ours())
        else:
            assert row.ours() > 0
            assert row.anchor() > 0
    wespv2, eesp, esp = parts
    assert 50 <= wespv2 <= 55
    assert 50 <= eesp <= 55
    assert esp == 100


def test_packets_of_the_wrong_worker_are_an_error() -> None:
    with steering._Ends("EESP", 2) as ends:
        ends.fill()
        with pytest.raises(steering.SteeringFailed, match="0 came"):
            ends.check()
