"""ECN through tunnels: the table of RFC 6040 figure 4, as esp.md §5.2 prints it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wesper import Delivered, Dropped, DropReason, EventKind, Outer

from .packets import ipv4, ipv6, patched
from .pair import OUTER4, OUTER6, Pair, counts, events

NOT, ECT0, ECT1, CE = 0b00, 0b10, 0b01, 0b11
OUTERS = (NOT, ECT0, ECT1, CE)
# Rows: inner; columns in the order of OUTERS: (delivered codepoint or None for a drop, alarm).
TABLE: dict[int, list[tuple[int | None, str]]] = {
    NOT: [(NOT, ""), (NOT, "always"), (NOT, "always"), (None, "always")],
    ECT0: [(ECT0, ""), (ECT0, ""), (ECT1, ""), (CE, "")],
    ECT1: [(ECT1, ""), (ECT1, "possible"), (ECT1, ""), (CE, "")],
    CE: [(CE, ""), (CE, ""), (CE, "always"), (CE, "")],
}


def packet(version: int, codepoint: int) -> bytes:
    if version == 4:
        return ipv4(b"payload", tos=0x2A << 2 | codepoint)
    return ipv6(b"payload", traffic_class=0x2A << 2 | codepoint, flow_label=0xFEDCB)


def remark(protected: bytes, codepoint: int) -> bytes:
    """What a router on the way makes of the outer header."""
    if protected[0] >> 4 == 4:
        return patched(protected, 1, bytes((protected[1] & 0xFC | codepoint,)))
    return protected[:1] + bytes((protected[1] & 0xCF | codepoint << 4,)) + protected[2:]


@pytest.mark.parametrize("outer_header", [OUTER4, OUTER6], ids=["over-v4", "over-v6"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("outer", OUTERS)
@pytest.mark.parametrize("inner", TABLE)
def test_table(engine_name: str, inner: int, outer: int, version: int, outer_header: Outer) -> None:
    pair = Pair.of(engine_name, outer=outer_header)
    expected, alarm = TABLE[inner][OUTERS.index(outer)]
    arriving = remark(pair.protect(packet(version, inner)), outer)
    with counts(pair.receiver, *([DropReason.ECN_DROP] if expected is None else [])):
        verdict = pair.open(arriving, now=77)
    if expected is None:
        assert verdict == Dropped(DropReason.ECN_DROP)
    else:
        assert verdict == Delivered(packet(version, expected), pair.in_, 1)
    told = events(pair.receiver)
    if not alarm:
        assert told == []
    else:
        (event,) = told
        assert (event.kind, event.now, event.sa, event.limit) == (EventKind.ECN_ALARM, 77, pair.in_, alarm)
        assert (event.inner, event.outer) == (inner, outer)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("codepoint", OUTERS)
def test_ingress_copies(engine_name: str, version: int, codepoint: int) -> None:
    """Normal mode (RFC 6040 §4.1); or Not-ECT, so that nothing shows outside."""
    for copy, shown in ((True, codepoint), (False, NOT)):
        protected = Pair.of(engine_name, outer=replace(OUTER4, copy_ecn=copy)).protect(packet(version, codepoint))
        assert protected[1] & 3 == shown


def test_dropped_packet_has_used_its_number(engine_name: str) -> None:
    pair = Pair.of(engine_name)
    arriving = remark(pair.protect(packet(4, NOT)), CE)
    with counts(pair.receiver, DropReason.ECN_DROP, DropReason.REPLAY):
        pair.open(arriving)
        assert pair.open(arriving) == Dropped(DropReason.REPLAY)
    assert pair.receiver.counters()["XfrmInStateModeError"] == 1
