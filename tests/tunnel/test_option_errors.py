"""Messages about options that are not known: to whom, and how many."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from wesper.engine import Event, EventKind
from wesper.engine.interface import SECOND
from wesper.protocols.ip import packed
from wesper.tunnel.option_errors import PER_SECOND, OptionErrors


class Sink:
    """A socket that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any, Any]] = []

    def sendmsg(self, buffers: list[bytes], ancillary: list[Any], flags: int, to: Any) -> None:
        self.sent.append((b"".join(buffers), ancillary, to))


def about(destination: str = "192.0.2.1", kind: int = 0x9C) -> Event:
    """An event of a packet with an option."""
    body = bytes((59, 24, 0, 0x44, kind, 2, 1, 2)) + bytes(40)
    ends = ip_address("198.51.100.7"), ip_address(destination)
    packet = b"\x45\0\0\x44\0\0\0\0\x40\x8d\0\0" + b"".join(map(packed, ends)) + body
    source, there = map(packed, ends)
    return Event(EventKind.UNKNOWN_OPTION, 0, sa=1, source=source, destination=there, pointer=24, packet=packet)


def errors() -> tuple[OptionErrors, Sink]:
    made, sink = OptionErrors(0), Sink()
    made._sockets[4] = sink  # type: ignore[assignment]
    return made, sink


def test_a_few_a_second() -> None:
    made, sink = errors()
    went = [made.tell(about(), SECOND + n) for n in range(1000)]
    assert went == [True] * PER_SECOND + [False] * (1000 - PER_SECOND)
    assert made.tell(about(), 2 * SECOND)
    assert len(sink.sent) == PER_SECOND + 1


def test_from_the_address_that_the_packet_went_to() -> None:
    made, sink = errors()
    assert made.tell(about(), 0)
    ((message, ((level, kind, value),), to),) = sink.sent
    assert message[:2] == b"\x0c\0"
    assert (level, kind, value[4:8]) == (0, 8, packed(ip_address("192.0.2.1")))
    assert to == ("198.51.100.7", 0)


def test_not_of_what_went_to_a_group_or_asks_for_nothing() -> None:
    made, sink = errors()
    assert not made.tell(about("224.0.0.9"), 0)
    assert not made.tell(about(kind=0x5C), 0)
    assert not sink.sent
    assert all(made.tell(about(), 0) for _ in range(PER_SECOND)), "what is not sent does not count"
