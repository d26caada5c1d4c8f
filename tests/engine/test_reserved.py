"""Numbers that an SA may not use yet: `Engine.reserve`."""

from __future__ import annotations

import pytest

from wesper import ConfigError, Delivered, Dropped, DropReason, EventKind, Lifetime, Mode, Packets

from . import oracle
from .packets import ipv4
from .pair import OUTER4, Pair, counts, delivered, events, refused_out

PACKET = ipv4(b"payload")


@pytest.mark.parametrize("mode", list(Mode)[:2])
def test_goes_to_the_bound_and_on_when_it_is_raised(engine_name: str, mode: Mode) -> None:
    pair = Pair.of(engine_name, mode=mode, sequence=10, options={"audit": True})
    pair.sender.reserve(pair.out, 12)
    for number in (11, 12):
        assert delivered(pair.sender.encapsulate(pair.out, PACKET, 0)).sequence == number
    for _ in range(3):
        refused_out(pair.sender, pair.out, PACKET, DropReason.OUT_NOT_RESERVED)
    pair.sender.reserve(pair.out, 13)
    verdict = delivered(pair.sender.encapsulate(pair.out, PACKET, 0))
    assert verdict.sequence == 13
    assert isinstance(pair.open(verdict.packet), Delivered)
    refused_out(pair.sender, pair.out, PACKET, DropReason.OUT_NOT_RESERVED)
    assert events(pair.sender) == [], "a bound is nothing to audit, and no limit of the SA"


def test_lowered_below_what_was_sent(engine_name: str) -> None:
    pair = Pair.of(engine_name, sequence=10)
    pair.sender.reserve(pair.out, 5)
    refused_out(pair.sender, pair.out, PACKET, DropReason.OUT_NOT_RESERVED)
    pair.sender.reserve(pair.out, 0)
    refused_out(pair.sender, pair.out, PACKET, DropReason.OUT_NOT_RESERVED)


def test_dummies_and_batches_keep_to_it(engine_name: str) -> None:
    pair = Pair.of(engine_name)
    pair.sender.reserve(pair.out, 3)
    assert isinstance(pair.sender.dummy(pair.out, b"x", 0), Delivered)
    results = pair.sender.encapsulate_many(pair.out, Packets.of([PACKET] * 4), 0)
    code = DropReason.OUT_NOT_RESERVED.code
    assert (results.codes.tolist(), results.sequences.tolist()) == ([0, 0, code, code], [2, 3, 0, 0])
    with counts(pair.sender, DropReason.OUT_NOT_RESERVED):
        assert pair.sender.dummy(pair.out, b"x", 0) == Dropped(DropReason.OUT_NOT_RESERVED)


@pytest.mark.parametrize("esn", [True, False])
def test_the_last_number_of_all_stays_the_last(engine_name: str, esn: bool) -> None:
    last = (1 << 64 if esn else 1 << 32) - 1
    pair = Pair.of(engine_name, sequence=last - 2, esn=esn)
    pair.sender.reserve(pair.out, last - 1)
    pair.protect()
    refused_out(pair.sender, pair.out, PACKET, DropReason.OUT_NOT_RESERVED)
    pair.sender.reserve(pair.out, (1 << 64) - 1)
    pair.protect()
    refused_out(pair.sender, pair.out, PACKET, DropReason.OUT_SEQUENCE_OVERFLOW)


def test_other_reasons_come_first(engine_name: str) -> None:
    """A packet that could not have gone anyway says so."""
    pair = Pair.of(engine_name, mtu=1000, hard=Lifetime(seconds=9))
    pair.sender.reserve(pair.out, 0)
    refused_out(pair.sender, pair.out, ipv4(bytes(1000)), DropReason.OUT_TOO_BIG)
    refused_out(pair.sender, pair.out, PACKET, DropReason.OUT_NOT_RESERVED)
    refused_out(pair.sender, pair.out, PACKET, DropReason.OUT_EXPIRED, now=10**10)
    assert [event.kind for event in events(pair.sender)] == [EventKind.HARD_EXPIRED]


def test_mistakes_are_told(engine_name: str) -> None:
    pair = Pair.of(engine_name, outer=OUTER4, keys=oracle.Keys.of("aes-gcm-16"))
    for last in (-1, 1 << 64):
        with pytest.raises(ConfigError, match="sequence number"):
            pair.sender.reserve(pair.out, last)
    with pytest.raises(ConfigError, match="no outbound SA"):
        pair.receiver.reserve(pair.in_, 5)
    with pytest.raises(ConfigError, match="no outbound SA"):
        pair.sender.reserve(pair.out + 1, 5)
