"""What tests of labs share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

PATIENCE_S = 20.0
"""How long a test waits for what must come; nothing is measured by it."""


@pytest.fixture
def name() -> str:
    """Return a name for a lab that no other process takes."""
    return f"test-{os.getpid()}"


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Return a function that waits until a condition holds, and fails if it never does."""

    def wait(condition: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until, "it never came to be"
            time.sleep(0.005)

    return wait
