from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from wesper.cli.top_view import Look, as_json, rates, scaled, since, sparkline, view
from wesper.sa import SAState
from wesper.tunnel.metrics import Numbers, SANumbers

START = Numbers(
    "office",
    "wesper0",
    "native",
    3725.0,
    {"device_read_octets": 1000, "device_read_packets": 10, "link_sent_octets": 2000},
    {"REPLAY": 2},
    [SANumbers("paris", "out", 0x1001, "aes-gcm-16", SAState(10, 10, 1000, 0, 0, 1500), sending=True)],
)
LATER = replace(
    START,
    counts={"device_read_octets": 126_000, "device_read_packets": 110, "link_sent_octets": 252_000},
    drops={"REPLAY": 12},
    sas=[replace(START.sas[0], state=SAState(110, 110, 126_000, 0, 3, 1500))],
)


def shown(*looks: Look) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(view(looks))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def line(text: str, start: str) -> str:
    return next(each for each in text.splitlines() if each.startswith(start))


def test_rates_are_what_grew_in_the_time_between() -> None:
    text = shown(Look(0.0, START), Look(2.0, LATER))
    out = line(text, "out, from this host")
    assert "500 kbit/s" in out  # 125,000 octets in 2 s
    assert "1 Mbit/s" in out
    assert "50 /s" in out
    paris = line(text, "paris")
    assert "out ←" in paris
    assert "50" in paris.split()
    assert paris.split()[-2:] == ["3", "aes-gcm-16"]
    replay = line(text, "replay")
    assert "12" in replay.split()
    assert "5" in replay.split()
    assert "up 1 h 2 min" in text


def test_a_dummy_is_no_loss() -> None:
    text = shown(Look(0.0, replace(START, drops={"DUMMY": 7, "KEEPALIVE": 1})))
    assert "nothing was dropped" in text
    assert line(text, "no loss").rstrip() == "no loss: dummy 7, keepalive 1"
    both = shown(Look(0.0, replace(START, drops={"DUMMY": 7, "REPLAY": 2})))
    assert line(both, "replay").split()[1] == "2"
    assert not any(each.startswith("dummy") for each in both.splitlines())


def test_json_has_each_count_and_how_it_grew() -> None:
    found = as_json([Look(0.0, START), Look(2.0, LATER)])
    assert (found["schema"], found["seconds"]) == (1, 2.0)
    assert found["rates"]["device_read_packets"] == 50
    assert found["drops"] == {"REPLAY": 12}
    assert found["sas"][0]["state"]["packets"] == 110
    assert as_json([Look(0.0, START)])["rates"] == {}
    json.dumps(found)


def test_the_first_look_has_totals_and_no_rates() -> None:
    text = shown(Look(0.0, START))
    assert "0 bit/s" in line(text, "out, from this host")
    assert "1 kB" in line(text, "out, from this host")
    assert "nothing was dropped" in shown(Look(0.0, replace(START, drops={})))


def test_a_daemon_that_began_anew_has_no_rates_below_zero() -> None:
    assert rates([Look(0.0, LATER), Look(1.0, START)], "device_read_octets") == [0.0]
    assert rates([Look(1.0, START), Look(1.0, LATER)], "device_read_octets") == [0.0]


def test_sparkline() -> None:
    assert sparkline([0, 1, 4, 8]) == "▁▂▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (999.7, "1 kB"), (1.5e6, "1.5 MB"), (4.83e9, "4.83 GB"), (2e15, "2e+03 TB")],
)
def test_numbers_with_prefixes(value: float, text: str) -> None:
    assert scaled(value, "B") == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.9, "5 s"), (65, "1 min 5 s"), (3725, "1 h 2 min"), (200_000, "2 d 7 h")]
)
def test_spans_of_time(seconds: float, text: str) -> None:
    assert since(seconds) == text
