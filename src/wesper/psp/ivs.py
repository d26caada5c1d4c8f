"""IVs that never repeat: of a clock or of a counter, in runs, over threads, clock steps and restarts.

One source serves all keys of a device, as the one clock of PSP's hardware does: an IV that is given away once is new
under every key. Each call takes a run of its own, so that threads that share a key never meet.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Final

from .clock import Clock
from .marks import Marks

_END: Final = (1 << 64) - 1  # IVs stay below: the mark beyond them is a number of 64 bits too
CLOCK_AHEAD: Final = 10_000_000_000  # nanoseconds: a mark is written every ten seconds of use
COUNTER_AHEAD: Final = 1 << 24  # IVs: several seconds' worth


class IVSource(ABC):
    """Runs of IVs.   Calls from several threads are safe.

    marks: what is used up at a restart. The mark always lies beyond every IV given away.
    """

    def __init__(self, marks: Marks, ahead: int) -> None:
        self._marks, self._ahead = marks, ahead
        self._lock = threading.Lock()
        self._next = self._mark = marks.iv
        self.failure: OSError | None = None

    def take(self, count: int) -> int | None:
        """Return the first of so many consecutive IVs; None if there are none that are surely new.

        That is so when 2^64 - 1 is reached, or when the mark could not be written: `failure` says why, and a later call
        tries again.
        """
        with self._lock:
            first = max(self._next, self._wanted())
            end = first + count
            if end > _END:
                return None
            if end > self._mark and not self._raise(end):
                return None
            self._next = end
            return first

    def reserve(self) -> bool:
        """Put the mark up ahead of time, so that `take` seldom waits for the disk; return whether it is there."""
        with self._lock:
            end = min(max(self._next, self._wanted()) + self._ahead // 2, _END)
            return end <= self._mark or self._raise(end)

    def settle(self) -> None:
        """Give back what is reserved and unused, at an orderly end: no IV is taken any more.   Raises OSError."""
        with self._lock:
            if self._next < self._mark:
                self._marks.raise_iv(self._next)
                self._mark = self._next

    def _raise(self, end: int) -> bool:
        to = min(end + self._ahead, _END)
        try:
            self._marks.raise_iv(to)
        except OSError as error:
            self.failure = error
            return False
        self._mark, self.failure = to, None
        return True

    @abstractmethod
    def _wanted(self) -> int:
        """Return the least IV that may be next."""


class ClockIVs(IVSource):
    """The time in nanoseconds; where that is not beyond the last IV, the one after it.

    A clock that steps back, stands still or can't be read changes nothing but the distance to the time.
    """

    def __init__(self, clock: Clock, marks: Marks, ahead: int = CLOCK_AHEAD) -> None:
        super().__init__(marks, ahead)
        self.clock = clock

    def _wanted(self) -> int:
        try:
            return max(self.clock.now(), 0)
        except OSError:
            return 0


class CounterIVs(IVSource):
    """One after another, from 1."""

    def __init__(self, marks: Marks, ahead: int = COUNTER_AHEAD) -> None:
        super().__init__(marks, ahead)

    def _wanted(self) -> int:
        return 1
