"""Lifetimes: soft and hard, by seconds, octets, packets and idle time (RFC 4301 §4.4.2.1)."""

from __future__ import annotations

from typing import Any

import pytest

from wesper import ConfigError, Delivered, Direction, Dropped, DropReason, Engine, EventKind, Lifetime, Mode, Profile

from . import oracle
from .packets import UDP, ipv4, udp
from .pair import OUTER4, SECOND, Pair, counts, engine, events, refused, refused_out, sa

PACKET = ipv4(bytes(80))  # 100 octets


def told(host: Engine) -> list[tuple[EventKind, str, int]]:
    return [(e.kind, e.limit, e.now) for e in events(host)]


SOFT, HARD = EventKind.SOFT_EXPIRED, EventKind.HARD_EXPIRED


@pytest.mark.parametrize(
    ("limit", "soft", "hard", "soft_at", "hard_at"),
    [("packets", 3, 6, 3, 6), ("octets", 300, 600, 3, 6), ("octets", 299, 501, 3, 6), ("octets", 201, 402, 3, 5)],
)
def test_by_use(engine_name: str, limit: str, soft: int, hard: int, soft_at: int, hard_at: int) -> None:
    """Told when the packet that reaches it has passed; soft once, and the SA goes on; hard ends it."""
    pair = Pair.of(engine_name, soft=Lifetime(**{limit: soft}), hard=Lifetime(**{limit: hard}))
    arriving = [pair.protect(PACKET, now=i) for i in range(1, hard_at + 1)]
    expected = [(SOFT, limit, soft_at), (HARD, limit, hard_at)]
    assert told(pair.sender) == expected
    refused_out(pair.sender, pair.out, PACKET, DropReason.OUT_EXPIRED, now=7)
    assert told(pair.sender) == []
    for i, packet in enumerate(arriving, 1):
        assert isinstance(pair.open(packet, now=i), Delivered)
    assert told(pair.receiver) == expected


def test_octets_that_count(engine_name: str) -> None:
    """Tunnel: the inner packet; transport: what stands behind the IP header (esp.md §8.1)."""
    tunnel, transport = Pair.of(engine_name), Pair.of(engine_name, mode=Mode.TRANSPORT)
    for pair, octets in ((tunnel, 20 + 8 + 50), (transport, 8 + 50)):
        pair.open(pair.protect(ipv4(udp(bytes(50)), UDP)))
        assert pair.sender.state(pair.out).octets == pair.receiver.state(pair.in_).octets == octets


def test_dropped_packets_do_not_count(engine_name: str) -> None:
    pair = Pair.of(engine_name, hard=Lifetime(packets=1), mtu=1000)
    refused_out(pair.sender, pair.out, ipv4(bytes(1000)), DropReason.OUT_TOO_BIG)
    protected = pair.protect()
    refused(pair.receiver, protected[:-1] + bytes((protected[-1] ^ 1,)), DropReason.AUTH, sa=pair.in_)
    refused(pair.receiver, protected[:-1], DropReason.BAD_IP, sa=pair.in_)
    assert isinstance(pair.open(protected), Delivered)


@pytest.mark.parametrize("direction", list(Direction))
def test_seconds(engine_name: str, direction: Direction) -> None:
    """Whole seconds from installation; a packet or handle_timeout finds out, whichever comes first."""
    keys = oracle.Keys.of("aes-gcm-16")
    profile = Profile("aes-gcm-16", outer=OUTER4, soft=Lifetime(seconds=10), hard=Lifetime(seconds=15))
    host = engine(engine_name)
    number = host.install(sa(profile, direction, keys), now=5 * SECOND + 1)
    assert host.deadline() == 15 * SECOND
    host.handle_timeout(15 * SECOND - 1)
    assert told(host) == []
    host.handle_timeout(15 * SECOND)
    assert told(host) == [(SOFT, "seconds", 15 * SECOND)]
    assert host.deadline() == 20 * SECOND
    host.handle_timeout(15 * SECOND + 5)
    assert told(host) == []
    host.handle_timeout(20 * SECOND - 1)
    host.state(number)
    host.handle_timeout(20 * SECOND)
    assert told(host) == [(HARD, "seconds", 20 * SECOND)]
    assert host.deadline() is None
    with pytest.raises(ConfigError):
        host.state(number)


def test_a_packet_finds_the_hard_limit(engine_name: str) -> None:
    pair = Pair.of(engine_name, hard=Lifetime(seconds=10))
    early = pair.protect(now=10 * SECOND - 1)
    refused_out(pair.sender, pair.out, PACKET, DropReason.OUT_EXPIRED, now=10 * SECOND)
    refused(pair.receiver, early, DropReason.EXPIRED, now=11 * SECOND, sa=pair.in_)
    refused(pair.receiver, early, DropReason.EXPIRED, now=12 * SECOND, sa=pair.in_)
    assert told(pair.sender) == [(HARD, "seconds", 10 * SECOND)]
    assert told(pair.receiver) == [(HARD, "seconds", 11 * SECOND)]
    # Told once; removed by the next timeout, which is due at once.
    deadline = pair.receiver.deadline()
    assert deadline is not None
    assert deadline <= 12 * SECOND
    pair.receiver.handle_timeout(12 * SECOND)
    assert told(pair.receiver) == []
    refused(pair.receiver, early, DropReason.NO_SA, now=12 * SECOND)


def test_idle(engine_name: str) -> None:
    """Counted from the last packet that passed, before the first from installation."""
    pair = Pair.of(engine_name, soft=Lifetime(idle_seconds=5), hard=Lifetime(idle_seconds=8))
    host = pair.receiver
    assert host.deadline() == 5 * SECOND
    assert isinstance(pair.open(pair.protect(now=4 * SECOND), now=4 * SECOND), Delivered)
    assert host.deadline() == 9 * SECOND
    host.handle_timeout(9 * SECOND - 1)
    forged = pair.protect(now=8 * SECOND)
    refused(host, forged[:-1] + bytes((forged[-1] ^ 1,)), DropReason.AUTH, now=8 * SECOND)
    assert host.deadline() == 9 * SECOND
    host.handle_timeout(9 * SECOND)
    assert told(host) == [(SOFT, "idle_seconds", 9 * SECOND)]
    assert host.deadline() == 12 * SECOND
    assert isinstance(pair.open(forged, now=11 * SECOND), Delivered)
    assert host.deadline() == 19 * SECOND
    host.handle_timeout(19 * SECOND)
    assert told(host) == [(HARD, "idle_seconds", 19 * SECOND)]


def test_order_of_limits(engine_name: str) -> None:
    """The first reached counts; of several reached at once seconds are named, then octets, packets, idle time."""
    limits = {"seconds": 5, "octets": 100, "packets": 1, "idle_seconds": 5}
    for names in (["seconds", "octets", "packets", "idle_seconds"], ["octets", "packets"], ["packets"]):
        pair = Pair.of(engine_name, soft=Lifetime(**{name: limits[name] for name in names}))
        pair.protect(PACKET, now=6 * SECOND)
        assert told(pair.sender) == [(SOFT, names[0], 6 * SECOND)]


def test_soft_before_hard(engine_name: str) -> None:
    pair = Pair.of(engine_name, soft=Lifetime(packets=1), hard=Lifetime(packets=1))
    pair.protect()
    assert told(pair.sender) == [(SOFT, "packets", 0), (HARD, "packets", 0)]
    late = Pair.of(engine_name, soft=Lifetime(seconds=1), hard=Lifetime(seconds=1))
    late.sender.handle_timeout(SECOND)
    assert told(late.sender) == [(SOFT, "seconds", SECOND), (HARD, "seconds", SECOND)]


def test_timeouts_come_in_the_order_of_ids(engine_name: str) -> None:
    host, keys = engine(engine_name), oracle.Keys.of("aes-gcm-16")
    profile = Profile("aes-gcm-16", outer=OUTER4, hard=Lifetime(seconds=3))
    for spi, direction in (
        (0x300, Direction.OUT),
        (0x200, Direction.IN),
        (0x100, Direction.IN),
        (0x100, Direction.OUT),
    ):
        host.install(sa(profile, direction, keys, spi=spi))
    host.handle_timeout(9 * SECOND)
    ids = [e.sa for e in events(host)]
    assert len(ids) == 4
    assert ids == sorted(ids)  # type: ignore[type-var]


@pytest.mark.parametrize("jitter", [1, 10, 90])
def test_jitter(engine_name: str, jitter: int) -> None:
    """Each SPI has its own share of it, the same each time; never more than that, never for hard limits."""
    profile = Profile(
        "aes-gcm-16", outer=OUTER4, soft=Lifetime(seconds=10_000), hard=Lifetime(seconds=20_000), jitter=jitter
    )
    keys = oracle.Keys.of("aes-gcm-16")

    def deadlines() -> list[int]:
        found = []
        for spi in range(0x1000, 0x1040):
            host = engine(engine_name)
            number = host.install(sa(profile, Direction.OUT, keys, spi=spi))
            found.append(host.deadline() or 0)
            host.handle_timeout(host.deadline() or 0)
            assert host.deadline() == 20_000 * SECOND
            host.remove(number)
        return found

    first = deadlines()
    assert first == deadlines()
    low = (10_000 - 100 * jitter) * SECOND
    assert all(low <= d <= 10_000 * SECOND for d in first)
    assert len(set(first)) > 30
    assert max(first) - min(first) > (10_000 * SECOND - low) // 2


@pytest.mark.parametrize(
    "limits", [{"packets": 1000}, {"octets": 1000}, {"idle_seconds": 1000}, {"seconds": 1}], ids=str
)
def test_jitter_of_all_limits(engine_name: str, limits: dict[str, Any]) -> None:
    """Soft limits only shrink, and to no less than one."""
    pair = Pair.of(engine_name, soft=Lifetime(**limits), jitter=90)
    if "packets" in limits or "octets" in limits:
        number = 0
        while not told(pair.sender):
            pair.protect(ipv4())
            number += 1
        assert 1 <= number * (20 if "octets" in limits else 1) <= 1000
        assert number < 1000
    else:
        deadline = pair.sender.deadline()
        assert deadline is not None
        assert SECOND <= deadline <= 1000 * SECOND


def test_expired_sa_can_be_removed_by_hand(engine_name: str) -> None:
    pair = Pair.of(engine_name, hard=Lifetime(packets=1))
    pair.open(pair.protect())
    pair.sender.remove(pair.out)
    pair.receiver.remove(pair.in_)
    assert pair.sender.deadline() is None
    with counts(pair.sender, DropReason.OUT_NO_SA):
        assert pair.sender.encapsulate(pair.out, PACKET, 0) == Dropped(DropReason.OUT_NO_SA)


def test_no_limits_no_deadline(engine_name: str) -> None:
    pair = Pair.of(engine_name, soft=Lifetime(packets=5), hard=Lifetime(octets=10_000))
    assert pair.sender.deadline() is None
    pair.sender.handle_timeout(10**18)
    assert told(pair.sender) == []
