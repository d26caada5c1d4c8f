"""The native engine's inbound half in shards: each flow in one, and what is asked of an SA answered for all of them."""

from __future__ import annotations

import random
import threading
from collections import Counter
from contextlib import ExitStack
from socket import AF_INET, SO_REUSEPORT, SOCK_DGRAM, SOL_SOCKET, socket
from typing import Any

import pytest

from wesper import (
    ConfigError,
    Delivered,
    Direction,
    Dropped,
    DropReason,
    EESPFormat,
    EventKind,
    FlowKind,
    FlowPolicy,
    Lifetime,
    Option,
    Options,
    Outer,
    Packets,
    UDPEncapsulation,
    WESPv2Format,
    _native,
)
from wesper.nic import attach, flow_plans

from . import arbitrary
from .packets import ipv4, patched, udp
from .pair import OUTER4, OUTER6, SECOND, SPI, Pair, delivered, events, sa

pytestmark = pytest.mark.needs_native

SHARDS = 3
BY_TUPLE = FlowPolicy(FlowKind.FIVE_TUPLE)
NAMED: list[dict[str, Any]] = [
    {"protocol": "wespv2", "format": WESPv2Format(flow_identifier=BY_TUPLE)},
    {"protocol": "wespv2", "format": WESPv2Format(flow_identifier=BY_TUPLE, flow_identifier_octets=4)},
    {"protocol": "eesp", "esn": True, "format": EESPFormat(session=BY_TUPLE)},
]
IN_UDP = {"encapsulation": UDPEncapsulation(4500, 4500)}


def pair_of(settings: dict[str, Any], *, window: int = 1024, **more: Any) -> Pair:
    return Pair.of("native", options={"shards": SHARDS}, window=window, **settings, **more)


def protected(pair: Pair, flows: int, each: int = 1) -> list[bytes]:
    """Packets of so many flows in turn."""
    inner = [ipv4(udp(sport=1000 + flow), 17) for _ in range(each) for flow in range(flows)]
    return [pair.protect(packet) for packet in inner]


def shards_of(packets: list[bytes]) -> list[int]:
    return [_native.shard_of(packet, SHARDS) for packet in packets]


@pytest.mark.parametrize("encapsulation", [{}, IN_UDP], ids=["raw", "udp"])
@pytest.mark.parametrize("settings", NAMED, ids=["wespv2", "wespv2 of 4", "eesp"])
def test_flows_are_spread_and_stay(settings: dict[str, Any], encapsulation: dict[str, Any]) -> None:
    pair = pair_of(settings, **encapsulation)
    first, second = protected(pair, 300), protected(pair, 300)
    where = shards_of(first)
    assert shards_of(second) == where
    assert max(Counter(where).values()) < 140


def test_packets_of_one_sa_of_esp_go_to_one_shard() -> None:
    assert len(set(shards_of(protected(pair_of({}), 50)))) == 1
    assert len(set(shards_of(protected(pair_of(IN_UDP), 50)))) == 1


def of_many_sas(settings: dict[str, Any], count: int, **more: Any) -> list[bytes]:
    """A packet of each of so many SAs."""
    pair = pair_of(settings, **more)
    spis = [SPI + number for number in range(count)]
    ids = [pair.sender.install(sa(pair.profile, Direction.OUT, pair.keys, spi=spi)) for spi in spis]
    return [delivered(pair.sender.encapsulate(id, ipv4(udp(), 17), 0)).packet for id in ids]


def padded(packet: bytes) -> bytes:
    """A WESP packet in UDP over IPv6 with the padding that its header may announce; the ICV covers neither."""
    head, wesp, rest = packet[:52], packet[52:56], packet[56:]
    lengths = (len(packet) - 40 + 4).to_bytes(2, "big")
    head = head[:4] + lengths + head[6:44] + lengths + head[46:]
    return head + wesp[:3] + bytes((wesp[3] | 0x10,)) + b"????" + rest


WRAPPED: list[dict[str, Any]] = [
    {"protocol": "wesp"},
    {"protocol": "wespv2"},
    {"protocol": "wespv2", "format": WESPv2Format(options=(Option(0x1C, bytes(9)),))},
]


@pytest.mark.parametrize("outer", [OUTER4, OUTER6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("encapsulation", [{}, IN_UDP], ids=["raw", "udp"])
@pytest.mark.parametrize("settings", [{}, *WRAPPED], ids=["esp", "wesp", "wespv2", "with options"])
def test_sas_without_names_of_flows_are_spread(settings: Any, encapsulation: dict[str, Any], outer: Outer) -> None:
    where = shards_of(of_many_sas(settings, 300, outer=outer, **encapsulation))
    assert max(Counter(where).values()) < 140
    same = pair_of(settings, outer=outer, **encapsulation)
    assert len(set(shards_of(protected(same, 50)))) == 1


def test_a_header_that_nobody_has_signed_does_not_choose_the_shard() -> None:
    """WESP's may be changed on its way: what comes again with padding meets the window that has seen it."""
    pair = pair_of({"protocol": "wesp"}, outer=OUTER6, **IN_UDP)
    for packet in protected(pair, 40):
        assert shards_of([padded(packet)]) == shards_of([packet])
        assert isinstance(pair.open(packet), Delivered)
        assert pair.open(padded(packet)) == Dropped(DropReason.REPLAY)
    fresh = pair.protect()
    assert isinstance(pair.open(padded(fresh)), Delivered)


@pytest.mark.parametrize("sockets", [2, 3, 7])
@pytest.mark.parametrize(
    "settings", [{}, *NAMED, *WRAPPED], ids=["esp", "wespv2", "wespv2 of 4", "eesp", "wesp", "no names", "with options"]
)
def test_the_kernel_steers_to_the_shard_that_opens(settings: dict[str, Any], sockets: int) -> None:
    """The program that this kernel runs is written from the declarations, the engine's choice by hand."""
    packets = protected(pair_of(settings, **IN_UDP), 60) + of_many_sas(settings, 60, **IN_UDP)
    in_ipv6 = of_many_sas(settings, 60, outer=OUTER6, **IN_UDP)
    if settings.get("protocol") == "wesp":
        in_ipv6 += [padded(packet) for packet in in_ipv6]
    packets += [ipv4(udp(packet[48:], 4500, 4500), 17) for packet in in_ipv6]  # this kernel's IPv4 does as well
    chance = random.Random(9)
    packets += [ipv4(udp(packet[28 : 28 + chance.randrange(40)], 4500, 4500), 17) for packet in packets]
    packets += [ipv4(udp(b"\0\0\0\2" + chance.randbytes(chance.randrange(30)), 4500, 4500), 17) for _ in range(200)]
    with ExitStack() as stack:
        group: list[socket] = []
        for _ in range(sockets):
            one = stack.enter_context(socket(AF_INET, SOCK_DGRAM))
            one.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
            one.bind(("127.0.0.1", group[0].getsockname()[1] if group else 0))
            one.setblocking(False)
            group.append(one)
        attach(group, flow_plans())
        sender = stack.enter_context(socket(AF_INET, SOCK_DGRAM))
        for packet in packets:
            sender.sendto(packet[28:], group[0].getsockname())
            chosen = _native.shard_of(packet, sockets)
            assert group[chosen].recv(2048) == packet[28:]


@pytest.mark.parametrize("settings", [{}, *NAMED], ids=["esp", "wespv2", "wespv2 of 4", "eesp"])
def test_verdicts_are_those_of_one_shard(settings: dict[str, Any]) -> None:
    """Late, mangled, foreign and repeated packets, one by one and in batches."""
    pair, chance = pair_of(settings), random.Random(4)
    whole = pair.receiver.__class__(Options(iv_key=bytes(16)))
    whole.install(sa(pair.receiver_profile, Direction.IN, pair.keys))
    packets = protected(pair, 20, each=10)
    arriving = [packet for packet in packets for _ in range(chance.choice([1, 1, 2]))]
    # Forged behind the header: with another flow's name they would go to a shard that has not seen the number.
    arriving += [
        patched(packet, len(packet) - chance.randrange(1, 30), b"\x77") for packet in chance.sample(packets, 80)
    ]
    arriving += [arbitrary.packet(chance) for _ in range(40)]
    chance.shuffle(arriving)
    one_by_one, batch = arriving[:150], Packets.of(arriving[150:])
    for packet in one_by_one:
        assert pair.receiver.decapsulate(packet, 0) == whole.decapsulate(packet, 0)
    ours, others = pair.receiver.decapsulate_many(batch, 0), whole.decapsulate_many(batch, 0)
    for name in ("codes", "sas", "sequences", "flows"):
        assert getattr(ours, name).tolist() == getattr(others, name).tolist()
    assert [ours.packets[i] for i in range(len(ours.packets))] == [
        others.packets[i] for i in range(len(others.packets))
    ]
    assert pair.receiver.state(pair.in_) == whole.state(pair.in_)
    assert pair.receiver.drops() == whole.drops()
    assert pair.receiver.state(pair.in_).replay > 0


def test_a_limit_counts_the_packets_of_all_shards() -> None:
    limits = {"soft": Lifetime(packets=40), "hard": Lifetime(packets=100)}
    pair = pair_of(NAMED[0], receiver=limits)
    verdicts = [pair.open(packet) for packet in protected(pair, 30, each=5)]
    assert sum(isinstance(verdict, Delivered) for verdict in verdicts) == 100
    assert [(event.kind, event.limit) for event in events(pair.receiver)] == [
        (EventKind.SOFT_EXPIRED, "packets"),
        (EventKind.HARD_EXPIRED, "packets"),
    ]
    assert pair.receiver.drops()[DropReason.EXPIRED] == 50
    pair.receiver.handle_timeout(0)
    with pytest.raises(ConfigError):
        pair.receiver.state(pair.in_)
    assert not isinstance(pair.open(protected(pair, 1)[0]), Delivered)


def test_an_sa_is_idle_when_all_its_shards_are() -> None:
    pair = pair_of(NAMED[0], receiver={"hard": Lifetime(idle_seconds=2)})
    flow = ipv4(udp(), 17)
    for second in range(6):
        delivered(pair.open(pair.protect(flow), second * SECOND))
        pair.receiver.handle_timeout(second * SECOND)
    assert events(pair.receiver) == []
    pair.receiver.handle_timeout(7 * SECOND)
    assert [event.limit for event in events(pair.receiver)] == ["idle_seconds"]


def test_a_closed_window_is_closed_in_every_shard() -> None:
    pair = pair_of(NAMED[0])
    packets = protected(pair, 40)
    delivered(pair.open(packets[-1]))
    pair.receiver.close_window(pair.in_)
    assert all(not isinstance(pair.open(packet), Delivered) for packet in packets)
    assert pair.receiver.drops() == {DropReason.REPLAY: 40}


@pytest.mark.parametrize("settings", NAMED, ids=["wespv2", "wespv2 of 4", "eesp"])
def test_threads_open_at_once(settings: dict[str, Any]) -> None:
    """Each has its own flows, as they are steered to it, while another asks: every packet once, each flow in order."""
    pair = pair_of(settings, window=1 << 14)
    packets = protected(pair, 60, each=60)
    queues: list[list[bytes]] = [[] for _ in range(SHARDS)]
    for packet, shard in zip(packets, shards_of(packets), strict=True):
        queues[shard].append(packet)
    done, results = threading.Event(), [list[int]() for _ in queues]

    def work(queue: list[bytes], result: list[int]) -> None:
        for at in range(0, len(queue), 50):
            for _ in range(2):
                batch = pair.receiver.decapsulate_many(Packets.of(queue[at : at + 50]), 0)
                result += [int(n) for n, code in zip(batch.sequences, batch.codes, strict=True) if not code]

    def ask() -> None:
        while not done.is_set():
            pair.receiver.state(pair.in_)
            pair.receiver.drops()

    asking = threading.Thread(target=ask)
    threads = [threading.Thread(target=work, args=each) for each in zip(queues, results, strict=True)]
    for thread in (asking, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    asking.join()
    assert sorted(n for result in results for n in result) == list(range(1, len(packets) + 1))
    assert all(result == sorted(result) for result in results)
    state = pair.receiver.state(pair.in_)
    assert (state.packets, state.replay, state.sequence) == (len(packets), len(packets), len(packets))


def test_bounds() -> None:
    for shards in (0, 65):
        with pytest.raises(ConfigError, match="shards"):
            Options(shards=shards)
    assert [_native.shard_of(packet, SHARDS) for packet in (b"", b"E", ipv4(b"", 50), ipv4(udp(b""), 17))] == [0] * 4


def test_an_sa_of_many_shards_is_installed_once() -> None:
    pair = pair_of({})
    with pytest.raises(ConfigError, match="SPI"):
        pair.receiver.install(sa(pair.receiver_profile, Direction.IN, pair.keys))
    pair.receiver.remove(pair.in_)
    assert pair.receiver.install(sa(pair.receiver_profile, Direction.IN, pair.keys)) == pair.in_
