"""Labs for tests of tunnels: a skip with the reason where there are no namespaces."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from wesper.errors import UnsupportedError
from wesper.lab import Lab

PATIENCE_S = 20.0
"""How long a test waits for what must come; nothing is measured by it."""


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip what needs network namespaces if there are none."""
    try:
        Lab().close()
    except UnsupportedError as error:
        pytest.skip(str(error))


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Return a function that waits until a condition holds, and fails if it never does."""

    def wait(condition: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until, "it never came to be"
            time.sleep(0.005)

    return wait
