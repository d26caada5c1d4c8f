"""One packet's walk, traced with the SAs of a key file: what was asked of it at each stage, and where it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..engine import Options, open_engine
from ..engine.walk import Step, as_json, look, walk
from ..keying import StaticSA
from ..sa import Direction
from ..verdict import Delivered, Dropped, DropReason
from .encrypt import Chooser
from .opener import Opener


@dataclass(frozen=True, slots=True)
class Trace:
    """A packet's walk.   result: the packet that came of it, b"" if it was dropped."""

    direction: Direction
    packet: bytes
    reason: DropReason | None
    steps: Sequence[Step]
    result: bytes = b""

    def as_json(self) -> dict[str, Any]:
        """Return it with stable names."""
        return {
            **as_json(self.direction, self.packet, list(self.steps)),
            "reason": self.reason.name if self.reason else None,
            "verdict": self.reason.verdict if self.reason else "delivered",
            "counter": (self.reason.counter or None) if self.reason else None,
            "result_octets": len(self.result) or None,
        }


class Tracer:
    """Traces packets in the order in which they come, windows and numbers going on from one to the next."""

    def __init__(self, sas: Sequence[StaticSA], engine: str | None = None) -> None:
        self._sas, self._engine = sas, engine
        self._opener = Opener(sas, engine, anti_replay=True)
        self._chooser: Chooser | None = None
        self._sending = open_engine(engine, Options(events=1))

    def inbound(self, packet: bytes) -> Trace:
        """Trace a packet from the unprotected side.   packet: from its IP header, reassembled."""
        found = look(Direction.IN, packet)
        before = self._opener.find(packet)
        if before is not None:
            sa, state = before
            found["sa"] = _named(sa)
            if state is not None and state.packets:
                found["replay"] = f"the highest number so far is {state.sequence}"
        (opened,) = self._opener.open([packet])
        if opened.reason is None and isinstance(opened.sa, StaticSA):
            so_far = f"; {found['replay']}" if "replay" in found else ""
            found["replay"] = f"number {opened.sequence}{so_far}"
            found["icv"] = f"{opened.sa.cipher.icv_octets} octets, and they fit"
            found["mode"] = f"{_mode(opened.sa)}: {look(Direction.OUT, opened.packet).get('ip', 'no IP packet')}"
        steps = walk(Direction.IN, opened.reason, found)
        if opened.reason in (DropReason.AUTH, DropReason.REPLAY):
            steps = [_also(step, found) for step in steps]
        return Trace(Direction.IN, packet, opened.reason, steps, opened.packet)

    def outbound(self, packet: bytes) -> Trace:
        """Trace a packet from the protected side.   Raises ConfigError if the key file has no SA that sends."""
        if self._chooser is None:
            self._chooser = Chooser(self._sas, self._sending)
        found = look(Direction.OUT, packet)
        sa = self._chooser.choose(packet)
        if not isinstance(sa, StaticSA):
            reason: DropReason | None = DropReason.OUT_NO_SA if found else DropReason.OUT_BAD_PACKET
            return Trace(Direction.OUT, packet, reason, walk(Direction.OUT, reason, found))
        number = self._chooser.numbers[id(sa)]
        found["policy"], found["sa"] = "the key file has an SA for it", _named(sa)
        found["size"] = f"the largest packet is {self._sending.inner_mtu(number):,} octets"
        verdict = self._sending.encapsulate(number, packet, 0)
        reason = verdict.reason if isinstance(verdict, Dropped) else None
        result = b""
        if isinstance(verdict, Delivered):
            result = verdict.packet
            found["mode"], found["number"] = _mode(sa), f"{verdict.sequence}"
        return Trace(Direction.OUT, packet, reason, walk(Direction.OUT, reason, found), result)


def _also(step: Step, found: dict[str, str]) -> Step:
    """Return a step that dropped a packet with what is known of it besides the reason."""
    known = found.get(step.stage.name)
    return Step(step.stage, step.outcome, f"{step.text}; {known}") if step.outcome == "dropped" and known else step


def _named(sa: StaticSA) -> str:
    return f"{sa.title}, {sa.suite}, ESN {'on' if sa.esn else 'off'}"


def _mode(sa: StaticSA) -> str:
    return "as the packet shows" if sa.mode is None else f"{sa.mode.name.lower()} mode"
