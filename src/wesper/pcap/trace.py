"""One packet's walk, traced with the SAs of a key file: what was asked of it at each stage, and where it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..engine import Options, open_engine
from ..engine.walk import Step, as_json, look, walk
from ..keying import PSPAssociation, PSPKeys, StaticSA
from ..psp import walk as psp_walk
from ..sa import Direction
from ..verdict import Delivered, Dropped, DropReason
from .encrypt import Chooser
from .opener import Opener
from .psp_opener import PSPOpener
from .psp_sender import PSPSender


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

    def __init__(self, sas: Sequence[StaticSA], engine: str | None = None, psp: PSPKeys | None = None) -> None:
        self._sas, self._engine = sas, engine
        self._psp = psp or PSPKeys()
        self._psp_opener = PSPOpener(self._psp, engine)
        self._psp_sender: PSPSender | None = None
        self._opener = Opener(sas, engine, anti_replay=True)
        self._chooser: Chooser | None = None
        self._sending = open_engine(engine, Options(events=1))

    def inbound(self, packet: bytes) -> Trace:
        """Trace a packet from the unprotected side.   packet: from its IP header, reassembled."""
        if self._psp_opener.concerns(packet):
            return self._psp_inbound(packet)
        before = self._opener.find(packet)
        found = look(Direction.IN, packet, "" if before is None else before[0].protocol)
        if before is not None:
            sa, state = before
            found["sa"] = _named(sa)
            if state is not None and state.packets:
                found["replay"] = f"the highest number so far is {state.sequence}"
        (opened,) = self._opener.open([packet])
        if opened.reason is None and isinstance(opened.sa, StaticSA):
            so_far = f"; {found['replay']}" if "replay" in found else ""
            terms = opened.sa.terms
            numbered = terms.ways.sends_numbers(terms)
            found["replay"] = f"number {opened.sequence}{so_far}" if numbered else "there are no numbers"
            found["icv"] = f"{opened.sa.cipher.icv_octets} octets, and they fit"
            found["mode"] = f"{_mode(opened.sa)}: {look(Direction.OUT, opened.packet).get('ip', 'no IP packet')}"
        steps = walk(Direction.IN, opened.reason, found)
        if opened.reason in (DropReason.AUTH, DropReason.REPLAY):
            steps = [_also(step, found) for step in steps]
        return Trace(Direction.IN, packet, opened.reason, steps, opened.packet)

    def outbound(self, packet: bytes) -> Trace:
        """Trace a packet from the protected side.   Raises ConfigError if the key file has no SA that sends."""
        if self._chooser is None:
            self._chooser = Chooser(self._sas, self._sending, psp=self._psp.associations)
        found = look(Direction.OUT, packet)
        sa = self._chooser.choose(packet)
        if isinstance(sa, PSPAssociation):
            return self._psp_outbound(packet, sa)
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

    def _psp_inbound(self, packet: bytes) -> Trace:
        found = psp_walk.look(Direction.IN, packet)
        (opened,) = self._psp_opener.open([packet])
        by = opened.sa or self._psp_opener.find(packet)
        if by is not None and by.name and "key" in found:
            found["key"] = f"{by.name}: {found['key']}"
        if opened.sa is not None:
            found["icv"] = "16 octets, and they fit"
            found["sample"] = "its sender wants it sampled" if opened.sampled else ""
        if opened.packet:
            found["inside"] = look(Direction.OUT, opened.packet).get("ip", "no IP packet")
        steps = psp_walk.walk(Direction.IN, opened.reason, found)
        return Trace(Direction.IN, packet, opened.reason, steps, b"" if opened.reason else opened.packet)

    def _psp_outbound(self, packet: bytes, association: PSPAssociation) -> Trace:
        if self._psp_sender is None:
            assert self._chooser is not None  # it has chosen the association
            self._psp_sender = PSPSender(self._chooser.psp, self._engine)
        found = psp_walk.look(Direction.OUT, packet)
        ((reason, sent, iv),) = self._psp_sender.protect([packet], [association])
        profile = association.profile
        found["association"] = f"{association.title}, {association.suite}"
        found["mode"] = f"{profile.mode.name.lower()} mode"
        found["offset"] = f"{4 * profile.crypt_offset_words} octets"
        if reason is None:
            found["iv"] = f"{iv:#018x}"
            found["size"] = f"{len(sent):,} octets"
        return Trace(Direction.OUT, packet, reason, psp_walk.walk(Direction.OUT, reason, found), sent)


def _also(step: Step, found: dict[str, str]) -> Step:
    """Return a step that dropped a packet with what is known of it besides the reason."""
    known = found.get(step.stage.name)
    return Step(step.stage, step.outcome, f"{step.text}; {known}") if step.outcome == "dropped" and known else step


def _named(sa: StaticSA) -> str:
    terms = sa.terms
    numbers = "" if terms.ways.whole_numbers else f", ESN {'on' if sa.esn else 'off'}"
    return f"{sa.title}, {sa.suite}{numbers}"


def _mode(sa: StaticSA) -> str:
    return "as the packet shows" if sa.mode is None else f"{sa.mode.name.lower()} mode"
