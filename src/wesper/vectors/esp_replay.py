"""The lists `replay_traces` and `esn_inference`: the window that SAs use, and the high half that is not sent."""

from __future__ import annotations

from typing import Final

from ..engine import Engine
from ..protocols.ip import IPV4_HEADER
from ..verdict import Delivered
from ..wire.esp import ESP
from ..wire.numbers import ESP as ESP_PROTOCOL
from ..wire.numbers import IPV4
from .case import Case, outcome
from .esp_sa import HOSTS, Pair, pair_of_suite, read_sequence
from .fields import FieldError, Fields
from .ip_packets import ip_packet

_IN: Final = "decapsulate"
_SUITE: Final = "aes-gcm-16"
_LOW: Final = 0xFFFFFFFF
_ANSWERS: Final = ("accept", "replay", "auth")


def run_trace(entry: Fields, case: Case) -> None:
    """Send an SA one packet after the other."""
    window, esn = entry.integer("window", 32, 1 << 20), entry.flag("esn")
    start = read_sequence(entry, "start", esn=esn) if entry.has("start") else 0
    pair = pair_of_suite(_SUITE, esn=esn)
    sender, engine = case.engine(), case.engine()
    sa = engine.install(pair.receiver(start, window))
    steps = 0
    for step in entry.objects("steps"):
        steps += 1
        sequence, good = read_sequence(step, "seq", esn=esn), step.flag("icv_good")
        inferred = engine.infer(sa, sequence & _LOW)
        top = engine.state(sa).sequence
        packet = _sealed(sender, pair, sequence)
        verdict = engine.decapsulate(packet if good else packet[:-1] + bytes((packet[-1] ^ 1,)), 0)
        answer = "accept" if isinstance(verdict, Delivered) else outcome(verdict)

        expect = step.word("expect", _ANSWERS)
        case.equal(f"{step.path} number {sequence:#x}", expect, answer, _IN)
        if step.has("inferred_seq"):
            wanted = read_sequence(step, "inferred_seq", esn=esn)
            case.equal(f"{step.path} inferred number", _shown(wanted), _shown(inferred), _IN)
        elif inferred is not None:  # no number at all: then the answer tells
            case.equal(f"{step.path} inferred number", _shown(sequence), _shown(inferred), _IN)
        if isinstance(verdict, Delivered):
            case.equal(f"{step.path} delivered number", _shown(inferred), _shown(verdict.sequence), _IN)
        else:
            case.equal(f"{step.path} highest number afterwards", top, engine.state(sa).sequence, _IN)
    if steps == 0:
        raise FieldError("steps is empty")


def run_inference(entry: Fields, case: Case) -> None:
    """Ask an SA for the high half of one number, then show it a packet with that low half."""
    window, highest = entry.integer("window", 32, 1 << 31), entry.number("highest", 64)
    low = entry.number("seq_low", 32)
    pair = pair_of_suite(_SUITE, esn=True)
    engine = case.engine()
    sa = engine.install(pair.receiver(highest, window))
    inferred = engine.infer(sa, low)
    expected = _read_high(entry)
    case.equal("high half", _shown(expected), _shown(None if inferred is None else inferred >> 32), _IN)
    if inferred is not None:
        case.equal("low half", _shown(low), _shown(inferred & _LOW), _IN)

    if expected is None:
        # No number fits: dropped as replay, and the ICV, which is wrong, is not looked at.
        verdict = outcome(engine.decapsulate(_crafted(pair.spi, low, bytes(8 + 16 + 16)), 0))
        case.equal("verdict on a packet with this low half", "replay", verdict, _IN)
        return
    number = expected << 32 | low
    answer = engine.decapsulate(_sealed(case.engine(), pair, number), 0)
    if number > highest:
        case.equal(f"verdict on number {number:#x}", "delivered", outcome(answer), _IN)
    elif outcome(answer) not in ("delivered", "replay"):
        # Whether it was seen before is left open; that its ICV holds is not.
        case.equal(f"verdict on number {number:#x}", "delivered or replay", outcome(answer), _IN)


def _read_high(entry: Fields) -> int | None:
    """Read the expected high half, None for "none"."""
    return None if entry.is_word("expect_seq_high", "none") else entry.number("expect_seq_high", 32)


def _sealed(engine: Engine, pair: Pair, sequence: int) -> bytes:
    """Return a genuine packet.   No SA sends number 0, so that one is put together by hand."""
    if sequence:
        return pair.seal(engine, sequence)
    suite, iv = pair.shape.suite.name, bytes(8)
    algorithms = engine.algorithms
    associated = algorithms.associated(suite, pair.spi, 0, pair.shape.esn, iv)
    plaintext = ip_packet(*HOSTS[4], bytes(2)) + bytes((0, IPV4))
    assert len(plaintext) == IPV4_HEADER + 4  # whole words: no padding
    return _crafted(pair.spi, 0, iv + algorithms.seal(suite, pair.key, pair.salt, b"", iv, associated, plaintext))


def _crafted(spi: int, low: int, rest: bytes) -> bytes:
    return ip_packet(*HOSTS[4], ESP(spi, low).build() + rest, protocol=ESP_PROTOCOL)


def _shown(number: int | None) -> str:
    return "none" if number is None else f"{number:#x}"
