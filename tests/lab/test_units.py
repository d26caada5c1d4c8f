"""Quantities as people write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wesper.errors import ConfigError
from wesper.lab import units


@pytest.mark.parametrize(
    ("read", "given", "value"),
    [
        (units.nanoseconds, "10ms", 10_000_000),
        (units.nanoseconds, "1.5 s", 1_500_000_000),
        (units.nanoseconds, "250us", 250_000),
        (units.nanoseconds, 0.002, 2_000_000),
        (units.bits_per_second, "100mbit", 100_000_000),
        (units.bits_per_second, "1.5Gbit", 1_500_000_000),
        (units.bits_per_second, 9600, 9600),
        (units.octets, "256kB", 256_000),
        (units.octets, "1MiB", 1 << 20),
        (units.octets, "1400", 1400),
        (units.probability, "1%", 0.01),
        (units.probability, "0.5 %", 0.005),
        (units.probability, 1, 1.0),
    ],
)
def test_quantity_is_read(read: Callable[..., Any], given: object, value: float) -> None:
    assert read(given, "key") == pytest.approx(value)


@pytest.mark.parametrize(
    ("read", "given"),
    [
        (units.nanoseconds, "10"),
        (units.nanoseconds, "10mbit"),
        (units.nanoseconds, -1),
        (units.nanoseconds, float("inf")),
        (units.bits_per_second, "0bit"),
        (units.bits_per_second, 0),
        (units.bits_per_second, "fast"),
        (units.octets, -1),
        (units.octets, "1e3"),
        (units.probability, "101%"),
        (units.probability, 1.5),
        (units.probability, float("nan")),
        (units.probability, "1"),
    ],
)
def test_what_is_no_quantity_names_its_key(read: Callable[..., Any], given: object) -> None:
    with pytest.raises(ConfigError) as caught:
        read(given, "the-key")
    assert caught.value.key == "the-key"
    assert caught.value.expected


@pytest.mark.parametrize("text", ["1%", "0.25%", "100%"])
def test_percent_text_reads_back(text: str) -> None:
    assert units.percent_text(units.probability(text, "")) == text


@pytest.mark.parametrize("text", ["1s", "10ms", "1500us", "7ns"])
def test_duration_text_reads_back(text: str) -> None:
    assert units.duration_text(units.nanoseconds(text, "")) == text


@pytest.mark.parametrize("text", ["1gbit", "1500kbit", "9600bit"])
def test_rate_text_reads_back(text: str) -> None:
    assert units.rate_text(units.bits_per_second(text, "")) == text
