"""Timed loops of the native engine as rates."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from .measure import Rate

_T = TypeVar("_T")

SLICES: Final = 16


class Loop(Protocol):
    """A timed loop of the native engine."""

    def nanoseconds(self, direction: str, packets: int) -> float:
        """Return nanoseconds a packet."""
        ...


def later(make: Callable[[], _T]) -> Callable[[], _T]:
    """Return a function that makes its value when it is first called: big tables only if their row is measured."""
    return functools.cache(make)


def rate(loop: Callable[[], Loop], direction: str, packets: int) -> Rate:
    """Return the rate of the fastest of some short slices: another process on the core can only make one slower."""
    return lambda: 1e9 / min(loop().nanoseconds(direction, packets // SLICES) for _ in range(SLICES))
