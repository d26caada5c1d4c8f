"""Engines with one fault each: the runner finds it, in the cases that are about it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wesper.engine import Engine, Event, Options
from wesper.engine.algorithms import ReferenceAlgorithms
from wesper.engine.reference import ReferenceEngine
from wesper.verdict import Delivered, Dropped, DropReason, Verdict

from .conftest import Run
from .mutate import Document


class CountsAuthElsewhere(ReferenceEngine):
    def _count(self, reason: DropReason) -> None:
        super()._count(DropReason.BAD_INNER if reason is DropReason.AUTH else reason)


class CountsTwice(ReferenceEngine):
    def _count(self, reason: DropReason) -> None:
        super()._count(reason)
        super()._count(reason)


class MovesItsWindowBeforeTheICV(ReferenceEngine):
    def decapsulate(self, packet: bytes, now: int) -> Verdict:
        for association in self._inbound.values():
            sequence = association.infer(int.from_bytes(packet[24:28], "big"))
            window = association.make(0).window
            if window is not None and sequence is not None and window.check(sequence):
                verdict = super().decapsulate(packet, now)
                window.accept(sequence)
                return verdict
        return super().decapsulate(packet, now)


class ForgetsTheWindow(ReferenceEngine):
    """A drop empties the window, its top stays."""

    def decapsulate(self, packet: bytes, now: int) -> Verdict:
        verdict = super().decapsulate(packet, now)
        if isinstance(verdict, Dropped):
            for association in self._inbound.values():
                window = association.make(0).window
                if window is not None:
                    window._ring = [0] * len(window._ring)
        return verdict


class AlwaysInfersTheSameHalf(ReferenceEngine):
    def infer(self, sa: int, low: int) -> int | None:
        return self._association(sa).top >> 32 << 32 | low


class LeavesTFCPadding(ReferenceEngine):
    def decapsulate(self, packet: bytes, now: int) -> Verdict:
        verdict = super().decapsulate(packet, now)
        if isinstance(verdict, Delivered) and len(packet) - len(verdict.packet) > 70:
            return Delivered(verdict.packet + b"\0", verdict.sa, verdict.sequence)
        return verdict


class CountsDummies(ReferenceEngine):
    def decapsulate(self, packet: bytes, now: int) -> Verdict:
        verdict = super().decapsulate(packet, now)
        if verdict == Dropped(DropReason.DUMMY):
            self._count(DropReason.BAD_INNER)
        return verdict


class MeansTooMuch(ReferenceEngine):
    def inner_mtu(self, sa: int, now: int = 0) -> int:
        return super().inner_mtu(sa, now) + 1


class RaisesNoAlarm(ReferenceEngine):
    def _tell(self, event: Event) -> None:
        pass


class Crashes(ReferenceEngine):
    def decapsulate(self, packet: bytes, now: int) -> Verdict:
        raise RuntimeError("key 00112233")


class _ForgivesOneBit(ReferenceAlgorithms):
    def open(
        self, suite: str, key: bytes, salt: bytes, auth_key: bytes, iv: bytes, associated: bytes, sealed: bytes
    ) -> bytes | None:
        found = super().open(suite, key, salt, auth_key, iv, associated, sealed)
        if found is None:
            sealed = sealed[:-1] + bytes((sealed[-1] ^ 1,))
            found = super().open(suite, key, salt, auth_key, iv, associated, sealed)
        return found


class ForgivesOneBitOfTheICV(ReferenceEngine):
    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self.algorithms = _ForgivesOneBit()


FAULTS: list[tuple[Callable[[Options], Engine], str, str]] = [
    (CountsAuthElsewhere, "vectors", "counters that rose"),
    (CountsTwice, "vectors", "counters that rose"),
    (MovesItsWindowBeforeTheICV, "vectors", "highest number of the window"),
    (MovesItsWindowBeforeTheICV, "replay_traces", "highest number afterwards"),
    (ForgetsTheWindow, "vectors", "the window afterwards"),
    (ForgetsTheWindow, "replay_traces", "number 0xc8"),
    (AlwaysInfersTheSameHalf, "esn_inference", "high half"),
    (AlwaysInfersTheSameHalf, "replay_traces", "inferred number"),
    (LeavesTFCPadding, "vectors", "packet"),
    (CountsDummies, "vectors", "counters that rose"),
    (MeansTooMuch, "inner_mtu", "inner MTU"),
    (RaisesNoAlarm, "ecn_decapsulation", "alarm"),
    (ForgivesOneBitOfTheICV, "public_aead", "opened although bit 127 of the ICV is wrong"),
    (Crashes, "vectors", "RuntimeError came out of decapsulate"),
]


@pytest.mark.parametrize(("engine", "where", "told"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_fault_is_found(
    engine: Callable[[Options], Engine], where: str, told: str, esp_document: Document, run: Run
) -> None:
    report = run(esp_document, engines={"faulty": engine})
    found = [failure.what for r in report.records if r.list == where for failure in r.failures]
    assert any(told in what for what in found), found
    assert report.passed > 0 or engine is Crashes


def test_crash_fails_its_cases_without_showing_its_text(esp_document: Document, run: Run) -> None:
    report = run(esp_document, engines={"faulty": Crashes})
    text = repr(report)
    assert "00112233" not in text
    assert report.passed > 40  # those that open no packet
