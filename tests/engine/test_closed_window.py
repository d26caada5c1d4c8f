"""An SA that goes on where an earlier run ended takes nothing of that run again: `Engine.close_window`."""

from __future__ import annotations

import pytest

from wesper import ConfigError, Delivered, Dropped, DropReason

from .pair import OUTER4, Pair


def sealed(pair: Pair, *numbers: int) -> list[object]:
    """Open packets with these numbers; True where delivered, else the reason."""
    verdicts = [pair.open(pair.seal(number, b"\x45" + bytes(19), 59)) for number in numbers]
    return [verdict.reason if isinstance(verdict, Dropped) else True for verdict in verdicts]


@pytest.mark.parametrize("top", [0, 1, 63, 64, 100, 127, 128, 5000, (1 << 32) - 1, (1 << 32) + 70])
@pytest.mark.parametrize("window", [32, 64, 1024])
def test_nothing_up_to_the_top_is_taken_and_everything_above_is(engine_name: str, top: int, window: int) -> None:
    pair = Pair.of(engine_name, sequence=top, window=window)
    pair.receiver.close_window(pair.in_)
    old = range(max(top - window + 1, 1), top + 1)
    assert set(sealed(pair, *old)) == ({DropReason.REPLAY} if top else set())
    assert pair.receiver.state(pair.in_).sequence == top
    # Out of order, and each once: also those in the word that the top stands in.
    above = [top + step for step in (3, 1, 2, 70, 64, 130)]
    assert sealed(pair, *above) == [DropReason.DUMMY] * len(above)
    assert sealed(pair, *(number for number in above if number > top + 130 - window)) == [
        DropReason.REPLAY for number in above if number > top + 130 - window
    ]


def test_without_it_an_old_packet_is_taken_once_more(engine_name: str) -> None:
    pair = Pair.of(engine_name, sequence=100, window=64)
    assert sealed(pair, 90) == [DropReason.DUMMY]


def test_in_the_middle_of_a_life(engine_name: str) -> None:
    pair = Pair.of(engine_name, window=64)
    assert isinstance(pair.open(pair.protect()), Delivered)
    late = pair.protect()
    assert isinstance(pair.open(pair.protect()), Delivered)
    pair.receiver.close_window(pair.in_)
    assert pair.open(late) == Dropped(DropReason.REPLAY)
    assert isinstance(pair.open(pair.protect()), Delivered)
    assert pair.receiver.state(pair.in_).packets == 3


def test_without_a_window_there_is_none_to_close(engine_name: str) -> None:
    pair = Pair.of(engine_name, sequence=100, window=0)
    pair.receiver.close_window(pair.in_)
    assert sealed(pair, 90) == [DropReason.DUMMY]


def test_only_inbound_ones_have_a_window(engine_name: str) -> None:
    pair = Pair.of(engine_name, outer=OUTER4)
    for sa in (pair.out, 12345):
        with pytest.raises(ConfigError, match="no inbound SA has the id"):
            pair.sender.close_window(sa)
