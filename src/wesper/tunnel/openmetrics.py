"""OpenMetrics text: families of samples in, octets for a scraper out. No socket, no clock.

Source: OpenMetrics 1.0.0, section "Text format".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class Sample:
    """One number.   labels: in the order in which they are written."""

    value: float | int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Family:
    """Samples of one name.

    name: without the suffix that its kind has; it ends in the unit, if there is one.   help: one sentence.
    unit: a base unit in the plural, "" if the numbers just count.
    """

    name: str
    kind: Literal["counter", "gauge", "info"]
    help: str
    samples: tuple[Sample, ...]
    unit: str = ""


def exposition(families: Iterable[Family]) -> bytes:
    """Return what a scraper gets.   Raises ValueError for a name, a unit or a label that the format does not know."""
    return "".join(_lines(families)).encode()


def _lines(families: Iterable[Family]) -> Iterator[str]:
    seen: set[str] = set()
    for family in families:
        _check(family, seen)
        yield f"# TYPE {family.name} {family.kind}\n"
        if family.unit:
            yield f"# UNIT {family.name} {family.unit}\n"
        yield f"# HELP {family.name} {_escaped(family.help)}\n"
        suffix = {"counter": "_total", "gauge": "", "info": "_info"}[family.kind]
        for sample in family.samples:
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
            yield f"{family.name}{suffix}{'{' + labels + '}' if labels else ''} {_number(sample.value)}\n"
    yield "# EOF\n"


def _check(family: Family, seen: set[str]) -> None:
    if not _NAME.fullmatch(family.name) or family.name in seen:
        raise ValueError(f"{family.name!r} is no name, or comes twice")
    seen.add(family.name)
    if family.unit and not family.name.endswith(f"_{family.unit}"):
        raise ValueError(f"{family.name} does not end in its unit, {family.unit}")
    if family.kind == "info" and any(sample.value != 1 for sample in family.samples):
        raise ValueError(f"{family.name} informs, so its value is 1")
    if family.kind == "counter" and any(not sample.value >= 0 for sample in family.samples):
        raise ValueError(f"{family.name} counts, so it is never below 0")
    if len({tuple(sorted(sample.labels.items())) for sample in family.samples}) != len(family.samples):
        raise ValueError(f"{family.name} has two samples with the same labels")
    for sample in family.samples:
        for name in sample.labels:
            if not _NAME.fullmatch(name) or name.startswith("__"):
                raise ValueError(f"{name!r} is no label of {family.name}")


def _number(value: float | int) -> str:
    if isinstance(value, int):
        return str(value)
    return {float("inf"): "+Inf", float("-inf"): "-Inf"}.get(value, "NaN" if value != value else repr(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
