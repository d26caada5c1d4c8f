from __future__ import annotations

from typing import Any

import pytest

from wesper.sa import SAState
from wesper.tunnel.loop import COUNTS
from wesper.tunnel.metrics import Numbers, SANumbers, families
from wesper.tunnel.openmetrics import exposition
from wesper.verdict import COUNTERS

pytestmark = pytest.mark.needs_module("prometheus_client", package="prometheus-client")

NUMBERS = Numbers(
    "office",
    "wesper0",
    "native",
    12.5,
    {key: place for place, key in enumerate(COUNTS, 1)},
    {"REPLAY": 3, "AUTH": 2, "TRUNCATED": 1, "DUMMY": 4},
    [
        SANumbers("paris", "out", 0x1001, "aes-gcm-16", SAState(70, 7, 700, 0, 0, 1500), sending=True),
        SANumbers("paris", "in", 0x1002, "aes-gcm-16", SAState(80, 8, 800, 3, 2, 1500)),
    ],
    {"peer_moved": 1},
)


def samples(numbers: Numbers) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    found: dict[Any, float] = {}
    for family in text_string_to_metric_families(exposition(families(numbers)).decode()):
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


def value(name: str, **labels: str) -> float:
    (found,) = [
        each for (known, its), each in samples(NUMBERS).items() if known == name and labels.items() <= dict(its).items()
    ]
    return found


def test_every_number_has_its_place() -> None:
    found = samples(NUMBERS)
    assert all(dict(labels)["name"] == "office" for _, labels in found)
    counted = [
        each
        for (name, _), each in found.items()
        if name.startswith(("wesper_packets", "wesper_traffic", "wesper_loop"))
    ]
    assert sorted(counted) == list(range(1, len(COUNTS) + 1)), "each count of the loop comes once"


def test_traffic_by_side_and_direction() -> None:
    counts = NUMBERS.counts
    assert value("wesper_packets_total", side="device", direction="out") == counts["device_read_packets"]
    assert value("wesper_packets_total", side="link", direction="in") == counts["link_received_packets"]
    assert value("wesper_traffic_bytes_total", side="link", direction="out") == counts["link_sent_octets"]
    assert value("wesper_traffic_bytes_total", side="device", direction="in") == counts["device_written_octets"]


def test_drops_by_reason_and_by_the_kernels_names() -> None:
    assert value("wesper_drops_total", reason="REPLAY") == 3
    assert value("wesper_drops_total", reason="OUT_NO_SA") == 0, "what has not happened is 0, not absent"
    assert value("wesper_xfrm_total", counter="XfrmInStateProtoError") == 3, "the ICV's and the cut ones"
    assert {dict(labels)["counter"] for name, labels in samples(NUMBERS) if name == "wesper_xfrm_total"} == set(
        COUNTERS
    )


def test_numbers_of_sas() -> None:
    assert value("wesper_sa_packets_total", spi="0x00001001") == 7
    assert value("wesper_sa_bytes_total", direction="in", tunnel="paris") == 800
    assert value("wesper_sa_replays_total", direction="in") == 3
    assert value("wesper_sa_integrity_failures_total", direction="in") == 2
    assert value("wesper_sa_sequence", direction="out") == 70
    assert value("wesper_sa_path_mtu_bytes", tunnel="paris") == 1500
    assert value("wesper_sa_info", sending="true", spi="0x00001001") == 1
    assert value("wesper_events_total", event="peer_moved") == 1
    assert value("wesper_uptime_seconds") == 12.5
    assert value("wesper_daemon_info", interface="wesper0", engine="native") == 1
