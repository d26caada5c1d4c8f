"""The exchange between two sides in memory: agreeing, re-keying, ending; and what a hostile peer can not do."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wesper import psp
from wesper.errors import ConfigError
from wesper.psp import exchange_messages as messages
from wesper.psp.exchange import ANSWER_TIME, HELLO_TIME, MOST_OUTPUT, QUIET_TIME, SECOND, Exchange
from wesper.psp.exchange_events import (
    Agreed,
    Closed,
    Ended,
    ExchangeEnded,
    Fresh,
    Greeted,
    Offered,
    Refused,
    Released,
    Terms,
)
from wesper.psp.exchange_messages import EndReason, Kind, RefuseReason, Type
from wesper.wire.psp_exchange import Frame

PORTS = np.array([[7000, 40000]], np.uint16)
OPEN_TERMS = Terms(raw=True)


class Side:
    """A host's device, table and exchange."""

    def __init__(self, terms: Terms | None = None, engine: str = "reference") -> None:
        self.device = psp.Device(engine=engine)
        self.table = psp.TransmitTable(self.device, [psp.Profile(version=v) for v in range(4)])
        self.exchange = Exchange(self.device, self.table, terms, now=0)
        self.seen: list[Any] = []

    def events(self, kind: type[Any]) -> list[Any]:
        self.collect()
        return [event for event in self.seen if isinstance(event, kind)]

    def collect(self) -> None:
        while (event := self.exchange.next_event()) is not None:
            self.seen.append(event)

    def sends(self, row: int) -> int:
        """Return the SPI that a row sends with."""
        return self.table.state(row).spi


def pump(a: Side, b: Side, now: int = 1) -> None:
    """Let both talk until neither has anything to say; offers are agreed to."""
    while True:
        for side in (a, b):
            side.exchange.handle_timeout(now)
        moved = False
        for one, other in ((a, b), (b, a)):
            octets = one.exchange.take_output()
            if octets:
                moved = True
                other.exchange.receive(octets, now)
        for side in (a, b):
            before = len(side.seen)
            side.collect()
            for event in side.seen[before:]:
                if isinstance(event, Offered) and not side.exchange.ended:
                    side.exchange.prepare(event, now)
                    side.exchange.confirm(event)
                    moved = True
        if not moved:
            return


def pair(a: Terms | None = None, b: Terms | None = None) -> tuple[Side, Side]:
    left, right = Side(a), Side(b)
    pump(left, right)
    assert left.events(Greeted)
    assert right.events(Greeted)
    return left, right


def opened(a: Side, b: Side, version: int = 0) -> tuple[Any, Any]:
    """Return both sides' runs of a new datagram connection that a asks for."""
    a.exchange.open(Kind.DATAGRAM, version, ports=PORTS, now=1)
    pump(a, b)
    theirs = next(reversed(list(b.exchange._spaces[False])))
    return a.events(Agreed)[-1].run, theirs


def carries(sender: Side, row: int, receiver: Side, version: int = 0) -> int:
    """Send one packet with a row's association; return the SPI that the receiver has seen."""
    packet = bytes.fromhex("4500001c0000000040118e95c0000201c63364070001000200080000")
    made = sender.table.encapsulate(row, packet)
    assert isinstance(made, bytes), made
    found = receiver.device.decapsulate(made)
    assert isinstance(found, psp.Opened), found
    assert (found.packet, found.version) == (packet, version)
    return found.spi


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_what_is_agreed_on_carries_packets_both_ways(version: int) -> None:
    a, b = pair()
    ours, theirs = opened(a, b, version)
    assert carries(a, int(ours.rows[0]), b, version) == int(theirs.spis[0])
    assert carries(b, int(theirs.rows[0]), a, version) == int(ours.spis[0])
    offer = b.events(Offered)[0]
    assert offer.ports.tolist() == [[7000, 40000]]


def test_raw_connections_come_in_thousands() -> None:
    a, b = pair(None, OPEN_TERMS)
    a.exchange.open(Kind.RAW, 0, count=5000, now=1)
    pump(a, b)
    ours, theirs = a.events(Agreed)[0].run, b.events(Agreed)[0].run
    assert len(ours) == len(theirs) == len(a.table) == len(b.table) == 5000
    for place in (0, 17, 4999):
        assert carries(a, int(ours.rows[place]), b) == int(theirs.spis[place])
        assert carries(b, int(theirs.rows[place]), a) == int(ours.spis[place])


def test_raw_connections_are_refused_by_default() -> None:
    a, b = pair()
    a.exchange.open(Kind.RAW, 0, count=3, now=1)
    pump(a, b)
    assert [(each.count, each.reason) for each in a.events(Refused)] == [(3, RefuseReason.NOT_ALLOWED)]
    assert len(b.table) == 0


def test_an_offer_can_be_refused_also_when_it_is_prepared() -> None:
    a, b = pair()
    a.exchange.open(Kind.STREAM, 1, ports=PORTS, now=1)
    b.exchange.receive(a.exchange.take_output(), 1)
    offer = b.events(Offered)[0]
    b.exchange.prepare(offer, 1)
    b.exchange.refuse(offer, RefuseReason.NOBODY_LISTENS, "nobody listens on 7000")
    assert len(b.table) == 0
    a.exchange.receive(b.exchange.take_output(), 1)
    assert a.events(Refused)[0].sentence == "nobody listens on 7000"
    with pytest.raises(ConfigError):
        b.exchange.confirm(offer)


def test_closing_removes_rows_at_both_ends() -> None:
    a, b = pair(OPEN_TERMS, OPEN_TERMS)
    a.exchange.open(Kind.RAW, 0, count=10, now=1)
    pump(a, b)
    run = b.events(Agreed)[0].run
    b.exchange.close(run, [3, 4, 4])
    pump(a, b)
    assert len(a.table) == len(b.table) == 8
    assert a.events(Closed)[0].places.tolist() == [3, 4]
    a.exchange.close(a.events(Agreed)[0].run)
    pump(a, b)
    assert len(a.table) == len(b.table) == a.exchange.connections == b.exchange.connections == 0


def test_a_rotation_rekeys_without_a_stall() -> None:
    a, b = pair(OPEN_TERMS, OPEN_TERMS)
    ours, theirs = opened(a, b)
    first = carries(a, int(ours.rows[0]), b)
    for generation in (1, 2, 3):
        b.device.rotate()
        assert carries(a, int(ours.rows[0]), b) >> 31 == (generation - 1) & 1  # what is on its way still arrives
        b.exchange.rotated(generation)
        pump(a, b, generation)
        assert carries(a, int(ours.rows[0]), b) >> 31 == generation & 1
        assert carries(b, int(theirs.rows[0]), a) == int(ours.spis[0])
    assert first != carries(a, int(ours.rows[0]), b)
    fresh, released = b.events(Fresh), b.events(Released)
    assert len(fresh) == len(released) == 3
    assert int(released[0].spis[0]) == first
    assert [int(each.spis[0]) for each in fresh[:2]] == [int(each.spis[0]) for each in released[1:]]


def test_two_rotations_in_flight_end_with_the_last_key() -> None:
    a, b = pair(OPEN_TERMS, OPEN_TERMS)
    ours, _ = opened(a, b)
    b.device.rotate()
    b.exchange.rotated(1)
    b.device.rotate()
    b.exchange.rotated(1)
    pump(a, b)
    assert carries(a, int(ours.rows[0]), b) >> 31 == 0
    assert len(b.events(Released)) == 2


def test_a_rotation_while_an_open_is_on_its_way() -> None:
    a, b = pair()
    a.exchange.open(Kind.DATAGRAM, 0, ports=PORTS, now=1)
    a.device.rotate()
    a.exchange.rotated(1)
    pump(a, b)
    theirs = next(iter(b.exchange._spaces[False]))
    assert carries(b, int(theirs.rows[0]), a) >> 31 == 1


def test_a_limit_asks_for_a_fresh_association() -> None:
    a, b = pair()
    a.table = psp.TransmitTable(a.device, [psp.Profile()], hard=psp.Limits(packets=10))
    a.exchange._table = a.table
    ours, _ = opened(a, b)
    row = int(ours.rows[0])
    spis = set()
    for _ in range(100):
        spis.add(carries(a, row, b))
        while (event := a.table.next_event()) is not None:
            a.exchange.wanted([event.id, 77])
            pump(a, b)
    assert len(spis) == 100 // 8 + 1


@pytest.mark.parametrize("ours", [True, False])
def test_limits_of_raw_connections_ask_for_many_at_once(ours: bool) -> None:
    a, b = pair(OPEN_TERMS, OPEN_TERMS)
    opener, sender, receiver = (a, a, b) if ours else (b, a, b)
    sender.table = psp.TransmitTable(sender.device, [psp.Profile()], hard=psp.Limits(packets=10))
    sender.exchange._table = sender.table
    opener.exchange.open(Kind.RAW, 0, count=50, now=1)
    pump(a, b)
    (run,) = sender.exchange._spaces[ours]
    sender.exchange.close(run, [49])
    pump(a, b)
    busy = [int(row) for row in run.rows[:49:7]]
    spis = set()
    for _ in range(100):
        for row in busy:
            spis.add(carries(sender, row, receiver))
        near = []
        while (event := sender.table.next_event()) is not None:
            near.append(event.id)
        if near:
            assert sorted(near) == sorted(busy)
            before = sender.exchange.waiting_octets
            sender.exchange.wanted(near)
            assert sender.exchange.waiting_octets - before == 4 + 8 + 8 * len(near)  # one message
            pump(a, b)
    assert len(spis) == (100 // 8 + 1) * len(busy)


def test_many_are_rekeyed_in_turn() -> None:
    a, b = pair(OPEN_TERMS, Terms(raw=True, most_batch=1000))
    a.exchange.open(Kind.RAW, 0, count=1000, now=1)
    a.exchange.open(Kind.RAW, 1, count=1000, now=1)
    pump(a, b)
    a.device.rotate()
    a.exchange.rotated(2)
    pump(a, b, 2)
    for run in b.exchange._spaces[False]:
        assert all(b.sends(int(row)) >> 31 == 1 for row in run.rows)
    assert sum(len(each.places) for each in a.events(Released)) == 2000


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64])
def test_octets_may_come_in_any_pieces(piece: int) -> None:
    a, b = Side(), Side(OPEN_TERMS)
    for side, other in ((b, a), (a, b)):
        octets = other.exchange.take_output()
        for at in range(0, len(octets), piece):
            side.exchange.receive(octets[at : at + piece], 1)
    a.exchange.open(Kind.RAW, 0, count=5, now=1)
    for side, other in ((b, a), (a, b)):
        octets = other.exchange.take_output()
        for at in range(0, len(octets), piece):
            side.exchange.receive(octets[at : at + piece], 1)
    assert len(a.events(Agreed)) == len(b.events(Agreed)) == 1


def test_no_common_version_is_told() -> None:
    a, b = Side(Terms(psp_versions=frozenset({0}))), Side(Terms(psp_versions=frozenset({1, 3})))
    pump(a, b)
    for side in (a, b):
        assert side.events(Ended)[0].reason is EndReason.NO_COMMON_PSP_VERSION
    with pytest.raises(ExchangeEnded, match="no version of PSP"):
        a.exchange.open(Kind.RAW, 0, now=1)
    later = bytearray(Side().exchange.take_output())
    later[8:10] = 2, 9
    fresh = Side()
    fresh.exchange.receive(bytes(later), 1)
    assert fresh.events(Ended)[0].reason is EndReason.NO_COMMON_VERSION


def test_a_version_that_the_peer_lacks_is_refused_before_it_is_asked_for() -> None:
    a, _ = pair(None, Terms(psp_versions=frozenset({0, 2})))
    with pytest.raises(ConfigError, match="PSP version 1"):
        a.exchange.open(Kind.DATAGRAM, 1, ports=PORTS, now=1)


def test_a_later_version_of_the_exchange_talks_to_this_one() -> None:
    a, b = Side(), Side()
    hello = bytearray(a.exchange.take_output())
    hello[9] = 7  # it knows versions up to 7, and appends fields
    hello[2] += 4
    b.exchange.receive(bytes(hello) + b"more", 1)
    assert b.events(Greeted)
    b.exchange.receive(bytes([0, 0, 3, 0xC0]) + b"new", 1)  # a message that may be skipped
    assert not b.events(Ended)


def hostile(build: Callable[[Side, Side], bytes]) -> tuple[Side, Ended]:
    """Let an agreed pair's b receive octets that no honest peer sends; return b and how it ended."""
    a, b = pair(OPEN_TERMS, Terms(raw=True, most_associations=100, most_batch=50))
    opened(a, b)
    before = len(b.table)
    b.exchange.receive(build(a, b), 1)
    ended = b.events(Ended)
    assert ended, "the exchange goes on"
    assert before == 1
    assert len(b.table) == 0  # nothing of it is left
    assert b.exchange.take_output()  # and the peer is told
    b.exchange.receive(b"more", 2)
    assert b.exchange.next_event() is None
    return b, ended[0]


def spis(count: int) -> Any:
    return np.arange(1, count + 1, dtype=np.uint32)


def keys(count: int, octets: int = 16) -> Any:
    return np.zeros((count, octets), np.uint8)


def ids(*numbers: int) -> Any:
    return np.array(numbers, np.uint64)


HOSTILE: dict[str, tuple[Callable[[Side, Side], bytes], EndReason]] = {
    "a second HELLO": (lambda a, b: Side().exchange.take_output(), EndReason.OUT_OF_ORDER),
    "an OPEN again": (lambda a, b: messages.open_(Kind.RAW, 0, 1, None, spis(1), keys(1)), EndReason.BAD_ID),
    "ids past 2^64": (
        lambda a, b: messages.open_(Kind.RAW, 0, (1 << 64) - 1, None, spis(2), keys(2)),
        EndReason.BAD_ID,
    ),
    "a billion": (
        lambda a, b: Frame(16, Type.OPEN).build() + struct.pack(">BBHIQ", 0, 0, 0, 1_000_000_000, 5),
        EndReason.TOO_MANY,
    ),
    "none": (lambda a, b: Frame(16, Type.OPEN).build() + struct.pack(">BBHIQ", 0, 0, 0, 0, 5), EndReason.TOO_MANY),
    "a kind that there is not": (
        lambda a, b: Frame(36, Type.OPEN).build() + struct.pack(">BBHIQI16s", 0, 9, 0, 1, 5, 1, b""),
        EndReason.BAD_MESSAGE,
    ),
    "a PSP version that there is not": (
        lambda a, b: Frame(36, Type.OPEN).build() + struct.pack(">BBHIQI16s", 4, 0, 0, 1, 5, 1, b""),
        EndReason.BAD_MESSAGE,
    ),
    "a reserved SPI": (
        lambda a, b: messages.open_(Kind.RAW, 0, 5, None, np.array([0x80000000], np.uint32), keys(1)),
        EndReason.BAD_SPI,
    ),
    "keys too short": (
        lambda a, b: messages.open_(Kind.RAW, 1, 5, None, spis(1), keys(1, 16)),
        EndReason.BAD_MESSAGE,
    ),
    "keys too long": (lambda a, b: messages.open_(Kind.RAW, 0, 5, None, spis(1), keys(1, 32)), EndReason.BAD_MESSAGE),
    "an ACCEPT of nothing": (lambda a, b: messages.accept(0, 77, spis(1), keys(1)), EndReason.BAD_ID),
    "a REFUSE of nothing": (
        lambda a, b: messages.refuse(RefuseReason.QUEUE_FULL, 77, 1, "no"),
        EndReason.BAD_ID,
    ),
    "a REKEY of what never was": (lambda a, b: messages.rekey(True, 0, ids(9999), spis(1), keys(1)), EndReason.BAD_ID),
    "a REKEY of another version": (
        lambda a, b: messages.rekey(True, 1, ids(1), spis(1), keys(1, 32)),
        EndReason.BAD_MESSAGE,
    ),
    "a CLOSE of what never was": (lambda a, b: messages.listed(Type.CLOSE, False, ids(5)), EndReason.BAD_ID),
    "an owner that there is not": (
        lambda a, b: Frame(16, Type.CLOSE).build() + struct.pack(">BBHIQ", 2, 0, 0, 1, 1),
        EndReason.BAD_MESSAGE,
    ),
    "a length beyond all": (lambda a, b: Frame((1 << 24) - 1, Type.OPEN).build(), EndReason.BAD_MESSAGE),
    "a type that there is not": (lambda a, b: Frame(0, 0x40).build(), EndReason.UNKNOWN_MESSAGE),
    "a PING without a number": (lambda a, b: Frame(3, Type.PING).build() + b"abc", EndReason.BAD_MESSAGE),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_honest_peer_sends_ends_it_by_name(name: str) -> None:
    build, reason = HOSTILE[name]
    _, ended = hostile(build)
    assert ended.reason is reason
    assert not ended.by_peer


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", EndReason.NOT_PSPX),
        (Frame(24, Type.HELLO).build() + bytes(24), EndReason.NOT_PSPX),
        (Frame(300, Type.HELLO).build(), EndReason.BAD_MESSAGE),
        (Frame(5, Type.HELLO).build() + b"PSPX\1", EndReason.BAD_MESSAGE),
        (messages.token(Type.PING, 1), EndReason.NOT_PSPX),
    ],
)
def test_rubbish_before_hello(octets: bytes, reason: EndReason) -> None:
    side = Side()
    side.exchange.receive(octets, 1)
    assert side.events(Ended)[0].reason is reason


def test_more_than_is_allowed_is_refused_and_the_rest_goes_on() -> None:
    a, b = pair(None, Terms(raw=True, most_associations=100, most_batch=50))
    with pytest.raises(ConfigError, match="51 connections"):
        a.exchange.open(Kind.RAW, 0, count=51, now=1)
    a.exchange.open(Kind.RAW, 0, count=50, now=1)
    pump(a, b)
    a.exchange.open(Kind.RAW, 0, count=50, now=1)
    with pytest.raises(ConfigError, match="takes no more"):
        a.exchange.open(Kind.RAW, 0, count=1, now=1)
    pump(a, b)
    # A peer that asks all the same.
    b.exchange.receive(messages.open_(Kind.RAW, 0, 1000, None, spis(1), keys(1)), 1)
    assert b.exchange.connections == 100
    a.exchange._unanswered[1000] = a.exchange._unanswered.get(1000) or (
        Offered(Kind.RAW, 0, 1000, None, spis(1), keys(0)),
        spis(1),
        1,
    )
    a.exchange.receive(b.exchange.take_output(), 1)
    assert a.events(Refused)[-1].reason == RefuseReason.TOO_MANY
    assert len(b.table) == 100


def test_spis_that_one_peer_can_use_up_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wesper.psp.exchange.MOST_SPIS", 20)
    a, b = pair(OPEN_TERMS, OPEN_TERMS)
    for _ in range(30):
        a.exchange.open(Kind.RAW, 0, now=1)
        pump(a, b)
        for event in a.events(Agreed):
            a.exchange.close(event.run)
        pump(a, b)
    assert len(b.events(Agreed)) == 20
    assert len(a.events(Refused)) == 10
    b.device.rotate()
    b.exchange.rotated(1)
    a.exchange.open(Kind.RAW, 0, now=1)
    pump(a, b)
    assert len(b.events(Agreed)) == 21


def test_a_peer_that_does_not_read_is_left() -> None:
    _a, b = pair(OPEN_TERMS, OPEN_TERMS)
    ping = messages.token(Type.PING, 1) * 10_000
    while not b.events(Ended):
        b.exchange.receive(ping, 1)
    assert b.exchange.waiting_octets <= MOST_OUTPUT + 100
    assert b.events(Ended)[0].reason is EndReason.TOO_SLOW


def test_time_without_hello_answers_and_pongs() -> None:
    side = Side()
    assert side.exchange.deadline() == HELLO_TIME
    side.exchange.handle_timeout(HELLO_TIME)
    assert side.events(Ended)[0].sentence == "no HELLO in time"

    a, b = pair()
    quiet = a.exchange.deadline()
    assert quiet == 1 + QUIET_TIME
    pump(a, b, quiet)  # PING and PONG
    assert not a.events(Ended)
    assert a.exchange.deadline() == quiet + QUIET_TIME
    a.exchange.handle_timeout(quiet + QUIET_TIME)
    a.exchange.handle_timeout(quiet + QUIET_TIME + ANSWER_TIME)
    assert a.events(Ended)[0].sentence == "no answer to a PING"

    a, b = pair()
    a.exchange.open(Kind.DATAGRAM, 0, ports=PORTS, now=5 * SECOND)
    a.exchange.receive(messages.token(Type.PONG, 0), 30 * SECOND)
    a.exchange.handle_timeout(5 * SECOND + ANSWER_TIME)
    assert "no answer to the OPEN" in a.events(Ended)[0].sentence

    a, b = pair()
    opened(a, b)
    b.device.rotate()
    b.exchange.rotated(5 * SECOND)
    b.exchange.receive(messages.token(Type.PONG, 0), 30 * SECOND)
    b.exchange.handle_timeout(5 * SECOND + ANSWER_TIME)
    assert b.events(Ended)[0].sentence == "no REKEYED in time"


def test_ends_are_told() -> None:
    a, b = pair()
    opened(a, b)
    a.exchange.end()
    b.exchange.receive(a.exchange.take_output(), 1)
    assert b.events(Ended)[0].by_peer
    assert "the host goes away" in b.events(Ended)[0].sentence
    assert len(a.table) == len(b.table) == 0
    c, _ = pair()
    c.exchange.receive(b"", 1)
    assert c.events(Ended)[0].reason is EndReason.CLOSED


def test_a_sentence_of_the_peer_is_printable() -> None:
    side = Side()
    side.exchange.receive(messages.error(EndReason.STOPPED, "bad \x1b[31m\n" + "x" * 300), 1)
    sentence = side.events(Ended)[0].sentence
    assert sentence.isprintable()
    assert len(sentence) < 250


def test_keys_show_nowhere() -> None:
    a, b = pair()
    a.exchange.open(Kind.DATAGRAM, 0, ports=PORTS, now=1)
    octets = a.exchange.take_output()
    key = octets[-16:]
    b.exchange.receive(octets, 1)
    for shown in (repr(b.events(Offered)[0]), repr(b.exchange), repr(a.exchange)):
        assert key.hex() not in shown
        assert repr(key)[2:-1] not in shown


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60), max_size=6), st.integers(0, 3))
def test_random_octets_end_in_a_name_or_nothing(pieces: list[bytes], kind: int) -> None:
    a, b = Side(), Side(OPEN_TERMS)
    if kind:
        pump(a, b)
    for piece in pieces:
        framed = Frame(len(piece), random.Random(piece).choice(list(Type))).build() + piece if kind > 1 else piece
        b.exchange.receive(framed or b"\0", 1)
    b.collect()
    assert sum(isinstance(event, Ended) for event in b.seen) <= 1
    assert b.exchange.waiting_octets < 10_000


@settings(max_examples=200)
@given(st.data())
def test_mutated_messages_never_raise(data: st.DataObject) -> None:
    a, b = pair(OPEN_TERMS, OPEN_TERMS)
    opened(a, b)
    honest = [
        messages.open_(Kind.DATAGRAM, 0, 50, PORTS, spis(1), keys(1)),
        messages.open_(Kind.RAW, 3, 60, None, spis(3), keys(3, 32)),
        messages.rekey(True, 0, ids(1), spis(1), keys(1)),
        messages.listed(Type.WANTED, True, ids(1)),
        messages.listed(Type.REKEYED, True, ids(1, 1, 1)),
        messages.listed(Type.CLOSE, True, ids(1), 1),
        messages.refuse(RefuseReason.QUEUE_FULL, 1, 1, "no"),
        messages.error(EndReason.STOPPED, "bye"),
    ]
    stream = bytearray(b"".join(data.draw(st.lists(st.sampled_from(honest), max_size=4))))
    for _ in range(data.draw(st.integers(0, 4))):
        if stream:
            stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    b.exchange.receive(bytes(stream) or b"\0", 1)
    b.collect()
    assert b.exchange.connections <= 1 + 4 * 3  # whatever an octet may make of an id


@given(
    st.sampled_from(list(Kind)),
    st.integers(0, 3),
    st.integers(1, (1 << 64) - 100),
    st.lists(st.integers(1, (1 << 31) - 1), min_size=1, max_size=20),
)
def test_an_open_comes_out_as_it_went_in(kind: Kind, version: int, first_id: int, numbers: list[int]) -> None:
    octets = 32 if version & 1 else 16
    made = np.array(numbers, np.uint32)
    material = np.frombuffer(random.Random(first_id).randbytes(octets * len(made)), np.uint8).reshape(-1, octets)
    ports = None if kind is Kind.RAW else np.arange(2 * len(made), dtype=np.uint16).reshape(-1, 2)
    built = messages.open_(kind, version, first_id, ports, made, material)
    found = messages.parse(built[3], built[4:])
    assert isinstance(found, messages.OpenMessage)
    assert (found.kind, found.version, found.first_id) == (kind, version, first_id)
    assert (found.spis == made).all()
    assert (found.keys == material).all()
    assert ports is None or (found.ports == ports).all()
