"""Pairs of SAs at work, in simulated time: who speaks when, when data moves, when a pair goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from wesper.engine import Engine, open_engine
from wesper.engine.interface import SECOND
from wesper.errors import ConfigError
from wesper.tunnel import pairs
from wesper.tunnel.file import load_file
from wesper.tunnel.keygen import add, end, make
from wesper.tunnel.pairs import Tunnel
from wesper.tunnel.state import State
from wesper.verdict import Delivered, Dropped, DropReason

TICK = SECOND // 10
INSIDE = bytes.fromhex("4500001400000000401100000a0800010a080002")


class Side:
    """A tunnel, its engine, and what it has sent but nobody has taken yet."""

    def __init__(self, path: Path, engine: str = "reference") -> None:
        self.path = path
        self.engine: Engine = open_engine(engine)
        self.state = State.open(path.parent / f"state-{path.stem}", path.stem)
        self.sent: list[bytes] = []
        self.told: Counter[str] = Counter()
        settings = load_file(path).tunnels[0]
        self.tunnel = Tunnel(
            settings, self.engine, self.state, settings.local, 1500, tell=self._tell, send=self.sent.append
        )
        self.state.admit(self.tunnel.prepare(settings.pairs))
        for each in settings.pairs:
            self.tunnel.install(each, 0)

    def _tell(self, event: str, **fields: object) -> None:
        self.told[event] += 1

    def end(self) -> None:
        """Do what a daemon does at its end."""
        self.state.save_tops({pair.in_mark: self.engine.state(pair.in_id).sequence for pair in self.tunnel.pairs})
        self.state.close()

    def read_again(self, now: int) -> None:
        """Do what a reload does with pairs."""
        settings = load_file(self.path).tunnels[0]
        known = {each.pair for each in self.tunnel.pairs}
        new = tuple(each for each in settings.pairs if each not in known)
        self.state.admit(self.tunnel.prepare(new))
        for each in new:
            self.tunnel.install(each, now)
        self.tunnel.want(settings)


class World:
    """Two sides and a wire that can be cut."""

    def __init__(self, folder: Path) -> None:
        paths = folder / "left.toml", folder / "right.toml"
        ends = [
            end(path, address, 4500, [inner], [])
            for path, address, inner in zip(
                paths, ("192.0.2.1", "192.0.2.2"), ("10.8.0.1/24", "10.8.0.2/24"), strict=True
            )
        ]
        make(*ends, name="test", suite="aes-gcm-16", mode="tunnel", esn=True)
        self.left, self.right = (Side(path) for path in paths)
        self.now = SECOND
        self.whole = True
        self.passed = 0

    def run(self, seconds: float, sides: tuple[Side, ...] = ()) -> None:
        """Let time pass.   sides: those that run; both by default."""
        sides = sides or (self.left, self.right)
        for _ in range(round(seconds * 10)):
            self.now += TICK
            for side in sides:
                side.tunnel.step(self.now)
            for side, other in ((self.left, self.right), (self.right, self.left)):
                packets, side.sent[:] = side.sent[:], []
                for packet in packets if self.whole and other in sides else ():
                    self.passed += 1
                    other.engine.inbound(packet, self.now)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Return two ends with one pair."""
    found = World(tmp_path)
    yield found
    for side in (found.left, found.right):
        side.state.close()


def test_both_are_heard_and_then_nobody_speaks(world: World) -> None:
    world.run(2)
    assert all(side.tunnel.pairs[0].proven for side in (world.left, world.right))
    world.passed = 0
    world.run(120)
    assert world.passed == 0  # no dummy answers a dummy for ever
    assert world.left.told["peer_silent"] == 0


def test_who_is_alone_asks_less_and_less_often(world: World) -> None:
    sent = []
    for _ in range(6):
        world.left.sent.clear()
        before = world.left.engine.state(world.left.tunnel.pairs[0].out_id).packets
        world.run(10, (world.left,))
        sent.append(world.left.engine.state(world.left.tunnel.pairs[0].out_id).packets - before)
    assert sent[0] > 8
    assert sent[-1] in (2, 3)
    assert world.left.told["peer_silent"] == 1
    world.run(6)
    assert world.left.told["peer_heard"] == 1
    assert not world.left.tunnel.silent


def test_who_only_listens_lets_itself_be_heard(world: World) -> None:
    world.run(2)
    inner = bytes.fromhex("450000140000000040fd0000") + ip_address("10.8.0.1").packed + ip_address("10.8.0.2").packed
    for _ in range(200):
        verdict = world.left.engine.encapsulate(world.left.tunnel.pairs[0].out_id, inner, world.now)
        world.right.engine.inbound(verdict.packet, world.now)
        world.run(0.5)
    assert world.left.told["peer_silent"] == 0
    answers = world.right.engine.state(world.right.tunnel.pairs[0].out_id).packets
    assert 10 < answers < 30  # one in five seconds or so, not one a packet


def test_data_moves_when_the_new_pair_is_proven_and_the_old_one_goes_later(world: World) -> None:
    world.run(2)
    left, right = world.left, world.right
    add(left.path, right.path)
    left.read_again(world.now)
    world.run(5)
    assert left.tunnel.sending is left.tunnel.pairs[0]
    right.read_again(world.now)
    world.run(1)
    assert all(side.tunnel.sending is side.tunnel.pairs[1] for side in (left, right))
    head, _, *rest = left.path.read_text().split("[[tunnel.sa]]")
    left.path.write_text("[[tunnel.sa]]".join([head, *rest]))
    left.read_again(world.now)
    world.run(pairs.GRACE_NS / SECOND - 1)
    assert len(left.tunnel.pairs) == 2
    world.run(2)
    assert len(left.tunnel.pairs) == 1
    assert len(right.tunnel.pairs) == 2


def test_an_old_pair_stays_as_long_as_no_new_one_is_proven(world: World) -> None:
    world.run(2)
    left = world.left
    add(left.path, world.right.path)
    head, _, *rest = left.path.read_text().split("[[tunnel.sa]]")
    left.path.write_text("[[tunnel.sa]]".join([head, *rest]))  # too early: the peer does not know the new one
    left.read_again(world.now)
    world.run(60)
    assert len(left.tunnel.pairs) == 2
    assert left.tunnel.sending is left.tunnel.pairs[0]
    world.right.read_again(world.now)
    world.run(20)
    assert len(left.tunnel.pairs) == 1


def test_a_peer_that_seems_everywhere_is_told_now_and_then(world: World) -> None:
    tunnel = world.left.tunnel
    for number in range(1000):  # in one tick, as a relay on the path can have it
        assert not tunnel.moved(ip_address("203.0.113.9").packed, 1024 + number, world.now)
    assert world.left.told["peer_elsewhere"] == 1
    tunnel.moved(ip_address("203.0.113.9").packed, 1, world.now + pairs.SILENT_NS)
    assert world.left.told["peer_elsewhere"] == 2


@pytest.mark.parametrize("engine", ["reference", pytest.param("native", marks=pytest.mark.needs_native)])
def test_nothing_is_taken_again_however_often_an_end_comes(world: World, engine: str) -> None:
    """Few packets between two ends: fewer than a window, and with gaps."""
    sender = world.left.tunnel.pairs[0].out_id
    sent = [world.left.engine.encapsulate(sender, INSIDE, 0) for _ in range(702)]
    packets = [verdict.packet for verdict in sent if isinstance(verdict, Delivered)]
    world.right.state.close()

    def run(*batches: list[bytes]) -> list[int]:
        """Take packets in a daemon's life; return how many of each batch were delivered."""
        side = Side(world.right.path, engine)
        delivered = [
            sum(isinstance(side.engine.inbound(packet, 0), Delivered) for packet in batch) for batch in batches
        ]
        side.end()
        return delivered

    assert run(packets[:100]) == [100]
    assert run(packets[:100], packets[400:600]) == [0, 200]
    assert run(packets[400:600], packets[:600], packets[600:700:2]) == [0, 0, 50]
    assert run(packets[:699], packets[701:], packets[699:]) == [0, 1, 2]


def test_a_pair_that_is_torn_down_makes_room_for_another(world: World) -> None:
    add(world.left.path, world.right.path)
    for side in (world.left, world.right):
        side.read_again(world.now)
    world.run(2)
    tunnel = world.left.tunnel
    old, new = tunnel.pairs
    assert tunnel.sending is new
    tunnel.tear_down(new)
    world.run(1)
    assert tunnel.sending is old
    assert world.left.engine.state(old.out_id)
    for sa in (new.out_id, new.in_id):
        with pytest.raises(ConfigError):
            world.left.engine.state(sa)
    world.left.read_again(world.now)
    world.run(30)
    assert (tunnel.pairs, tunnel.sending) == ([old, new], old)
    assert DropReason.OUT_NO_SA not in world.left.engine.drops(), "no dummy is sent where no SA is"


def test_without_another_pair_nothing_leaves_until_there_are_new_keys(world: World) -> None:
    world.run(2)
    tunnel = world.left.tunnel
    (only,) = tunnel.pairs
    tunnel.tear_down(only)
    world.run(1)
    assert tunnel.sending is only
    policy = tunnel.policy()
    world.left.engine.set_policies([policy])
    assert world.left.engine.outbound(INSIDE, world.now) == [Dropped(DropReason.OUT_NO_SA)]
    add(world.left.path, world.right.path)
    world.left.read_again(world.now)
    world.run(0.1, (world.left,))
    assert tunnel.sending is tunnel.pairs[-1] is not only, "no other pair is better proven"


def test_a_pair_that_is_torn_down_and_gone_from_the_file_goes_at_once(world: World) -> None:
    add(world.left.path, world.right.path)
    for side in (world.left, world.right):
        side.read_again(world.now)
    world.run(2)
    tunnel = world.left.tunnel
    old, new = tunnel.pairs
    tunnel.tear_down(old)
    head, _, rest = world.left.path.read_text().split("[[tunnel.sa]]")
    world.left.path.write_text(f"{head}[[tunnel.sa]]{rest}")
    world.left.read_again(world.now)
    world.run(0.1)
    assert tunnel.pairs == [new]
