"""The window against a set of all numbers, and inference against appendix A2 as esp.md §7.3 has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper import ConfigError, ReplayWindow
from wesper.sa import infer_sequence

WINDOWS = st.sampled_from([32, 64, 96, 128, 1024, 4096, 1 << 20])


@given(
    WINDOWS,
    st.integers(0, (1 << 64) - (1 << 21)),
    st.lists(st.integers(-150, 200) | st.sampled_from([1 << 20, 1024, -1024, 4096])),
)
def test_window_is_a_set(size: int, start: int, moves: list[int]) -> None:
    window, seen, top = ReplayWindow(size, start), set[int](), start
    for move in moves:
        number = max(top + move, 0)
        fresh = number > 0 and number > top - size and number not in seen
        assert window.check(number) is fresh
        assert window.check(number) is fresh, "looking changes nothing"
        assert window.accept(number) is fresh
        if fresh:
            seen.add(number)
            top = max(top, number)
        assert window.top == top


@pytest.mark.parametrize("size", [32, 64, 96, 4096, 1 << 20])
def test_all_of_a_full_window_is_seen(size: int) -> None:
    window = ReplayWindow(size)
    for number in range(1, size + 100):
        assert window.accept(number)
    assert not any(window.check(number) for number in range(size + 100))


@pytest.mark.parametrize("jump", [31, 32, 33, 63, 64, 65, 127, 128, 129, 1 << 40])
def test_jumps_leave_nothing_behind(jump: int) -> None:
    """Trap: words that are passed over must be cleared, also where the ring wraps."""
    window = ReplayWindow(64)
    for number in range(1, 300):
        window.accept(number)
    top = 299 + jump
    assert window.accept(top)
    for number in range(top - 63, top):
        assert window.check(number) is (number > 299)


@pytest.mark.parametrize("size", [0, 31, 33, -32, (1 << 20) + 32])
def test_sizes(size: int) -> None:
    with pytest.raises(ConfigError, match="multiple of 32"):
        ReplayWindow(size)


def appendix_a2(top: int, window: int, low: int) -> int | None:
    """The table of esp.md §7.3, case by case."""
    high, tl = top >> 32, top & 0xFFFFFFFF
    bl = (tl - window + 1) % (1 << 32)
    # (window inside one subspace, low half not left of its edge): how far the high half is from the top's.
    table = {(True, True): 0, (True, False): 1, (False, True): -1, (False, False): 0}
    hi = high + table[tl >= window - 1, low >= bl]
    return None if hi in (-1, 1 << 32) else hi << 32 | low


LOW = st.integers(0, (1 << 32) - 1) | st.sampled_from([0, 1, (1 << 32) - 1, 1 << 31])


@given(st.integers(0, (1 << 32) - 1) | st.sampled_from([0, 1, (1 << 32) - 1]), LOW, WINDOWS, LOW)
def test_inference(high: int, tl: int, window: int, low: int) -> None:
    assert infer_sequence(high << 32 | tl, window, low) == appendix_a2(high << 32 | tl, window, low)


@given(st.integers(1 << 20, (1 << 64) - (1 << 33)), WINDOWS, st.integers(-(1 << 20), 1 << 31))
def test_numbers_near_the_top_are_found(top: int, window: int, ahead: int) -> None:
    """Inside the window, and as far ahead as 2^32 less the window."""
    number = top + max(ahead, 1 - window)
    assert infer_sequence(top, window, number & 0xFFFFFFFF) == number


def test_without_a_window_half_the_space_lies_either_way() -> None:
    top = 5 << 32
    assert infer_sequence(top, 0, 0xFFFFFFFF) == top - 1
    assert infer_sequence(top, 0, 0x80000001) == (4 << 32 | 0x80000001)
    assert infer_sequence(top, 0, 0x80000000) == (5 << 32 | 0x80000000)
