"""What a link does to packets, on a virtual clock."""

from __future__ import annotations

import doctest
import math
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wesper.errors import ConfigError
from wesper.lab import impair
from wesper.lab.impair import REORDER_DISTANCE, REORDER_WAIT_NS, Impairment, Wire, as_written

MS = 1_000_000
HEADER = 14


def frame(number: int, octets: int = 60) -> bytes:
    return bytes(HEADER) + number.to_bytes(4, "big") + bytes(octets - HEADER - 4)


def number_of(data: bytes) -> int:
    return int.from_bytes(data[HEADER : HEADER + 4], "big")


def drain(wire: Wire) -> list[tuple[int, int]]:
    """Move the clock from deadline to deadline; return (time, number of the packet) of all that comes out."""
    out = []
    while (now := wire.deadline()) is not None:
        while (data := wire.poll_transmit(now)) is not None:
            out.append((now, number_of(data)))
    return out


def run(wire: Wire, count: int, gap: int = 0, octets: int = 60) -> list[tuple[int, int]]:
    """Send count packets, gap ns apart, and take out what is due on the way and afterwards."""
    out = []
    for number in range(count):
        now = number * gap
        while (due := wire.deadline()) is not None and due <= now:
            while (data := wire.poll_transmit(max(due, 0))) is not None:
                out.append((due, number_of(data)))
        wire.receive(frame(number, octets), now)
    return out + drain(wire)


def numbers(out: Iterable[tuple[int, int]]) -> list[int]:
    return [number for _, number in out]


def within_binomial(count: int, trials: int, share: float) -> bool:
    """Tell whether a count lies within five standard deviations."""
    return abs(count - trials * share) <= 5 * math.sqrt(trials * share * (1 - share)) + 1


def test_examples_in_its_documentation() -> None:
    results = doctest.testmod(impair)
    assert results.attempted >= 5
    assert results.failed == 0


def test_nothing_asked_nothing_done() -> None:
    wire = Wire(Impairment(), "seed")
    for number in range(1000):
        wire.receive(frame(number), now=number)
        assert wire.poll_transmit(number) == frame(number)
    assert wire.counters.sent == wire.counters.received == 1000
    assert wire.deadline() is None


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_loss_is_binomial_and_counted(share: float) -> None:
    wire = Wire(Impairment.of(loss=share), "seed")
    out = numbers(run(wire, 20_000))
    assert within_binomial(wire.counters.lost, 20_000, share)
    assert len(out) == wire.counters.sent == 20_000 - wire.counters.lost
    assert out == sorted(set(out))


def test_certain_loss_loses_all_and_none_loses_none() -> None:
    wire = Wire(Impairment.of(loss="100%"), "seed")
    assert run(wire, 500) == []
    assert wire.counters.lost == 500


def test_losses_are_independent() -> None:
    out = set(numbers(run(Wire(Impairment.of(loss="20%"), "seed"), 20_000)))
    lost = [number not in out for number in range(20_000)]
    pairs = sum(one and other for one, other in pairwise(lost))
    assert within_binomial(pairs, 19_999, 0.04)


def test_same_seed_same_fate_and_another_seed_another() -> None:
    impairment = Impairment.of(loss="10%", duplicate="5%", reorder="10%", delay="5ms", jitter="1ms")
    runs = [run(Wire(impairment, seed), 500, gap=MS // 10) for seed in ("one", "one", "two")]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_an_option_changed_on_the_way_shifts_no_other_packets_fate() -> None:
    steady, changed = (Wire(Impairment.of(loss="10%"), "seed") for _ in range(2))
    fates = []
    for wire in (steady, changed):
        out = numbers(run(wire, 300))
        if wire is changed:
            wire.impairment = wire.impairment.changed(duplicate="50%")
            run(wire, 300)
            wire.impairment = wire.impairment.changed(duplicate=None)
        else:
            run(wire, 300)
        fates.append((out, numbers(run(wire, 300))))
    assert fates[0] == fates[1]


def test_frames_to_groups_shift_no_unicast_fate() -> None:
    impairment = Impairment.of(loss="20%", reorder="20%")
    quiet, chatty = Wire(impairment, "seed"), Wire(impairment, "seed")
    chatter = b"\x33" + bytes(59)
    for number in range(500):
        quiet.receive(frame(number), 0)
        if number % 7 == 0:
            chatty.receive(chatter, 0)
        chatty.receive(frame(number), 0)
    out = []
    while (data := chatty.poll_transmit(REORDER_WAIT_NS)) is not None:
        if data != chatter:
            out.append(number_of(data))
    assert out == numbers(drain(quiet))


def test_delay_is_kept_to_the_nanosecond() -> None:
    wire = Wire(Impairment.of(delay="10ms"), "seed")
    wire.receive(frame(1), now=5)
    assert wire.poll_transmit(10 * MS + 4) is None
    assert wire.deadline() == 10 * MS + 5
    assert wire.counters.waiting == 1
    assert wire.poll_transmit(10 * MS + 5) == frame(1)
    assert wire.counters.waiting == 0


def test_jitter_spreads_the_delay_without_overtaking() -> None:
    out = run(Wire(Impairment.of(delay="10ms", jitter="2ms"), "seed"), 2000, gap=10 * MS)
    delays = [time - number * 10 * MS for time, number in out]
    assert numbers(out) == list(range(2000))
    assert 8 * MS <= min(delays) < 8.1 * MS
    assert 11.9 * MS < max(delays) <= 12 * MS
    packed = run(Wire(Impairment.of(delay="10ms", jitter="10ms"), "seed"), 2000, gap=1000)
    assert numbers(packed) == list(range(2000))


def test_rate_spaces_packets_and_the_queue_is_bounded() -> None:
    # 1 Mbit/s: 125 octets a millisecond.
    wire = Wire(Impairment.of(rate="1mbit", queue=1000), "seed")
    out = run(wire, 100, octets=125)
    assert [time for time, _ in out] == [MS * place for place in range(1, len(out) + 1)]
    assert numbers(out) == list(range(9))  # one being sent, and eight that wait for 8 ms
    assert wire.counters.queue_full == 91


def test_rate_does_not_hold_what_comes_slower() -> None:
    wire = Wire(Impairment.of(rate="1mbit", queue=0), "seed")
    out = run(wire, 100, gap=MS, octets=125)
    assert [time - number * MS for time, number in out] == [MS] * 100


def test_duplicates_come_right_behind() -> None:
    wire = Wire(Impairment.of(duplicate="10%"), "seed")
    out = numbers(run(wire, 10_000))
    assert out == sorted(out)
    assert within_binomial(wire.counters.duplicated, 10_000, 0.1)
    twice = [number for number, times in Counter(out).items() if times == 2]
    assert len(twice) == wire.counters.duplicated
    assert len(out) == wire.counters.sent == 10_000 + wire.counters.duplicated


def test_reordered_packets_are_overtaken_by_one_to_three() -> None:
    wire = Wire(Impairment.of(reorder="5%"), "seed")
    out = numbers(run(wire, 10_000))
    assert sorted(out) == list(range(10_000))
    place = {number: at for at, number in enumerate(out)}
    behind = Counter(
        later
        for number in range(10_000)
        if (later := sum(place[other] < place[number] for other in range(number + 1, min(number + 30, 10_000))))
    )
    assert within_binomial(wire.counters.reordered, 10_000, 0.05)
    assert behind.total() == wire.counters.reordered
    assert set(range(1, REORDER_DISTANCE + 1)) <= set(behind)


def test_held_packet_leaves_after_its_time_if_none_come() -> None:
    wire = Wire(Impairment.of(reorder="100%"), "seed")
    wire.receive(frame(1), 0)
    assert wire.poll_transmit(0) is None
    assert wire.deadline() == REORDER_WAIT_NS
    assert wire.poll_transmit(REORDER_WAIT_NS) == frame(1)
    assert wire.counters.reordered == 0


def test_drop_above_counts_octets_behind_the_header() -> None:
    wire = Wire(Impairment.of(drop_above=1400), "seed")
    wire.receive(frame(1, HEADER + 1400), 0)
    wire.receive(frame(2, HEADER + 1401), 0)
    assert numbers(drain(wire)) == [1]
    assert wire.counters.too_big == 1


@settings(database=None)  # these tests run as several users in one folder
@given(
    loss=st.floats(0, 1),
    reorder=st.floats(0, 1),
    duplicate=st.floats(0, 1),
    delay=st.integers(0, 20),
    rate=st.none() | st.integers(100_000, 10**9),
    count=st.integers(0, 60),
    gap=st.integers(0, 5 * MS),
)
def test_every_packet_is_accounted_for(
    loss: float, reorder: float, duplicate: float, delay: int, rate: int | None, count: int, gap: int
) -> None:
    impairment = Impairment.of(
        loss=loss, reorder=reorder, duplicate=duplicate, delay=delay / 1000, rate=rate, queue=2000
    )
    wire = Wire(impairment, "seed")
    out = run(wire, count, gap=gap)
    counters = wire.counters
    assert counters.received == count
    assert len(out) == counters.sent
    assert counters.waiting == 0
    # A duplicate that the queue has no room for is counted as full, too.
    assert counters.received + counters.duplicated - counters.lost - counters.sent in range(counters.queue_full + 1)
    assert len(set(numbers(out))) == counters.sent - counters.duplicated
    assert [time for time, _ in out] == sorted(time for time, _ in out)


def test_options_are_read_changed_and_written() -> None:
    impairment = Impairment.of(loss="1%", delay="10ms", rate="100mbit")
    assert (impairment.loss, impairment.delay_ns, impairment.rate_bps) == (0.01, 10 * MS, 10**8)
    assert as_written(impairment.words()) == ["loss 1%", "delay 10ms", "rate 100mbit"]
    assert impairment.changed(loss=None, delay=None, rate=None).is_none
    assert not impairment.is_none
    assert Impairment.of(queue=5).is_none


@pytest.mark.parametrize("given", [{"lose": "1%"}, {"loss": "2"}, {"delay": "1ms", "jitter": "2ms"}])
def test_wrong_options_are_refused_by_key(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Impairment.of(**given)
    assert caught.value.key in given
