"""The rows of WESPv2 and EESP beside ESP work; none is judged by the clock."""

from __future__ import annotations

import pytest

from wesper.bench import family

pytestmark = pytest.mark.needs_native


def test_every_row_gives_figures_and_has_a_goal() -> None:
    rows = family.rows("aws-lc", quick=True)
    assert len({(row.group, row.name) for row in rows}) == len(rows) == 8
    assert {row.goal for row in rows} == {0.95, 0.90}
    for row in rows:
        assert row.ours() > 0
        assert row.anchor is not None
        assert row.anchor() > 0
