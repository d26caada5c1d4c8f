"""Events: one line each, as text or JSON; a stream that fails stops nothing."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from wesper.tunnel.events import EVENTS, KEPT, EventLog, as_text


def test_text_is_one_line_with_what_the_name_means() -> None:
    line = as_text(
        {"time_ns": 1_700_000_000_123_456_789, "event": "peer_moved", "tunnel": "t", "peer": "192.0.2.1 port 7"}
    )
    assert line == (f'2023-11-14T22:13:20.123Z peer_moved tunnel=t peer="192.0.2.1 port 7" ({EVENTS["peer_moved"]})')
    hostile = as_text({"time_ns": 0, "event": "failed", "why": "two\nlines"})
    assert "\n" not in hostile


def test_json_is_an_object_a_line() -> None:
    stream = io.StringIO()
    log = EventLog(stream, "json")
    log.tell("lost", AUTH=3)
    log.tell("stopped", name="x")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["AUTH"], second["name"]) == ("lost", 3, "x")


def test_a_stream_that_fails_stops_nothing() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    log = EventLog(Full())
    told: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> bool:
        told.append(event)
        return len(told) < 2

    log.listeners.append(listen)
    for _ in range(KEPT + 10):
        log.tell("lost", REPLAY=1)
    assert len(log.last) == KEPT
    assert log.counted["lost"] == KEPT + 10
    assert len(told) == 2


def test_only_known_names_are_told() -> None:
    with pytest.raises(AssertionError):
        EventLog(None).tell("something")
