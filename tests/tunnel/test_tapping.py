from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.pcap import create_capture, open_capture
from wesper.tunnel.loop import Tapped
from wesper.tunnel.tapping import TAP_OCTETS, BadAnswer, SeenFile, TapHub, as_json, from_json, walk_of
from wesper.verdict import DropReason

ECHO = bytes.fromhex("4500001c0000400040016ba90a0000010a00000208004f5600013005")
ESP = b"\x45\0\0\x1c\0\0\x40\0\x40\x32\0\0\x0a\0\0\1\x0a\0\0\2" + struct.pack(">II", 0x1000, 7)
SEEN = st.builds(
    Tapped,
    st.integers(0, 2**63),
    st.sampled_from(("inner", "outer")),
    st.sampled_from(("out", "in")),
    st.binary(max_size=40),
    st.none() | st.sampled_from(DropReason),
)


@given(SEEN)
def test_what_is_told_arrives(seen: Tapped) -> None:
    assert from_json(json.loads(json.dumps(as_json(seen)))) == seen


GOOD = as_json(Tapped(1, "inner", "out", b"x", None))


@pytest.mark.parametrize(
    "change",
    [{"time_ns": "soon"}, {"side": "left"}, {"direction": "up"}, {"packet": "?"}, {"packet": 7}, {"reason": "BECAUSE"}],
)
def test_an_answer_without_sense_is_told(change: dict[str, Any]) -> None:
    with pytest.raises(BadAnswer):
        from_json({**GOOD, **change})
    for key in change:
        with pytest.raises(BadAnswer):
            from_json({name: value for name, value in GOOD.items() if name != key})


def test_capture_has_both_sides_by_name_with_way_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "seen.pcapng"
    with create_capture(path) as writer:
        file = SeenFile(writer, "wesper0")
        file.write(Tapped(1_000_000_001, "inner", "out", ECHO, None))
        file.write(Tapped(1_000_000_002, "outer", "in", ESP, DropReason.REPLAY))
    with open_capture(path) as capture:
        inner, outer = list(capture)
        assert [each.name for each in capture.interfaces] == ["wesper0/inner", "wesper0/outer"]
    assert (inner.data, inner.timestamp_ns, inner.interface) == (ECHO, 1_000_000_001, 0)
    assert (outer.data, outer.interface) == (ESP, 1)
    assert [dict(each.options)[2][0] for each in (inner, outer)] == [2, 1], "outbound, inbound"
    assert inner.comments == ()
    assert outer.comments == (f"dropped: replay: {DropReason.REPLAY.sentence}",)


@pytest.mark.needs_tool("tshark", package="tshark")
def test_tshark_knows_which_way_packets_went(tmp_path: Path) -> None:
    path = tmp_path / "seen.pcapng"
    with create_capture(path) as writer:
        file = SeenFile(writer, "wesper0")
        file.write(Tapped(1, "inner", "out", ECHO, None))
        file.write(Tapped(1, "inner", "in", ECHO, None))
    fields = [word for name in ("frame.interface_name", "frame.packet_flags_direction") for word in ("-e", name)]
    done = subprocess.run(["tshark", "-r", path, "-T", "fields", *fields], capture_output=True, text=True, check=True)
    names, ways = zip(*(line.split("\t") for line in done.stdout.splitlines()), strict=True)
    assert set(names) == {"wesper0/inner"}
    assert [int(way, 16) for way in ways] == [2, 1]


def test_what_enters_an_engine_has_a_walk() -> None:
    dropped = walk_of(Tapped(0, "outer", "in", ESP, DropReason.REPLAY), {0x1000: "office"})
    assert dropped is not None
    told = {step.stage.name: step for step in dropped}
    assert told["sa"].text == "office"
    assert told["replay"].outcome == "dropped"
    sent = walk_of(Tapped(0, "inner", "out", ECHO, None), {})
    assert sent is not None
    assert {step.outcome for step in sent} == {"passed"}
    for side, direction in (("inner", "in"), ("outer", "out")):
        assert walk_of(Tapped(0, side, direction, ECHO, None), {}) is None  # type: ignore[arg-type]


class FakeLoop:
    """Knows how far its tap is open, and has a packet whenever it is asked."""

    def __init__(self) -> None:
        self.open = 0
        self.passed = 0

    def tap(self, octets: int) -> None:
        self.open = octets

    def tapped(self) -> list[Tapped]:
        assert self.open
        self.passed += 1
        return [Tapped(self.passed, "inner", "out", ECHO, None)]


def test_the_tap_is_open_while_somebody_takes() -> None:
    loop = FakeLoop()
    hub = TapHub(loop)  # type: ignore[arg-type]
    one: list[int] = []
    other: list[int] = []

    def take(into: list[int], most: int) -> Callable[[Sequence[Tapped]], bool]:
        def taking(seen: Sequence[Tapped]) -> bool:
            into.extend(each.time_ns for each in seen)
            return len(into) < most

        return taking

    hub.pump()
    assert (loop.open, loop.passed, hub.is_open) == (0, 0, False)
    hub.join(take(one, 3))
    hub.pump()
    hub.join(take(other, 1))
    assert loop.open == TAP_OCTETS
    hub.pump()
    hub.pump()
    hub.pump()
    assert (one, other) == ([1, 2, 3], [2])
    assert (loop.open, hub.is_open) == (0, False)
