"""What a link does to packets: loss, delay, reordering, duplicates, a rate, a size. No I/O, no clock of its own.

`Impairment` says what shall happen; a `Wire` does it to one direction of a link:

>>> wire = Wire(Impairment.of(delay="10ms", loss="25%"), seed="example")
>>> for number in range(4):
...     wire.receive(b"frame %d" % number, now=0)
>>> wire.poll_transmit(now=0), wire.deadline()
(None, 10000000)
>>> wire.poll_transmit(now=10_000_000), wire.counters.waiting
(b'frame 0', 2)

A packet meets, in this order: the size limit, loss, duplication, the rate with the queue before it, the delay,
reordering.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from ..errors import ConfigError
from . import units

DEFAULT_QUEUE_OCTETS = 256_000
REORDER_DISTANCE = 3
_GROUP = -1
REORDER_WAIT_NS = 20_000_000
"""A packet held back leaves at the latest after this time, if too few others come to overtake it."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """What one direction of a link does to packets.   The default does nothing."""

    loss: float = 0.0
    """Probability that a packet vanishes."""
    delay_ns: int = 0
    """Time from one end to the other, beside that of the rate."""
    jitter_ns: int = 0
    """The delay varies by up to this much both ways; packets never overtake each other for it."""
    reorder: float = 0.0
    """Probability that a packet is held back until one to three later ones have overtaken it."""
    duplicate: float = 0.0
    """Probability that a packet comes twice."""
    rate_bps: int | None = None
    """Bits per second of whole frames; None is no limit."""
    queue_octets: int = DEFAULT_QUEUE_OCTETS
    """How much waits for the rate before packets are dropped."""
    drop_above: int | None = None
    """Frames with more octets than this behind the Ethernet header vanish: a path whose MTU nobody is told."""

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Make one of loss, delay, jitter, reorder, duplicate, rate, queue and drop_above as people write them.

        Numbers: probabilities 0..1, seconds, bit/s, octets. Text: "1%", "10ms", "100mbit", "256kB".
        Raises ConfigError.
        """
        return cls().changed(**given)

    def changed(self, **given: Any) -> Self:
        """Return a copy with some things different, named as in `of`; None is the default.   Raises ConfigError."""
        new: dict[str, Any] = {}
        for key, value in given.items():
            if key not in KEYS:
                raise ConfigError("unknown impairment", key=key, expected=", ".join(KEYS))
            name, convert = KEYS[key]
            new[name] = _DEFAULTS[name] if value is None else convert(value, key)
        result = replace(self, **new)
        if result.jitter_ns > result.delay_ns:
            raise ConfigError("the jitter is more than the delay", key="jitter", expected="at most the delay")
        return result

    @property
    def is_none(self) -> bool:
        """Whether nothing happens to any packet."""
        return self == type(self)(queue_octets=self.queue_octets)

    def words(self) -> dict[str, float | int]:
        """Return what is not the default, by field name."""
        return {name: value for name, value in asdict(self).items() if value != _DEFAULTS[name]}


def as_written(words: Mapping[str, float | int]) -> list[str]:
    """Return `Impairment.words` as people write them.

    >>> as_written(Impairment.of(loss=0.05, delay="10ms", rate="1.5mbit").words())
    ['loss 5%', 'delay 10ms', 'rate 1500kbit']
    """
    return [f"{key} {_WRITERS[name](words[name])}" for key, (name, _) in KEYS.items() if name in words]


KEYS: Mapping[str, tuple[str, Any]] = {
    "loss": ("loss", units.probability),
    "delay": ("delay_ns", units.nanoseconds),
    "jitter": ("jitter_ns", units.nanoseconds),
    "reorder": ("reorder", units.probability),
    "duplicate": ("duplicate", units.probability),
    "rate": ("rate_bps", units.bits_per_second),
    "queue": ("queue_octets", units.octets),
    "drop_above": ("drop_above", units.octets),
}
"""What people write, the field it sets, and what turns the one into the other."""
_WRITERS: Mapping[str, Callable[[float], str]] = {
    "loss": units.percent_text,
    "delay_ns": units.duration_text,
    "jitter_ns": units.duration_text,
    "reorder": units.percent_text,
    "duplicate": units.percent_text,
    "rate_bps": units.rate_text,
    "queue_octets": str,
    "drop_above": str,
}
_DEFAULTS: Mapping[str, Any] = {each.name: each.default for each in fields(Impairment)}


@dataclass(slots=True)
class Counters:
    """What happened to the packets of one direction."""

    received: int = 0
    """Packets that came in at this end."""
    sent: int = 0
    """Packets that left at the other end, duplicates included."""
    lost: int = 0
    """Dropped by the loss asked for."""
    too_big: int = 0
    """Dropped because they were longer than `drop_above`."""
    queue_full: int = 0
    """Dropped because the queue before the rate was full."""
    duplicated: int = 0
    """Sent twice."""
    reordered: int = 0
    """Overtaken by at least one later packet."""
    waiting: int = 0
    """On their way now."""


@dataclass(slots=True)
class _Held:
    frame: bytes
    overtaken_by: int
    until: int
    overtaken: int = 0


@dataclass(slots=True)
class Wire:
    """One direction of a link.   seed: the same seed and the same packets in the same order meet the same fate.

    Push frames with `receive`, pull those that are due with `poll_transmit`, and come back at `deadline`.
    """

    impairment: Impairment
    seed: str
    counters: Counters = field(default_factory=Counters)
    _random: random.Random = field(init=False)
    _group_random: random.Random = field(init=False)
    _free_at: int = 0
    _last_due: int = 0
    _line: deque[tuple[int, bytes, int]] = field(default_factory=deque)
    _held: list[_Held] = field(default_factory=list)
    _ready: deque[bytes] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._group_random = random.Random(f"{self.seed} group")

    def receive(self, frame: bytes, now: int, header_octets: int = 14) -> None:
        """Take a frame that one end has sent.

        header_octets: of the frame's own header, which `drop_above` leaves out.
        """
        impairment, counters = self.impairment, self.counters
        counters.received += 1
        # The kernel's own chatter (ARP, neighbour and multicast discovery) comes at random times. It goes to groups,
        # has a source of chance of its own and overtakes nobody, so that it shifts no unicast packet's fate.
        group = bool(frame and frame[0] & 1)
        chance = self._group_random if group else self._random
        # INVARIANT: four numbers are drawn for every packet, so that an option changed on the way shifts no other's.
        lost, twice, late, early = (chance.random() for _ in range(4))
        if impairment.drop_above is not None and len(frame) - header_octets > impairment.drop_above:
            counters.too_big += 1
        elif lost < impairment.loss:
            counters.lost += 1
        else:
            behind = int(late / impairment.reorder * REORDER_DISTANCE) + 1 if late < impairment.reorder else 0
            if self._enqueue(frame, now, early, _GROUP if group else behind) and twice < impairment.duplicate:
                counters.duplicated += self._enqueue(frame, now, early, _GROUP if group else 0)

    def poll_transmit(self, now: int) -> bytes | None:
        """Return the next frame that leaves at the other end by now, or None."""
        while not self._ready and self._line and self._line[0][0] <= now:
            due, frame, behind = self._line.popleft()
            if behind > 0:
                self._held.append(_Held(frame, behind, due + REORDER_WAIT_NS))
            else:
                self._ready.append(frame)
                if behind != _GROUP:
                    self._overtake()
        if not self._ready:
            self._release(lambda held: held.until <= now)
        if not self._ready:
            return None
        self.counters.sent += 1
        self.counters.waiting -= 1
        return self._ready.popleft()

    def deadline(self) -> int | None:
        """Return when `poll_transmit` will have something, or None while nothing is on its way."""
        if self._ready:
            return 0
        times = [held.until for held in self._held]
        if self._line:
            times.append(self._line[0][0])
        return min(times, default=None)

    def _enqueue(self, frame: bytes, now: int, early: float, behind: int) -> bool:
        impairment = self.impairment
        sent_at = now
        if impairment.rate_bps is not None:
            start = max(now, self._free_at)
            if (start - now) * impairment.rate_bps > impairment.queue_octets * 8 * 10**9:
                self.counters.queue_full += 1
                return False
            sent_at = self._free_at = start + len(frame) * 8 * 10**9 // impairment.rate_bps
        varied = round((2 * early - 1) * impairment.jitter_ns)
        self._last_due = max(self._last_due, sent_at + impairment.delay_ns + varied)
        self._line.append((self._last_due, frame, behind))
        self.counters.waiting += 1
        return True

    def _overtake(self) -> None:
        """Count a packet that passed those held back, and let go those that enough have passed."""
        for held in self._held:
            held.overtaken += 1
        self._release(lambda held: held.overtaken >= held.overtaken_by)

    def _release(self, is_due: Callable[[_Held], bool]) -> None:
        due = [held for held in self._held if is_due(held)]
        if due:
            self._held = [held for held in self._held if not is_due(held)]
            self._ready.extend(held.frame for held in due)
            self.counters.reordered += sum(held.overtaken > 0 for held in due)
