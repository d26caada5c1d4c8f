"""Both engines through the same lives of WESP, WESPv2 and EESP: as test_equal.py has it for ESP."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wesper import SA, ConfigError, Direction, DropReason, Engine, EventKind, Packets, Profile

from . import arbitrary, family_arbitrary, oracle
from .test_equal import EVENTS_NOT_ESP, LONG, NOT_ESP, PHASES, Life

pytestmark = pytest.mark.needs_native


class FamilyLife(Life):
    """Two engines with SAs of any protocol."""

    profiles: Callable[[], st.SearchStrategy[Profile]] = staticmethod(family_arbitrary.profiles)
    first_numbers: Callable[[Profile], st.SearchStrategy[int]] = staticmethod(family_arbitrary.first_numbers)

    def __init__(self, options: dict[str, Any], shards: int = 1) -> None:
        super().__init__(options, shards)
        if shards > 1:
            self.profiles = lambda: family_arbitrary.profiles().map(without_window)

    def keys_of(self, data: st.DataObject, profile: Profile) -> oracle.Keys:
        return family_arbitrary.keys_of(data.draw, profile)

    def mark(self, chance: random.Random) -> dict[str, int]:
        return {"mark": family_arbitrary.mark(chance)}

    def body(self, chance: random.Random, sa: SA, keys: oracle.Keys, sequence: int) -> tuple[bytes, int]:
        return family_arbitrary.body(chance, sa, keys, sequence)

    def compare(self) -> None:
        super().compare()
        for sa in self.sas:
            for sub_sa in (0, 1, 3):
                found: list[Any] = []
                for host in (self.reference, self.native):
                    try:
                        found.append(host.sub_sa_state(sa, sub_sa))
                    except ConfigError as error:
                        found.append(error.key)
                assert found[1] == found[0]

    def step(self, kind: str, data: st.DataObject, chance: random.Random) -> None:
        if kind == "many" and chance.random() < 0.5:
            sa, packets = self.some_sa(chance, Direction.OUT), Packets.of([arbitrary.packet(chance) for _ in range(9)])
            marks = np.array([family_arbitrary.mark(chance) for _ in range(9)], np.uint32)

            def call(host: Engine) -> Any:
                return host.encapsulate_many(sa, packets, self.now, marks)

            self.sent = [*self.sent, *(p for p in self.both(call)[0] if p)][-60:]
        else:
            super().step(kind, data, chance)


def without_window(profile: Profile) -> Profile:
    """Turn a profile into one whose packets need not know of each other: each flow's shard has a window of its own."""
    return replace(profile, window=0, esn=profile.protocol == "eesp", resynchronise=False)


@given(data=st.data())
@settings(
    max_examples=20_000 if LONG else 150,
    deadline=None,
    derandomize=not LONG,
    phases=PHASES,
    suppress_health_check=list(HealthCheck),
)
def test_lives(data: st.DataObject) -> None:
    options = {"audit": data.draw(st.booleans()), "resync_failures": data.draw(st.sampled_from([2, 64]))}
    life = FamilyLife(options, data.draw(st.sampled_from([1, 1, 3])))
    for _ in range(data.draw(st.integers(1, 3))):
        life.install_pair(data)
    life.go(data, data.draw(st.sampled_from([0, 0, 30])))


def test_lives_go_everywhere() -> None:
    """Every reason and event that these protocols add is reached."""
    reasons, kinds = set(NOT_ESP), set(EVENTS_NOT_ESP)  # those not reached yet
    dropped: set[DropReason] = set()

    @given(data=st.data())
    @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def live(data: st.DataObject) -> None:
        life = FamilyLife({"audit": True})
        for _ in range(3):
            life.install_pair(data)
        life.go(data, 30)
        dropped.update(life.reference.drops())
        kinds.difference_update(map(EventKind, life.reached))

    for start in range(80):
        hypothesis.seed(start)(live)()
        if reasons <= dropped and not kinds:
            break
    assert (reasons - dropped, kinds) == (set(), set())
