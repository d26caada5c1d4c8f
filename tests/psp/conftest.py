"""Runs PSP's tests on each engine."""

from __future__ import annotations

import pytest

from wesper import psp

KEYS = (bytes(range(32)), bytes(range(32, 64)))
ENGINES = ("reference", pytest.param("native", marks=pytest.mark.needs_native))


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """Name of the engine under test: each test that asks for it runs once on each."""
    name: str = request.param
    return name


@pytest.fixture
def engine(engine_name: str) -> psp.Engine:
    """An engine with both device keys, the same in each run."""
    return open_with_keys(engine_name)


def open_with_keys(name: str, **options: object) -> psp.Engine:
    """Return an engine with both device keys."""
    engine = psp.open_engine(name, psp.Options(hash_key=bytes(16), **options))
    for slot, key in enumerate(KEYS):
        engine.set_device_key(slot, key)
    return engine
