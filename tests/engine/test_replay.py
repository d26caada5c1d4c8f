"""Anti-replay, extended sequence numbers and their end (RFC 4303 §2.2, §3.3.3, §3.4.3, appendix A)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from wesper import Delivered, Direction, Dropped, DropReason, EventKind, Profile

from . import oracle
from .packets import ipv4
from .pair import OUTER4, SECOND, SPI, Pair, counts, delivered, engine, events, refused, refused_out, sa

PACKET = ipv4(b"numbered")
TRACES: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "vectors" / "esp.json").read_text())[
    "replay_traces"
]


def forged(packet: bytes) -> bytes:
    return packet[:-1] + bytes((packet[-1] ^ 1,))


@pytest.mark.parametrize("trace", TRACES, ids=lambda t: str(t["name"]))
def test_traces(engine_name: str, trace: dict[str, Any]) -> None:
    pair = Pair.of(engine_name, esn=trace["esn"], window=trace["window"], sequence=int(trace.get("start", "0"), 16))
    reasons = {"replay": DropReason.REPLAY, "auth": DropReason.AUTH}
    for step in trace["steps"]:
        number = int(step["seq"], 16)
        packet = pair.seal(number, PACKET)
        arriving = packet if step["icv_good"] else forged(packet)
        if step["expect"] == "accept":
            with counts(pair.receiver):
                assert pair.open(arriving) == Delivered(PACKET, pair.in_, number), step
        else:
            refused(pair.receiver, arriving, reasons[step["expect"]], sa=pair.in_)


@pytest.mark.parametrize("window", [32, 64, 96, 128, 1024, 4096, 65536, 1 << 20])
def test_edges_of_the_window(engine_name: str, window: int) -> None:
    """Exactly `window` numbers are open: top - window is too old, top - window + 1 is not."""
    top = 3 * window + 5
    pair = Pair.of(engine_name, window=window, esn=False)
    assert isinstance(pair.open(pair.seal(top, PACKET)), Delivered)
    refused(pair.receiver, pair.seal(0, PACKET), DropReason.REPLAY, sa=pair.in_)
    refused(pair.receiver, pair.seal(top, PACKET), DropReason.REPLAY, sa=pair.in_)
    refused(pair.receiver, pair.seal(top - window, PACKET), DropReason.REPLAY, sa=pair.in_)
    for number in (top - window + 1, top - 1, top - window // 2):
        assert pair.open(pair.seal(number, PACKET)) == Delivered(PACKET, pair.in_, number)
        refused(pair.receiver, pair.seal(number, PACKET), DropReason.REPLAY, sa=pair.in_)
    # One further, and the left edge has moved by one.
    assert isinstance(pair.open(pair.seal(top + 1, PACKET)), Delivered)
    refused(pair.receiver, pair.seal(top - window + 1, PACKET), DropReason.REPLAY, sa=pair.in_)
    assert isinstance(pair.open(pair.seal(top - window + 2, PACKET)), Delivered)
    assert pair.receiver.state(pair.in_).sequence == top + 1
    # As many as the window holds, and all are gone.
    assert isinstance(pair.open(pair.seal(top + 1 + window, PACKET)), Delivered)
    refused(pair.receiver, pair.seal(top + 1, PACKET), DropReason.REPLAY, sa=pair.in_)


@pytest.mark.parametrize("esn", [False, True], ids=["32-bit", "esn"])
@pytest.mark.parametrize("window", [32, 64, 1024])
def test_random_order(engine_name: str, window: int, esn: bool) -> None:
    """Against a set of all numbers seen."""
    chance = random.Random(window)
    start = (1 << 32) - 700 if esn else 0
    pair = Pair.of(engine_name, window=window, esn=esn, sequence=start)
    top, seen = start, set[int]()
    for _ in range(1500):
        number = max(top + chance.randint(-window - window // 4, 40), start + 1 if top < start + window else 1)
        packet = pair.seal(number, PACKET)
        if number in seen and number > top - window:
            reason: DropReason | None = DropReason.REPLAY
        elif number <= top - window:
            # Under ESN nothing is too old: the number is read as one of the next 2^32 (esp.md §7.3).
            reason = DropReason.AUTH if esn else DropReason.REPLAY
        else:
            reason = None
        if reason is None:
            assert pair.open(packet) == Delivered(PACKET, pair.in_, number)
            seen.add(number)
            top = max(top, number)
        else:
            refused(pair.receiver, packet, reason, sa=pair.in_)


def test_a_forged_packet_does_not_move_the_window(engine_name: str) -> None:
    """Trap 3: else one packet blinds the SA."""
    pair = Pair.of(engine_name, window=64)
    assert isinstance(pair.open(pair.seal(1, PACKET)), Delivered)
    refused(pair.receiver, forged(pair.seal(100_000, PACKET)), DropReason.AUTH, sa=pair.in_)
    assert pair.open(pair.seal(2, PACKET)) == Delivered(PACKET, pair.in_, 2)
    refused(pair.receiver, forged(pair.seal(3, PACKET)), DropReason.AUTH, sa=pair.in_)
    assert pair.open(pair.seal(3, PACKET)) == Delivered(PACKET, pair.in_, 3)


def test_window_off(engine_name: str) -> None:
    """RFC 4303 §3.4.3: then the number is not looked at, 0 may come, and again."""
    pair = Pair.of(engine_name, window=0, esn=False)
    for number in (5, 5, 1, 0, 0xFFFFFFFF, 0, 5):
        assert pair.open(pair.seal(number, PACKET)) == Delivered(PACKET, pair.in_, number)
    assert pair.receiver.state(pair.in_).sequence == 0xFFFFFFFF


def test_window_off_with_esn(engine_name: str) -> None:
    """The top is still needed to find the high half (RFC 4303 §3.3.3 note)."""
    pair = Pair.of(engine_name, window=0, sequence=(7 << 32) - 2)
    for number in ((7 << 32) - 1, 7 << 32, (7 << 32) + 9, (7 << 32) - 1):
        assert pair.open(pair.seal(number, PACKET)) == Delivered(PACKET, pair.in_, number)
    assert pair.receiver.state(pair.in_).sequence == (7 << 32) + 9


def test_number_before_the_first(engine_name: str) -> None:
    """ESN at its start: a low half left of the window would have a high half of -1 (esp.md §7.3)."""
    pair = Pair.of(engine_name, window=64)
    assert isinstance(pair.open(pair.seal(5, PACKET)), Delivered)
    refused(pair.receiver, pair.seal(0xFFFFFFFE, PACKET), DropReason.REPLAY, sa=pair.in_)
    assert pair.receiver.infer(pair.in_, 0xFFFFFFFE) is None


def test_sender_crosses_the_halves(engine_name: str) -> None:
    pair = Pair.of(engine_name, sequence=0xFFFFFFFD)
    for number in range(0xFFFFFFFE, 0x1_0000_0003):
        verdict = pair.sender.encapsulate(pair.out, PACKET, 0)
        assert verdict.sequence == number  # type: ignore[union-attr]
        assert pair.open(delivered(verdict).packet) == Delivered(PACKET, pair.in_, number)


@pytest.mark.parametrize("window", [0, 64])
def test_state_of_the_sender(engine_name: str, window: int) -> None:
    """Its last number used, whether or not the peer has a window."""
    pair = Pair.of(engine_name, window=window, sequence=41)
    assert pair.sender.state(pair.out).sequence == 41
    pair.protect()
    assert pair.sender.state(pair.out).sequence == 42


@pytest.mark.parametrize("suite", oracle.SUITES)
@pytest.mark.parametrize(("esn", "last"), [(False, (1 << 32) - 1), (True, (1 << 64) - 1)])
@pytest.mark.parametrize("window", [0, 64])
def test_numbers_end(engine_name: str, suite: str, esn: bool, last: int, window: int) -> None:
    """RFC 4303 §3.3.3: the counter never cycles, not even where the peer does no anti-replay (esp.md §1.2)."""
    pair = Pair.of(engine_name, suite, esn=esn, window=window, sequence=last - 1, options={"audit": True})
    final = delivered(pair.sender.encapsulate(pair.out, PACKET, 0))
    assert final.sequence == last
    assert pair.open(final.packet) == Delivered(PACKET, pair.in_, last)
    events(pair.sender)
    for now in (5, 6):
        refused_out(pair.sender, pair.out, PACKET, DropReason.OUT_SEQUENCE_OVERFLOW, now=now)
        (event,) = events(pair.sender)
        assert (event.kind, event.reason) == (EventKind.AUDIT, DropReason.OUT_SEQUENCE_OVERFLOW)
        assert (event.spi, event.sequence, event.now) == (SPI, 0xFFFFFFFF, now)
    with counts(pair.sender, DropReason.OUT_SEQUENCE_OVERFLOW):
        assert pair.sender.dummy(pair.out, b"", 7) == Dropped(DropReason.OUT_SEQUENCE_OVERFLOW)
    assert pair.sender.counters()["XfrmOutStateSeqError"] == 3


def test_soft_limit_of_numbers(engine_name: str) -> None:
    """Half of 2^32 is the time to make the next SA; with ESN there is no such need (esp.md §8.1)."""
    for esn in (False, True):
        pair = Pair.of(engine_name, esn=esn, sequence=(1 << 31) - 2)
        pair.protect()
        assert events(pair.sender) == []
        pair.protect(now=9)
        pair.protect()
        told = [(e.kind, e.limit, e.now, e.sa) for e in events(pair.sender)]
        assert told == ([] if esn else [(EventKind.SOFT_EXPIRED, "sequence", 9, pair.out)])


# Resynchronisation (appendix A3).


def lost_in_space(name: str, blocks: int, **settings: Any) -> tuple[Pair, int]:
    """A receiver whose sender is `blocks` times 2^32 ahead, and the number that it sends."""
    pair = Pair.of(name, window=64, **settings)
    assert isinstance(pair.open(pair.seal(3, PACKET)), Delivered)
    return pair, (blocks << 32) + 10


def fail(pair: Pair, number: int, times: int, now: int = 0) -> None:
    for _ in range(times):
        refused(pair.receiver, pair.seal(number, PACKET), DropReason.AUTH, now, sa=pair.in_)


@pytest.mark.parametrize("blocks", [1, 2, 16])
def test_resynchronisation(engine_name: str, blocks: int) -> None:
    """After 64 failures in a row one packet is tried with the next high halves."""
    pair, number = lost_in_space(engine_name, blocks)
    fail(pair, number, 63)
    assert events(pair.receiver) == []
    with counts(pair.receiver):
        assert pair.open(pair.seal(number, PACKET), now=4 * SECOND) == Delivered(PACKET, pair.in_, number)
    (event,) = events(pair.receiver)
    assert (event.kind, event.sa, event.now, event.sequence) == (
        EventKind.RESYNCHRONISED,
        pair.in_,
        4 * SECOND,
        10,
    )
    state = pair.receiver.state(pair.in_)
    assert (state.sequence, state.integrity_failed, state.packets) == (number, 63, 2)
    assert pair.open(pair.seal(number + 1, PACKET)) == Delivered(PACKET, pair.in_, number + 1)
    refused(pair.receiver, pair.seal(number, PACKET), DropReason.REPLAY, sa=pair.in_)


def test_resynchronisation_has_a_limit(engine_name: str) -> None:
    pair, number = lost_in_space(engine_name, 17)
    fail(pair, number, 70)
    fail(pair, number, 3, now=SECOND)


def test_one_attempt_a_second(engine_name: str) -> None:
    """What costs 16 decryptions must not be had for each forged packet."""
    pair, number = lost_in_space(engine_name, 1)
    for _ in range(64):
        refused(pair.receiver, forged(pair.seal(10, PACKET)), DropReason.AUTH, 100, sa=pair.in_)
    fail(pair, number, 3, now=SECOND - 1)
    assert isinstance(pair.open(pair.seal(number, PACKET), now=SECOND), Delivered)


def test_a_good_packet_resets_the_failures(engine_name: str) -> None:
    pair, number = lost_in_space(engine_name, 1)
    fail(pair, number, 63)
    assert isinstance(pair.open(pair.seal(4, PACKET)), Delivered)
    fail(pair, number, 63)
    assert isinstance(pair.open(pair.seal(number, PACKET)), Delivered)


def test_never_backwards_and_not_past_the_end(engine_name: str) -> None:
    pair = Pair.of(engine_name, window=64, sequence=((1 << 32) - 2) << 32 | 100)
    for _ in range(70):
        refused(pair.receiver, pair.seal(10, PACKET), DropReason.AUTH, sa=pair.in_)
    for second in range(1, 4):
        refused(pair.receiver, pair.seal(5 << 32, PACKET), DropReason.AUTH, second * SECOND, sa=pair.in_)


@pytest.mark.parametrize("settings", [{"resynchronise": False}, {"esn": False}], ids=["off", "32-bit"])
def test_no_resynchronisation(engine_name: str, settings: dict[str, Any]) -> None:
    pair, _ = lost_in_space(engine_name, 1, **settings)
    for _ in range(70):
        refused(pair.receiver, forged(pair.seal(10, PACKET)), DropReason.AUTH, sa=pair.in_)
    assert events(pair.receiver) == []


def test_thresholds(engine_name: str) -> None:
    """resync_failures and resync_tries of the engine."""
    pair, number = lost_in_space(engine_name, 3, options={"resync_failures": 2, "resync_tries": 3})
    fail(pair, number, 1)
    assert isinstance(pair.open(pair.seal(number, PACKET)), Delivered)


def test_infer_of_the_sender(engine_name: str) -> None:
    host = engine(engine_name)
    keys = oracle.Keys.of("aes-gcm-16")
    plain = host.install(sa(Profile("aes-gcm-16", outer=OUTER4, esn=False), Direction.IN, keys, sequence=77))
    assert host.infer(plain, 5) == 5
