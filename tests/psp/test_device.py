"""A device's keys, SPIs, rotation and events, on both engines."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wesper import psp
from wesper.engine import Packets
from wesper.errors import ConfigError, KeyMaterialError
from wesper.psp.device import DAY
from wesper.verdict import Dropped, DropReason

from .conftest import KEYS
from .packets import udp

PROFILE = psp.Profile()


def clock() -> psp.Clock:
    ticks = itertools.count(1_800_000_000_000_000_000, 1000)
    return psp.Clock("test", lambda: next(ticks))


def device(engine_name: str, **settings: object) -> psp.Device:
    keys: Iterator[bytes] = (bytes([number]) * 32 for number in itertools.count(1))
    settings = {"clock": clock(), "random": lambda octets: next(keys)[:octets]} | settings
    return psp.Device(engine=engine_name, **settings)  # type: ignore[arg-type]


def pair(engine_name: str) -> tuple[psp.Device, psp.Device]:
    """Return a sender and a receiver, which share nothing."""
    return device(engine_name), device(engine_name, random=lambda octets: b"\x77" * octets)


def sent(sender: psp.Device, association: psp.Association, packet: bytes = udp()) -> bytes:
    made = sender.encapsulate(PROFILE, packet, association.spi, association.key)
    assert isinstance(made, bytes)
    return made


def delivered(receiver: psp.Device, packet: bytes) -> psp.Opened:
    opened = receiver.decapsulate(packet)
    assert isinstance(opened, psp.Opened), opened
    return opened


def reason(receiver: psp.Device, packet: bytes) -> DropReason:
    verdict = receiver.decapsulate(packet)
    assert isinstance(verdict, Dropped)
    return verdict.reason


def test_a_packet_goes_from_a_device_to_another_that_kept_nothing(engine_name: str) -> None:
    sender, receiver = pair(engine_name)
    association = receiver.allocate()
    opened = delivered(receiver, sent(sender, association))
    assert (opened.packet, opened.spi, opened.version) == (udp(), association.spi, 0)


def test_spis_count_up_within_a_generation_and_change_slot_with_it(engine_name: str) -> None:
    subject = device(engine_name)
    assert [subject.allocate().spi for _ in range(3)] == [1, 2, 3]
    spis, keys = subject.allocate_many(4, version=1)
    assert spis.tolist() == [4, 5, 6, 7]
    assert keys.shape == (4, 32)
    assert len({key.tobytes() for key in keys}) == 4
    assert subject.rotate() == 1
    assert [subject.allocate().spi for _ in range(2)] == [0x80000001, 0x80000002]
    assert subject.rotate() == 2
    again = subject.allocate()
    assert again.spi == 1  # under another key: its own generation
    assert again.generation == 2


def test_many_and_one_get_the_same_keys(engine_name: str) -> None:
    one, many = device(engine_name), device(engine_name)
    for version in range(4):
        spis, keys = many.allocate_many(5, version)
        single = [one.allocate(version) for _ in range(5)]
        assert spis.tolist() == [association.spi for association in single]
        assert [key.tobytes() for key in keys] == [association.key for association in single]


def test_an_association_lives_through_one_rotation_and_dies_with_the_second(engine_name: str) -> None:
    keys = itertools.count(1)
    sender = device(engine_name)
    receiver = device(engine_name, random=lambda octets: bytes([next(keys)]) * octets)
    old = receiver.allocate()
    packet = sent(sender, old)
    delivered(receiver, packet)
    receiver.rotate(5)
    young = receiver.allocate()
    delivered(receiver, packet)
    delivered(receiver, sent(sender, young))
    receiver.rotate(6)
    assert reason(receiver, packet) is DropReason.PSP_AUTH
    delivered(receiver, sent(sender, young))
    kinds = [(event.kind.value, event.now, event.count) for event in iter(receiver.next_event, None)]
    assert kinds == [("rotated", 5, 0), ("rotated", 6, 0), ("stale", 6, 1)]
    counters = receiver.counters()
    assert (counters["key_rotations"], counters["stale_events"], counters["rx_auth_fail"]) == (2, 1, 1)


def test_a_retired_key_is_gone_by_name(engine_name: str) -> None:
    sender, receiver = pair(engine_name)
    old = receiver.allocate()
    packet = sent(sender, old)
    receiver.rotate()
    receiver.retire()
    assert reason(receiver, packet) is DropReason.PSP_NO_DEVICE_KEY
    assert receiver.counters()["rx_bad"] == 1
    assert receiver.counters()["stale_events"] == 1
    receiver.rotate()
    assert receiver.counters()["stale_events"] == 1  # counted once


def test_the_slot_that_never_had_a_key_is_empty(engine_name: str) -> None:
    sender, receiver = pair(engine_name)
    packet = sender.encapsulate(PROFILE, udp(), 0x80000001, bytes(16))
    assert isinstance(packet, bytes)
    assert reason(receiver, packet) is DropReason.PSP_NO_DEVICE_KEY


def test_rotation_by_time(engine_name: str) -> None:
    subject = device(engine_name, now=7)
    assert subject.deadline() == DAY + 7
    subject.handle_timeout(DAY + 6)
    assert subject.generation == 0
    subject.handle_timeout(DAY + 7)
    assert (subject.generation, subject.deadline()) == (1, 2 * DAY + 7)
    forever = device(engine_name, rotate_every=None)
    assert forever.deadline() is None
    forever.handle_timeout(1 << 62)
    assert forever.generation == 0
    with pytest.raises(ConfigError, match="rotate_every"):
        device(engine_name, rotate_every=0)


def test_spis_run_out_and_a_rotation_gives_new_ones(engine_name: str) -> None:
    subject = device(engine_name, marks=psp.MemoryMarks())
    subject._next[0] = 0x7FFFFFFF - 2  # two and a half thousand million calls earlier
    spis, _ = subject.allocate_many(2)
    assert spis.tolist() == [0x7FFFFFFD, 0x7FFFFFFE]
    with pytest.raises(psp.SPIsExhausted):
        subject.allocate_many(2)
    assert subject.allocate().spi == 0x7FFFFFFF
    with pytest.raises(psp.SPIsExhausted):
        subject.allocate()
    subject.rotate()
    assert subject.allocate().spi == 0x80000001


def test_low_spis_are_told_once(engine_name: str) -> None:
    subject = device(engine_name)
    subject._next[0] = 0x7FFFFFFF * 4 // 5 - 3
    for _ in range(8):
        subject.allocate()
    assert [event.kind.value for event in iter(subject.next_event, None)] == ["spis_low"]


def test_batches(engine_name: str) -> None:
    sender, receiver = pair(engine_name)
    spis, keys = receiver.allocate_many(5)
    packets = Packets.of([udp(4, bytes([number])) for number in range(5)])
    made = sender.encapsulate_many(PROFILE, packets, spis, keys)
    assert not made.codes.any()
    got = receiver.decapsulate_many(made.packets)
    assert list(got.packets) == list(packets)
    assert got.spis.tolist() == spis.tolist()
    assert np.all(np.diff(got.ivs.astype(object)) > 0)
    assert (receiver.counters()["rx_packets"], sender.counters()["tx_packets"]) == (5, 5)
    with pytest.raises(ConfigError, match="keys"):
        sender.encapsulate_many(PROFILE, packets, spis, keys[:, :8])
    with pytest.raises(ConfigError, match="spis"):
        sender.encapsulate_many(PROFILE, packets, spis[:4], keys)


def test_injected_keys_need_what_knows_their_spis(engine_name: str, tmp_path: Path) -> None:
    with pytest.raises(KeyMaterialError, match="new_keys=True"):
        device(engine_name, keys=KEYS)
    with pytest.raises(KeyMaterialError, match="two different ones"):
        device(engine_name, keys=(KEYS[0], KEYS[0]), new_keys=True)
    with pytest.raises(KeyMaterialError, match="32 octets"):
        device(engine_name, keys=(b"short", KEYS[0]), new_keys=True)
    given = set()
    for start in range(3):  # ends without a good-bye
        marks = psp.FileMarks(tmp_path / "marks")
        subject = device(engine_name, keys=KEYS, new_keys=start == 0, marks=marks)
        spis, _ = subject.allocate_many(100)
        assert not given & set(spis.tolist())
        given |= set(spis.tolist())
        marks.close()
    marks = psp.FileMarks(tmp_path / "marks")
    with pytest.raises(KeyMaterialError, match="new_keys=True"):
        device(engine_name, keys=(KEYS[0], b"\x09" * 32), marks=marks)


def test_a_new_key_after_a_rotation_needs_no_marks(engine_name: str) -> None:
    subject = device(engine_name, keys=KEYS, new_keys=True)
    subject.allocate()
    subject.rotate()
    assert subject.allocate().spi == 0x80000001


def test_nothing_shows_a_key(engine_name: str) -> None:
    subject = device(engine_name, keys=KEYS, new_keys=True)
    association = subject.allocate()
    shown = repr(subject) + repr(association) + repr(subject.engine) + repr(subject.engine.options)
    for key in (*KEYS, association.key, subject.engine.options.hash_key):
        assert key.hex() not in shown
        assert repr(key) not in shown


def test_close_takes_the_keys_away(engine_name: str) -> None:
    sender, receiver = pair(engine_name)
    packet = sent(sender, receiver.allocate())
    receiver.close()
    assert reason(receiver, packet) is DropReason.PSP_NO_DEVICE_KEY


def test_wrong_settings_are_told(engine_name: str) -> None:
    with pytest.raises(ConfigError, match='"clock", "counter"'):
        device(engine_name, ivs="dice")
    with pytest.raises(ConfigError, match="options"):
        psp.Device(engine=psp.open_engine(engine_name), options=psp.Options())
    with pytest.raises(ConfigError, match="PSP version 4"):
        device(engine_name).allocate(version=4)
    with pytest.raises(ConfigError, match="count"):
        device(engine_name).allocate_many(-1)
    assert device(engine_name).allocate_many(0)[0].size == 0


def test_threads_send_and_receive_at_once(engine_name: str) -> None:
    sender, receiver = pair(engine_name)
    rounds, size = 30, 20
    failures: list[object] = []

    def work() -> None:
        spis, keys = receiver.allocate_many(size)
        for _ in range(rounds):
            made = sender.encapsulate_many(PROFILE, Packets.of([udp()] * size), spis, keys)
            got = receiver.decapsulate_many(made.packets)
            if got.codes.any() or got.spis.tolist() != spis.tolist():
                failures.append(got)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sender.counters()["tx_packets"] == receiver.counters()["rx_packets"] == 4 * rounds * size
