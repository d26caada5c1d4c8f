"""Both engines through the same lives: equal verdicts, octets, events in order, counters, states, deadlines.

`pytest tests/engine/test_equal.py --hypothesis-profile=long` lives many more, different each time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from struct import pack
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from wesper import (
    SA,
    ConfigError,
    Delivered,
    Direction,
    DropReason,
    Engine,
    EventKind,
    Mode,
    Packets,
    Profile,
    Results,
)
from wesper.verdict import PSP_REASONS

from . import arbitrary, oracle
from .packets import A4, A6, ICMP, ICMPV6, LEFT4, LEFT6, RIGHT4, RIGHT6, icmp, ipv4, ipv6, udp
from .pair import SECOND, engine, events, mirrored

pytestmark = pytest.mark.needs_native

# What ESP's packets can't be dropped for, and what they do not cause.
NOT_ESP = {
    reason for reason in DropReason if DropReason.NOT_EESP.code <= reason.code <= DropReason.BAD_PAYLOAD_INFO.code
}
EVENTS_NOT_ESP = {EventKind.TEAR_DOWN, EventKind.UNKNOWN_OPTION}

LONG = settings.get_current_profile_name() == "long"
PHASES = [phase for phase in Phase if LONG or phase not in (Phase.shrink, Phase.explain)]
"""A life takes minutes to shrink. Who has changed an engine wants to know at once that it differs."""
STEPS = (
    *("encapsulate",) * 6,
    *("decapsulate",) * 8,
    *("craft",) * 4,
    *("outbound", "inbound", "pass", "many", "open_many", "dummy", "later", "timeout"),
    *(
        "set_mtu",
        "reserve",
        "close_window",
        "move",
        "icmp",
        "policies",
        "remove",
        "install",
        "install_many",
        "look",
        "fetch",
    ),
)


NUMBERS = attrgetter("sas", "sequences", "flows")


def bare(value: Any) -> Any:
    """Something to compare with ==."""
    if isinstance(value, Results):
        return (
            list(value.packets),
            value.codes.tolist(),
            value.sas.tolist(),
            value.sequences.tolist(),
            value.flows.tolist(),
            [a.dtype for a in (value.packets.data, value.packets.offsets, value.codes, *NUMBERS(value))],
        )
    if isinstance(value, np.ndarray):
        return value.dtype, value.tolist()
    return value


class Life:
    """Two engines that are told the same, and what is known of their SAs."""

    profiles: Callable[[], st.SearchStrategy[Profile]] = staticmethod(arbitrary.profiles)
    first_numbers: Callable[[Profile], st.SearchStrategy[int]] = staticmethod(arbitrary.first_numbers)

    def keys_of(self, data: st.DataObject, profile: Profile) -> oracle.Keys:
        """Key material for an SA of this profile."""
        return oracle.Keys.of(profile.suite, data.draw(st.sampled_from(oracle.SUITES[profile.suite].keys)))

    def mark(self, chance: random.Random) -> dict[str, int]:
        """What encapsulate is told of a packet's flow."""
        return {}

    def __init__(self, options: dict[str, Any], shards: int = 3) -> None:
        self.reference, self.native = engine("reference", **options), engine("native", shards=shards, **options)
        self.now = 0
        self.sas: dict[int, tuple[SA, oracle.Keys]] = {}
        self.sent: list[bytes] = []
        self.reached = set[str]()

    def both(self, call: Callable[[Engine], Any]) -> Any:
        """Do it with both; the same has to come of it, then and in all that can be asked."""
        results = []
        for host in (self.reference, self.native):
            try:
                results.append(bare(call(host)))
            except ConfigError as error:
                results.append((type(error), error.key))
        assert results[1] == results[0]
        self.compare()
        return results[0]

    def compare(self) -> None:
        reference, native = self.reference, self.native
        assert native.drops() == reference.drops()
        assert native.deadline() == reference.deadline()
        assert native.lost_events == reference.lost_events
        for sa in list(self.sas):
            states = []
            for host in (reference, native):
                try:
                    states.append(host.state(sa))
                except ConfigError:
                    states.append(None)
            assert states[1] == states[0]
            if states[0] is None:
                del self.sas[sa]

    def fetch(self) -> None:
        told = events(self.reference)
        assert events(self.native) == told
        self.reached |= {event.kind.value for event in told}

    def install(self, sa: SA, keys: oracle.Keys) -> None:
        number = self.both(lambda host: host.install(sa, self.now))
        if isinstance(number, int):
            self.sas[number] = sa, keys

    def some_sa(self, chance: random.Random, direction: Direction | None = None) -> int:
        """One of them, or none of them."""
        ids = [n for n, (sa, _) in self.sas.items() if direction is None or sa.direction is direction]
        if not ids or chance.random() < 0.03:
            return chance.choice([0, 300, 1 << 32, (1 << 40) + 77, (1 << 64) - 1])
        return chance.choice(ids)

    def note(self, verdict: Any) -> None:
        if isinstance(verdict, Delivered):
            self.sent.append(verdict.packet)
            del self.sent[:-60]

    def arriving(self, chance: random.Random) -> bytes:
        """A packet of our own, new or old, whole or mangled; or a foreign one."""
        if not self.sent or chance.random() < 0.05:
            return arbitrary.packet(chance)
        packet = self.sent[-1 - min(int(chance.expovariate(0.3)), len(self.sent) - 1)]
        while chance.random() < 0.3:
            packet = arbitrary.mangled(chance, packet)
        return packet

    def crafted(self, chance: random.Random) -> bytes:
        """A packet of a peer that has the keys and does with them as it likes."""
        number = self.some_sa(chance, Direction.IN)
        if number not in self.sas:
            return arbitrary.packet(chance)
        sa, keys = self.sas[number]
        profile, top = sa.profile, self.reference.state(number).sequence
        ahead = chance.choice([1, 1, 1, 2, 5, 70, -1, -5, -40, 1 << 31, 1 << 32, (2 << 32) + 1, -(1 << 32)])
        sequence = max(top + ahead, 0) & ((1 << 64) - 1 if profile.esn else 0xFFFFFFFF)
        body, protocol = self.body(chance, sa, keys, sequence)
        around = profile.encapsulation
        if around is not None and chance.random() < 0.95:
            body, protocol = udp(body, around.remote_port, around.local_port), 17
        if len(body) > 65000:
            return b""
        fields = chance.choice([0, 1, 2, 3, 0xFF])
        if sa.multicast and chance.random() < 0.8:
            ends = {"destination": sa.multicast[0], "source": sa.multicast[-1]}
            if sa.multicast[0].version == 4:
                return ipv4(body, protocol, tos=fields, **ends)
            return ipv6(body, protocol, traffic_class=fields, **ends)
        if chance.random() < 0.5:
            return ipv4(body, protocol, source=LEFT4, destination=RIGHT4, tos=fields, df=chance.random() < 0.5)
        return ipv6(body, protocol, source=LEFT6, destination=RIGHT6, traffic_class=fields, flow_label=99)

    def body(self, chance: random.Random, sa: SA, keys: oracle.Keys, sequence: int) -> tuple[bytes, int]:
        """A packet from its protocol's first octet on, and that protocol's number."""
        next_header, payload = arbitrary.inner_payload(chance)
        plaintext = oracle.trailer(keys.suite, payload, next_header)
        if chance.random() < 0.1 and len(plaintext) < 1600:
            block = oracle.SUITES[keys.suite].block
            pad = chance.choice([0, min(len(plaintext) - 2, 255), 255])
            plaintext = chance.randbytes((len(plaintext) - 2) // block * block + block - 2) + bytes((pad, next_header))
        iv = chance.randbytes(oracle.SUITES[keys.suite].iv)
        return oracle.seal_plaintext(keys, sa.spi, sequence, sa.profile.esn, iv, plaintext), 50

    def go(self, data: st.DataObject, least: int) -> None:
        """Live through at least so many steps.   Each has a seed of its own, so that a life shrinks step by step."""
        steps = st.tuples(st.sampled_from(STEPS), st.integers(0, 1 << 32))
        for kind, seed in data.draw(st.lists(steps, min_size=least)):
            self.step(kind, data, random.Random(seed))
        self.fetch()

    def step(self, kind: str, data: st.DataObject, chance: random.Random) -> None:
        now = self.now
        if kind == "encapsulate":
            sa, packet = self.some_sa(chance, Direction.OUT), arbitrary.packet(chance)
            tfc = chance.randbytes(chance.randrange(1, 90)) if chance.random() < 0.1 else b""
            mark = self.mark(chance)
            self.note(self.both(lambda host: host.encapsulate(sa, packet, now, tfc=tfc, **mark)))
        elif kind == "decapsulate":
            packet = self.arriving(chance)
            self.both(lambda host: host.decapsulate(packet, now))
        elif kind == "craft":
            packet = self.crafted(chance)
            for arriving in (packet, arbitrary.mangled(chance, packet), packet)[chance.randrange(3) :]:
                self.both(lambda host, arriving=arriving: host.decapsulate(arriving, now))
        elif kind == "pass":
            sa, packet = self.some_sa(chance, Direction.OUT), arbitrary.packet(chance)
            verdict = self.both(lambda host: host.encapsulate(sa, packet, now))
            self.note(verdict)
            if isinstance(verdict, Delivered):
                self.both(lambda host: host.decapsulate(verdict.packet, now))
        elif kind == "outbound":
            packet = arbitrary.packet(chance)
            for verdict in self.both(lambda host: host.outbound(packet, now)):
                self.note(verdict)
        elif kind == "inbound":
            packet = self.arriving(chance)
            self.both(lambda host: host.inbound(packet, now))
        elif kind == "many":
            packets = Packets.of([arbitrary.packet(chance) for _ in range(chance.choice([0, 1, 5, 70]))])
            if chance.random() < 0.5:
                sas: Any = self.some_sa(chance, Direction.OUT)
            else:
                sas = np.array([self.some_sa(chance) for _ in range(len(packets))], np.uint64)
            sent = self.both(lambda host: host.encapsulate_many(sas, packets, now))
            self.sent = [*self.sent, *(p for p in sent[0] if p)][-60:]
        elif kind == "open_many":
            packets = Packets.of(
                [
                    self.arriving(chance) if chance.random() < 0.7 else self.crafted(chance)
                    for _ in range(chance.choice([0, 1, 5, 70]))
                ]
            )
            self.both(lambda host: host.decapsulate_many(packets, now))
        elif kind == "dummy":
            sa, payload = self.some_sa(chance, Direction.OUT), chance.randbytes(chance.randrange(70))
            self.note(self.both(lambda host: host.dummy(sa, payload, now)))
        elif kind == "later":
            self.now += chance.choice([1, SECOND // 3, SECOND, 2 * SECOND, 5 * SECOND, 601 * SECOND])
        elif kind == "timeout":
            self.now = max(now, self.reference.deadline() or 0) if chance.random() < 0.3 else now
            self.both(lambda host: host.handle_timeout(self.now))
        elif kind == "set_mtu":
            sa, mtu = self.some_sa(chance), chance.choice([68, 100, 576, 1000, 1280, 1500, 65535, 70000])
            self.both(lambda host: host.set_mtu(sa, mtu, now))
            self.both(lambda host: host.inner_mtu(sa, now))
        elif kind == "reserve":
            sa = self.some_sa(chance)
            sequence = self.reference.state(sa).sequence if sa in self.sas else 0
            last = chance.choice([sequence, sequence + 1, sequence + 3, (1 << 32) - 1, (1 << 64) - 1])
            self.both(lambda host: host.reserve(sa, last))
        elif kind == "close_window":
            sa = self.some_sa(chance)
            self.both(lambda host: host.close_window(sa))
        elif kind == "move":
            self.move(chance)
        elif kind == "icmp":
            quoted, mtu = self.arriving(chance), chance.choice([0, 68, 576, 1000, 1280, 1400])
            if chance.random() < 0.5:
                message = ipv4(icmp(3, 4, pack(">HH", 0, mtu) + quoted[:200]), ICMP)
            else:
                data_octets = pack(">I", mtu) + quoted[:200]
                message = ipv6(icmp(2, 0, data_octets, ends=(RIGHT6, LEFT6)), ICMPV6, source=RIGHT6, destination=LEFT6)
            self.both(lambda host: host.icmp_error(message, now))
        elif kind == "policies":
            out = tuple(n for n, (sa, _) in self.sas.items() if sa.direction is Direction.OUT)
            lists = data.draw(st.tuples(*[st.lists(arbitrary.policies(out), max_size=3)] * 2))
            self.both(lambda host: host.set_policies(*lists))
        elif kind == "remove":
            sa = self.some_sa(chance)
            if chance.random() < 0.3:
                self.both(lambda host: host.remove(sa))
        elif kind == "install":
            self.install_pair(data)
        elif kind == "install_many":
            profile, direction = data.draw(self.profiles()), data.draw(st.sampled_from(Direction))
            keys = self.keys_of(data, profile)
            spis = np.array(data.draw(st.lists(st.integers(250, 600), max_size=4)), np.uint32)
            row = keys.key + keys.salt + keys.auth_key
            material = np.frombuffer(row * len(spis), np.uint8).reshape(len(spis), len(row))
            ids = self.both(lambda host: host.install_many(profile, direction, spis, material, now))
            if isinstance(ids[1], list):
                for number, spi in zip(ids[1], spis.tolist(), strict=True):
                    spec = SA(profile, direction, spi, keys.key, keys.salt, keys.auth_key)
                    self.sas[number] = spec, keys
        elif kind == "look":
            sa, low = self.some_sa(chance), chance.choice([0, 5, 0x7FFFFFFF, 0xFFFFFFF0, chance.randrange(1 << 32)])
            self.both(lambda host: host.infer(sa, low))
            self.both(lambda host: host.inner_mtu(sa, now))
            spis = np.array([chance.randrange(200, 650) for _ in range(chance.randrange(5))], np.uint32)
            self.both(lambda host: host.find(spis))
            self.both(lambda host: host.counters())
        else:
            self.fetch()

    def move(self, chance: random.Random) -> None:
        """Give an SA other addresses and ports; now and then more, which is refused."""
        number = self.some_sa(chance)
        profile = self.sas[number][0].profile if number in self.sas else Profile("aes-gcm-16", Mode.TRANSPORT)
        settings: dict[str, Any] = {}
        if profile.outer is not None:
            local, remote = chance.choice([(LEFT4, RIGHT4), (A4, RIGHT4), (LEFT6, RIGHT6), (RIGHT6, A6)])
            settings["outer"] = replace(profile.outer, local=local, remote=remote)
        if profile.encapsulation is not None:
            ports = {"local_port": chance.choice(arbitrary.PORTS), "remote_port": chance.choice(arbitrary.PORTS)}
            settings["encapsulation"] = replace(profile.encapsulation, **ports)
        if chance.random() < 0.2:
            settings |= chance.choice(
                [{"check_padding": not profile.check_padding}, {"encapsulation": None}, {"mtu": 1400}]
            )
        after = replace(profile, **settings)
        if self.both(lambda host: host.set_profile(number, after)) is None:
            sa, keys = self.sas[number]
            self.sas[number] = replace(sa, profile=after), keys

    def install_pair(self, data: st.DataObject) -> None:
        """Both ends of an SA in the same host, as far as nothing is in their way."""
        profile: Profile = data.draw(self.profiles())
        keys = self.keys_of(data, profile)
        sizes = oracle.SUITES[profile.suite]
        spi, sequence = data.draw(st.integers(256, 262)), data.draw(self.first_numbers(profile))
        multicast = data.draw(st.sampled_from([(), (), (), *arbitrary.GROUPS]))
        iv = data.draw(st.sampled_from([None, None, bytes(range(16 if sizes.block == 16 else 8))]))
        material = keys.key, keys.salt, keys.auth_key
        self.install(SA(profile, Direction.OUT, spi, *material, sequence=sequence, iv=iv), keys)
        there = mirrored(profile)
        self.install(SA(there, Direction.IN, spi, *material, sequence=sequence, multicast=multicast), keys)


@given(data=st.data())
@settings(
    max_examples=20_000 if LONG else 500,
    deadline=None,
    derandomize=not LONG,
    phases=PHASES,
    suppress_health_check=list(HealthCheck),
)
def test_lives(data: st.DataObject) -> None:
    options = {
        "audit": data.draw(st.booleans()),
        "events": data.draw(st.sampled_from([1024, 1024, 3])),
        "resync_failures": data.draw(st.sampled_from([2, 3, 64])),
        "resync_tries": data.draw(st.sampled_from([1, 3, 16])),
    }
    life = Life(options)
    for _ in range(data.draw(st.integers(1, 3))):
        life.install_pair(data)
    few_or_many = data.draw(st.sampled_from([0, 0, 30]))
    life.go(data, few_or_many)


def test_lives_go_everywhere() -> None:
    """What the test above draws from reaches every reason and every event; else it would compare nothing much."""
    reasons, kinds = set(DropReason) - PSP_REASONS - NOT_ESP, set(EventKind) - EVENTS_NOT_ESP  # those not reached yet

    @given(data=st.data())
    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def live(data: st.DataObject) -> None:
        life = Life({"audit": True, "resync_failures": 2, "resync_tries": 3})
        for _ in range(2):
            life.install_pair(data)
        life.go(data, 30)
        reasons.difference_update(life.reference.drops())
        kinds.difference_update(map(EventKind, life.reached))

    for start in range(20):
        hypothesis.seed(start)(live)()
        if not reasons and not kinds:
            break
    assert (reasons, kinds) == (set(), set())
