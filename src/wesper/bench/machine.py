"""What a figure was measured on, and what else the machine was doing."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import cryptography
from cryptography.hazmat.backends.openssl import backend

# Flags that decide which code path of an AEAD provider runs.
_FLAGS = (
    "aes",
    "pclmulqdq",
    "avx",
    "avx2",
    "avx512f",
    "avx512bw",
    "vaes",
    "vpclmulqdq",
    "gfni",
    "sha_ni",
    "asimd",
    "pmull",
)


def describe(native: dict[str, str]) -> dict[str, str]:
    """Return machine and versions.   native: versions of the native engine and its providers."""
    info = _cpuinfo()
    flags = info.get("flags", info.get("Features", "")).split()
    return {
        "cpu": info.get("model name", platform.machine()),
        "cores": str(os.cpu_count()),
        "flags": " ".join(flag for flag in _FLAGS if flag in flags),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cryptography": f"{cryptography.__version__} ({backend.openssl_version_text()})",
        "numpy": version("numpy"),
        **native,
    }


def free_memory() -> int | None:
    """Return the octets of memory that a process can have without swapping, None where that is not told."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _cpuinfo() -> dict[str, str]:
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0] if Path("/proc/cpuinfo").exists() else ""
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


@dataclass(frozen=True, slots=True)
class Load:
    """A moment of the machine.   ticks: of all cores, in all states; steal: those that the host gave to others."""

    when: float
    average: float
    ticks: int
    steal: int

    @classmethod
    def now(cls) -> Load:
        """Read it."""
        try:
            fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        except OSError:
            fields = [0] * 8
        return cls(time.time(), os.getloadavg()[0], sum(fields), fields[7])


def between(before: Load, after: Load) -> dict[str, float]:
    """Return what the machine was doing: load averages at both ends, and the share of time stolen in per cent."""
    ticks = after.ticks - before.ticks
    return {
        "load_before": round(before.average, 2),
        "load_after": round(after.average, 2),
        "steal_percent": round(100 * (after.steal - before.steal) / ticks, 2) if ticks else 0.0,
        "seconds": round(after.when - before.when, 1),
    }
