"""The list `ecn_decapsulation`: what becomes of the two ECN bits at the end of a tunnel (RFC 6040)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from ..engine import Engine, EventKind
from ..sa import Outer
from ..verdict import Delivered, DropReason
from .case import Case, outcome
from .esp_sa import HOSTS, Pair, pair_of_suite
from .fields import FieldError, Fields
from .ip_packets import ip_packet, with_ecn

_IN: Final = "decapsulate"
_DROP: Final = "drop"
_ALARMS: Final = ("", "possible", "always")


def run(entry: Fields, case: Case) -> None:
    """Open a packet with these bits inside and outside, over IPv4 and IPv6 in all four combinations."""
    inner, outer = entry.integer("inner", 0, 3), entry.integer("outer", 0, 3)
    found = [
        (f"IPv{inside} in IPv{outside}", inside, *_opened(case, inside, outside, inner, outer))
        for inside in HOSTS
        for outside in HOSTS
    ]
    result = None if entry.is_word("result", _DROP) else entry.integer("result", 0, 3)
    alarm = entry.word("alarm", _ALARMS)
    for what, version, verdict, packet, alarms in found:
        if result is None:
            case.equal(f"{what}: verdict", DropReason.ECN_DROP.verdict, verdict, _IN)
        else:
            case.equal(f"{what}: verdict", "delivered", verdict, _IN)
            case.equal(f"{what}: packet", _inner_packet(version, result), packet, _IN)
        case.equal(f"{what}: alarm", alarm, alarms, _IN)


def _opened(case: Case, inside: int, outside: int, inner: int, outer: int) -> tuple[str, bytes, str]:
    """Return verdict, packet and alarms of one tunnel."""
    pair = pair_of_suite("aes-gcm-16", esn=True)
    pair = replace(pair, shape=replace(pair.shape, outer=Outer(*HOSTS[outside])))
    protected = with_ecn(_protected(case.engine(), pair, _inner_packet(inside, inner)), outer)
    engine = case.engine()
    engine.install(pair.receiver(0))
    verdict = engine.decapsulate(protected, 0)
    packet = verdict.packet if isinstance(verdict, Delivered) else b""
    return outcome(verdict), packet, ", ".join(_alarms(engine))


def _protected(engine: Engine, pair: Pair, packet: bytes) -> bytes:
    verdict = engine.encapsulate(engine.install(pair.sender(1)), packet, 0)
    if not isinstance(verdict, Delivered):
        raise FieldError(f"the packet can't be protected: {outcome(verdict)}")
    return verdict.packet


def _alarms(engine: Engine) -> Iterator[str]:
    while (event := engine.next_event()) is not None:
        if event.kind is EventKind.ECN_ALARM:
            yield event.limit


def _inner_packet(version: int, ecn: int) -> bytes:
    return ip_packet(*HOSTS[version], b"payload of a packet", ecn=ecn)
