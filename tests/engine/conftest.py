"""Runs the engine's tests on each engine."""

from __future__ import annotations

import pytest
from hypothesis import settings

ENGINES = ("reference", pytest.param("native", marks=pytest.mark.needs_native))

# For test_equal.py: hours instead of seconds, and different packets each time.
settings.register_profile("long", print_blob=True)


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """Name of the engine under test: each test that asks for it runs once on each."""
    name: str = request.param
    return name
