"""Runs what crosses to another implementation on each engine."""

from __future__ import annotations

import pytest

ENGINES = ("reference", pytest.param("native", marks=pytest.mark.needs_native))


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """Name of the engine under test: each test that asks for it runs once on each."""
    name: str = request.param
    return name
