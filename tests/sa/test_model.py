"""Profiles, SAs and lifetimes refuse what contradicts itself, and say what would be right."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper import SA, ConfigError, Direction, Inner, KeyMaterialError, Lifetime, Mode, Outer, Profile
from wesper.sa.model import jittered, soft_limit

V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
OUTER = Outer(V4, V4)
GOOD = Profile("aes-gcm-16", outer=OUTER)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"outer": None}, "outer"),
        ({"mode": Mode.BEET}, "inner"),
        ({"mode": Mode.BEET, "outer": None, "inner": Inner(V4, V4)}, "outer"),
        ({"outer": Outer(V4, V6)}, "outer"),
        ({"mode": Mode.BEET, "inner": Inner(V4, V6)}, "inner"),
        ({"protocol": "ah"}, "protocol"),
        ({"window": 31}, "window"),
        ({"window": 33}, "window"),
        ({"window": -32}, "window"),
        ({"window": (1 << 20) + 32}, "window"),
        ({"pad_to": -1}, "pad_to"),
        ({"pad_to": 65536}, "pad_to"),
        ({"mode": Mode.TRANSPORT, "pad_to": 1}, "pad_to"),
        ({"mtu": 67}, "mtu"),
        ({"mtu": 65536}, "mtu"),
        ({"jitter": 91}, "jitter"),
        ({"jitter": -1}, "jitter"),
        ({"outer": replace(OUTER, hop_limit=0)}, "outer.hop_limit"),
        ({"outer": replace(OUTER, hop_limit=256)}, "outer.hop_limit"),
        ({"outer": replace(OUTER, dscp=64)}, "outer.dscp"),
        ({"outer": replace(OUTER, flow_label=1 << 20)}, "outer.flow_label"),
        ({"outer": replace(OUTER, identification=1 << 16)}, "outer.identification"),
    ],
)
def test_profile_refuses(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(GOOD, **settings)
    assert caught.value.key == key
    assert caught.value.expected
    assert caught.value.expected in str(caught.value)


@pytest.mark.parametrize("window", [0, 32, 64, 96, 1 << 20])
def test_profile_takes(window: int) -> None:
    assert replace(GOOD, window=window).window == window
    assert Profile("aes-gcm-16", Mode.TRANSPORT).outer is None


def test_equal_profiles_are_one() -> None:
    """So that engines can share what many SAs have."""
    assert len({GOOD, Profile("aes-gcm-16", outer=Outer(V4, V4)), replace(GOOD, mtu=1500)}) == 2


def test_last_sequence() -> None:
    assert GOOD.last_sequence == (1 << 64) - 1
    assert replace(GOOD, esn=False).last_sequence == (1 << 32) - 1


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"spi": 0}, "spi"),
        ({"spi": 255}, "spi"),
        ({"spi": 1 << 32}, "spi"),
        ({"sequence": -1}, "sequence"),
        ({"sequence": 1 << 64}, "sequence"),
        ({"iv": bytes(16)}, "iv"),
        ({"iv": b""}, "iv"),
        ({"direction": Direction.IN, "multicast": (V4, V4, V4)}, "multicast"),
    ],
)
def test_sa_refuses(settings: dict[str, Any], key: str) -> None:
    good = {"profile": GOOD, "direction": Direction.OUT, "spi": 256, "key": bytes(16), "salt": bytes(4)}
    SA(**good)
    with pytest.raises(ConfigError) as caught:
        SA(**{**good, **settings})
    assert caught.value.key == key


def test_sa_of_32_bit_numbers() -> None:
    short = replace(GOOD, esn=False)
    SA(short, Direction.OUT, 256, bytes(16), bytes(4), sequence=(1 << 32) - 1)
    with pytest.raises(ConfigError):
        SA(short, Direction.OUT, 256, bytes(16), bytes(4), sequence=1 << 32)


@pytest.mark.parametrize("wrong", ["key", "salt", "auth_key"])
def test_sa_refuses_keys(wrong: str) -> None:
    keys = {"key": bytes(16), "salt": bytes(4), "auth_key": b""} | {wrong: b"\xd7" * 5}
    with pytest.raises(KeyMaterialError) as caught:
        SA(GOOD, Direction.OUT, 256, **keys)
    assert caught.value.key == wrong
    assert "d7" not in str(caught.value)


def test_sa_does_not_show_its_keys() -> None:
    shown = repr(SA(GOOD, Direction.OUT, 256, b"\xd7" * 32, b"\xd7" * 4))
    assert "key" not in shown
    assert "xd7" not in shown


@pytest.mark.parametrize("name", ["seconds", "octets", "packets", "idle_seconds"])
@pytest.mark.parametrize("value", [0, -1, 1 << 63])
def test_lifetime_refuses(name: str, value: int) -> None:
    with pytest.raises(ConfigError) as caught:
        Lifetime(**{name: value})
    assert caught.value.key == name


def test_lifetime_reached() -> None:
    limits = Lifetime(seconds=10, octets=20, packets=30, idle_seconds=40)
    assert limits.reached(9, 19, 29, 39) == ""
    assert limits.reached(10, 20, 30, 40) == "seconds"
    assert limits.reached(9, 20, 30, 40) == "octets"
    assert limits.reached(9, 19, 30, 40) == "packets"
    assert limits.reached(9, 19, 29, 40) == "idle_seconds"
    assert Lifetime().reached(1 << 62, 1 << 62, 1 << 62, 1 << 62) == ""


@given(st.integers(1, (1 << 63) - 1), st.integers(0, 90), st.integers(256, (1 << 32) - 1))
def test_jitter_shortens_by_its_share(limit: int, jitter: int, spi: int) -> None:
    short = soft_limit(limit, jitter, spi)
    assert 1 <= short <= limit
    assert short >= limit - limit * jitter // 100 - 1
    assert short == soft_limit(limit, jitter, spi)


def test_jitter_of_lifetimes() -> None:
    soft = Lifetime(seconds=1000, packets=1000)
    assert jittered(soft, 0, 0x1234) is soft
    spread = {jittered(soft, 50, spi).seconds for spi in range(256, 512)}
    assert len(spread) > 200
    short = jittered(soft, 50, 0x1234)
    assert short.octets is short.idle_seconds is None
    assert short.seconds == short.packets
