"""The clock that IVs are taken from: a PTP hardware clock where there is one, else the kernel's TAI."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock of nanoseconds.   name: "PTP /dev/ptp0" or "CLOCK_TAI".   now: reads it; may raise OSError."""

    name: str
    now: Callable[[], int]


def open_clock(device: str | None = None) -> Clock:
    """Return the clock for IVs.

    device: as "/dev/ptp0"; None: the first that can be read, else CLOCK_TAI, which is CLOCK_REALTIME where nobody has
    set its offset, or CLOCK_REALTIME itself.
    Raises UnsupportedError if the device that was asked for can't be read.
    """
    for path in (device,) if device else (f"/dev/ptp{number}" for number in range(8)):
        found = _ptp(path)
        if found is not None:
            return found
        if device:
            raise UnsupportedError(f"the PTP clock {device}", "a device that this user may read")
    if hasattr(time, "CLOCK_TAI"):
        return Clock("CLOCK_TAI", lambda: time.clock_gettime_ns(time.CLOCK_TAI))
    return Clock("CLOCK_REALTIME", time.time_ns)


def _ptp(path: str) -> Clock | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    clock = (~descriptor << 3) | 3  # include/linux/posix-timers.h: CLOCKFD
    try:
        good = time.clock_gettime_ns(clock) > 0
    except (OSError, OverflowError):
        good = False
    if not good:
        os.close(descriptor)
        return None
    return Clock(f"PTP {path}", lambda: time.clock_gettime_ns(clock))
