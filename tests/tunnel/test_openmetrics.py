from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.tunnel.openmetrics import Family, Sample, exposition

pytestmark = pytest.mark.needs_module("prometheus_client", package="prometheus-client")

NAMES = st.from_regex(r"[a-z]{1,8}(_[a-z]{1,8}){0,2}", fullmatch=True).filter(
    lambda name: not name.endswith(("_total", "_created", "_info", "_bucket", "_count", "_sum"))
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.one_of(st.integers(0, 2**64), st.floats(min_value=0, allow_nan=False))
LABELS = st.dictionaries(st.sampled_from(("tunnel", "reason", "spi")), TEXTS, max_size=3)
SAMPLES = st.lists(
    st.builds(Sample, VALUES, LABELS), max_size=4, unique_by=lambda each: tuple(sorted(each.labels.items()))
)
FAMILIES = st.lists(
    st.builds(Family, NAMES, st.sampled_from(("counter", "gauge")), TEXTS.map(str.strip), SAMPLES.map(tuple)),
    max_size=4,
    unique_by=lambda family: family.name,
)


def parsed(text: bytes) -> list[Any]:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    return list(text_string_to_metric_families(text.decode()))


@given(FAMILIES)
def test_prometheus_reads_what_was_meant(families: list[Family]) -> None:
    found = parsed(exposition(families))
    assert [each.name for each in found] == [family.name for family in families]
    for each, family in zip(found, families, strict=True):
        assert (each.type, each.documentation) == (family.kind, family.help)
        assert [(sample.labels, sample.value) for sample in each.samples] == [
            (dict(sample.labels), sample.value) for sample in family.samples
        ]


def test_octets_as_the_format_wants_them() -> None:
    families = [
        Family("wesper_drops", "counter", "Packets dropped.", (Sample(3, {"reason": 'a"b\\c\nd'}),)),
        Family("wesper_uptime_seconds", "gauge", "Time since the start.", (Sample(1.5),), "seconds"),
        Family("wesper", "info", "What runs.", (Sample(1, {"version": "0.1.0"}),)),
    ]
    assert exposition(families).decode().splitlines() == [
        "# TYPE wesper_drops counter",
        "# HELP wesper_drops Packets dropped.",
        r'wesper_drops_total{reason="a\"b\\c\nd"} 3',
        "# TYPE wesper_uptime_seconds gauge",
        "# UNIT wesper_uptime_seconds seconds",
        "# HELP wesper_uptime_seconds Time since the start.",
        "wesper_uptime_seconds 1.5",
        "# TYPE wesper info",
        "# HELP wesper What runs.",
        'wesper_info{version="0.1.0"} 1',
        "# EOF",
    ]
    assert exposition([]) == b"# EOF\n"


def test_numbers_that_are_none() -> None:
    values = [math.inf, -math.inf, math.nan]
    text = exposition([Family("x", "gauge", "", tuple(Sample(v, {"n": str(v)}) for v in values))])
    found = [sample.value for sample in parsed(text)[0].samples]
    assert found[:2] == values[:2]
    assert math.isnan(found[2])


@pytest.mark.parametrize(
    "family",
    [
        Family("has space", "gauge", "", ()),
        Family("0digit", "gauge", "", ()),
        Family("time", "gauge", "", (), "seconds"),
        Family("x", "counter", "", (Sample(-1),)),
        Family("x", "counter", "", (Sample(math.nan),)),
        Family("x", "info", "", (Sample(2),)),
        Family("x", "gauge", "", (Sample(1), Sample(2))),
        Family("x", "gauge", "", (Sample(1, {"a-b": ""}),)),
        Family("x", "gauge", "", (Sample(1, {"__name__": ""}),)),
    ],
)
def test_what_the_format_does_not_know_is_refused(family: Family) -> None:
    with pytest.raises(ValueError, match=family.name.split()[0]):
        exposition([family])


def test_a_name_comes_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        exposition([Family("x", "gauge", "", ()), Family("x", "gauge", "", ())])
