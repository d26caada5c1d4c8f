"""IVs never repeat: over threads, clock steps, restarts, a full disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper import psp
from wesper.errors import ConfigError, KeyMaterialError, UnsupportedError
from wesper.psp.clock import open_clock
from wesper.psp.ivs import CLOCK_AHEAD
from wesper.verdict import Dropped, DropReason

from .packets import udp

END = (1 << 64) - 1


class Time:
    """A clock that shows what it is told."""

    def __init__(self, now: int = 1_800_000_000_000_000_000) -> None:
        self.now = now

    def clock(self) -> psp.Clock:
        return psp.Clock("test", lambda: self.now)


class FullDisk(psp.MemoryMarks):
    """Marks that can't be written while it is full."""

    full = False

    def raise_iv(self, to: int) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().raise_iv(to)


def sources() -> list[Callable[[psp.Marks], psp.IVSource]]:
    return [lambda marks: psp.ClockIVs(Time().clock(), marks, 1000), lambda marks: psp.CounterIVs(marks, 1000)]


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.integers(0, 3000)),
            st.tuples(st.just("clock"), st.integers(-5000, 5000) | st.integers(-(10**18), 10**18)),
            st.tuples(st.just("restart"), st.just(0)),
            st.tuples(st.just("settle"), st.just(0)),
            st.tuples(st.just("reserve"), st.just(0)),
        )
    ),
    counter=st.booleans(),
)
def test_no_iv_comes_twice_whatever_happens(steps: list[tuple[str, int]], counter: bool) -> None:
    marks, time = psp.MemoryMarks(), Time()

    def start() -> psp.IVSource:
        return psp.CounterIVs(marks, 1000) if counter else psp.ClockIVs(time.clock(), marks, 1000)

    source, end = start(), 0
    for step, by in steps:
        if step == "take":
            first = source.take(by)
            assert first is not None
            assert first >= end
            end = max(end, first + by)
            assert marks.iv >= end or not by  # on disk before it is used
        elif step == "clock":
            time.now = max(time.now + by, 0)
        elif step == "settle":
            source.settle()
            source = start()
        elif step == "reserve":
            assert source.reserve()
        else:
            source = start()


def test_the_clock_is_the_iv_where_it_can_be() -> None:
    time = Time()
    source = psp.ClockIVs(time.clock(), psp.MemoryMarks())
    assert source.take(10) == time.now
    assert source.take(1) == time.now + 10
    time.now += 1000
    assert source.take(1) == time.now
    time.now -= 10**15
    assert source.take(1) == time.now + 10**15 + 1


def test_threads_share_a_source() -> None:
    for make in sources():
        source = make(psp.MemoryMarks())
        taken: list[list[int]] = [[] for _ in range(4)]

        def work(mine: list[int], source: psp.IVSource = source) -> None:
            for size in (1, 7, 64) * 200:
                first = source.take(size)
                assert first is not None
                mine.extend(range(first, first + size))

        threads = [threading.Thread(target=work, args=(mine,)) for mine in taken]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        everything = [iv for mine in taken for iv in mine]
        assert len(set(everything)) == len(everything) == 4 * 72 * 200
        assert all(mine == sorted(mine) for mine in taken)


def test_the_end_is_the_end() -> None:
    for start in (END - 5, END - 1):
        marks = psp.MemoryMarks()
        marks.raise_iv(start)
        source = psp.CounterIVs(marks)
        assert source.take(END - start) == start
        assert source.take(1) is None
        assert psp.CounterIVs(marks).take(1) is None
    late = psp.ClockIVs(Time(END + 10).clock(), psp.MemoryMarks())
    assert late.take(1) is None


def test_a_full_disk_stops_ivs_and_they_go_on_after_it(engine_name: str) -> None:
    marks = FullDisk()
    device = psp.Device(engine=engine_name, marks=marks, clock=(time := Time()).clock())
    profile = psp.Profile()
    assert isinstance(device.encapsulate(profile, udp(), 1, bytes(16)), bytes)
    marks.full = True
    assert isinstance(device.encapsulate(profile, udp(), 1, bytes(16)), bytes)  # reserved before
    time.now += 2 * CLOCK_AHEAD
    assert device.encapsulate(profile, udp(), 1, bytes(16)) == Dropped(DropReason.PSP_OUT_IV)
    assert device.ivs.failure is not None
    assert device.counters()["tx_error"] == 1
    device.handle_timeout(0)
    marks.full = False
    assert isinstance(device.encapsulate(profile, udp(), 1, bytes(16)), bytes)
    assert device.ivs.failure is None


def test_a_file_keeps_the_mark_ahead_of_a_process_that_is_killed(tmp_path: Path) -> None:
    path, time, end = tmp_path / "state" / "marks", Time(), 0
    for _ in range(20):
        marks = psp.FileMarks(path)
        source = psp.ClockIVs(time.clock(), marks, 1000)
        for _ in range(7):
            first = source.take(300)
            assert first is not None
            assert first >= end
            end = first + 300
            assert int.from_bytes(path.read_bytes()[48:56], "big") >= end  # the second record, as it is on disk
        marks.close()
        time.now -= 10**15
    assert path.stat().st_mode & 0o777 == 0o600


def test_one_process_has_the_marks(tmp_path: Path) -> None:
    marks = psp.FileMarks(tmp_path / "marks")
    with pytest.raises(ConfigError, match="another process"):
        psp.FileMarks(tmp_path / "marks")
    marks.close()
    marks.close()
    with pytest.raises(OSError, match="closed"):
        marks.raise_iv(5)
    psp.FileMarks(tmp_path / "marks").close()


def test_damaged_marks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "marks"
    marks = psp.FileMarks(path)
    marks.raise_iv(1 << 40)
    marks.raise_spi(b"f" * 16, 77)
    marks.close()
    good = path.read_bytes()
    again = psp.FileMarks(path)
    assert (again.iv, again.spi(b"f" * 16), again.spi(b"g" * 16)) == (1 << 40, 77, None)
    again.close()
    for octet in range(len(good)):
        if not good[octet] and not any(good[octet // 32 * 32 : octet // 32 * 32 + 32]):
            continue  # a record that was never written
        damaged = bytearray(good)
        damaged[octet] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(KeyMaterialError, match="damaged at octet"):
            psp.FileMarks(path)
    path.write_bytes(bytes(3 << 20))
    with pytest.raises(KeyMaterialError, match="damaged"):
        psp.FileMarks(path)


def test_settled_marks_give_back_what_was_reserved(tmp_path: Path) -> None:
    marks = psp.FileMarks(tmp_path / "marks")
    source = psp.CounterIVs(marks)
    source.take(10)
    source.settle()
    marks.close()
    assert psp.CounterIVs(psp.FileMarks(tmp_path / "marks")).take(1) == 11


def test_a_clock_that_fails_is_no_reason_to_stop() -> None:
    def broken() -> int:
        raise OSError(19, "No such device")

    source = psp.ClockIVs(psp.Clock("broken", broken), psp.MemoryMarks())
    assert source.take(5) == 0
    assert source.take(1) == 5


def test_a_clock_is_found() -> None:
    clock = open_clock()
    assert clock.name.startswith(("PTP /dev/ptp", "CLOCK_"))
    assert clock.now() > 1_700_000_000_000_000_000
    with pytest.raises(UnsupportedError, match="/dev/null"):
        open_clock("/dev/null")
    with pytest.raises(UnsupportedError, match="no-such-clock"):
        open_clock("/no-such-clock")
