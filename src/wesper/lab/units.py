"""Quantities as people write them: "10ms", "1%", "100mbit"."""

from __future__ import annotations

import re

from ..errors import ConfigError

_QUANTITY = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Zµ%]*)\s*")
_TIMES = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9}
_RATES = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "kib": 1 << 10, "mib": 1 << 20}


def nanoseconds(given: str | int | float, key: str) -> int:
    """Return a duration in ns.   given: text with a unit, or a number of seconds.   Raises ConfigError for key."""
    if isinstance(given, str):
        return round(_scaled(given, key, _TIMES, 'a duration such as "10ms"'))
    return round(_not_negative(given, key, "a duration in seconds") * 10**9)


def bits_per_second(given: str | int | float, key: str) -> int:
    """Return a rate in bit/s.   given: text with a unit, or a number of bit/s.   Raises ConfigError for key."""
    expected = 'a rate of at least 1 bit/s, such as "100mbit"'
    rate = round(_scaled(given, key, _RATES, expected) if isinstance(given, str) else given)
    if rate < 1:
        raise ConfigError(f"{given} is no rate", key=key, expected=expected)
    return rate


def octets(given: str | int, key: str) -> int:
    """Return a size in octets.   given: text with or without a unit, or a number.   Raises ConfigError for key."""
    expected = 'a number of octets, or a size such as "256kB"'
    return round(
        _scaled(given, key, _SIZES, expected) if isinstance(given, str) else _not_negative(given, key, expected)
    )


def probability(given: str | int | float, key: str) -> float:
    """Return a probability, 0..1.   given: text in percent, or a number 0..1.   Raises ConfigError for key."""
    expected = 'a percentage such as "1%", or a number 0..1'
    share = _scaled(given, key, {"%": 1}, expected) / 100 if isinstance(given, str) else float(given)
    if not 0 <= share <= 1:
        raise ConfigError(f"{given} is no probability", key=key, expected=expected)
    return share


def percent_text(share: float) -> str:
    """Return a probability as `probability` takes it."""
    return f"{share * 100:.6g}%"


def duration_text(ns: float) -> str:
    """Return a duration as `nanoseconds` takes it, in the largest unit that needs no fraction."""
    return _in_units(ns, {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1})


def rate_text(bps: float) -> str:
    """Return a rate as `bits_per_second` takes it."""
    return _in_units(bps, {"gbit": 10**9, "mbit": 10**6, "kbit": 10**3, "bit": 1})


def _in_units(value: float, units: dict[str, int]) -> str:
    return next(f"{value // scale:.0f}{unit}" for unit, scale in units.items() if value % scale == 0 and value >= scale)


def _scaled(text: str, key: str, units: dict[str, int], expected: str) -> float:
    found = _QUANTITY.fullmatch(text)
    if found is None or found[2].lower() not in units:
        raise ConfigError(
            f"{text!r} is not understood", key=key, expected=f"{expected}; units: {', '.join(filter(None, units))}"
        )
    return float(found[1]) * units[found[2].lower()]


def _not_negative(given: int | float, key: str, expected: str) -> int | float:
    if not 0 <= given < float("inf"):
        raise ConfigError(f"{given} is negative or no number", key=key, expected=expected)
    return given
