"""PSP's rows of the benchmark work and measure what they say; none is judged by the clock."""

from __future__ import annotations

import pytest

from wesper.bench import psp as rows_of_psp


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make everything small."""
    monkeypatch.setattr(rows_of_psp, "_KEYS", 40_000)
    monkeypatch.setattr(rows_of_psp, "_ASSOCIATIONS", 300_000)


def test_portable_rows_give_rates() -> None:
    for row in rows_of_psp.portable_rows():
        assert row.ours() > 0
        assert row.anchor is not None
        assert row.anchor() > 0


@pytest.mark.needs_native
def test_every_native_row_gives_a_figure_and_has_a_goal() -> None:
    rows = rows_of_psp.rows(quick=True)
    assert len({(row.group, row.name) for row in rows}) == len(rows)
    for row in rows:
        assert row.goal is not None
        assert row.ours() >= 0
        if row.anchor is not None:
            assert row.anchor() > 0
