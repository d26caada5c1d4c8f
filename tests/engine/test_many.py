"""Batches, bulk installation, and what engines refuse from their callers; keys stay out of sight."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from wesper import (
    SA,
    ConfigError,
    Delivered,
    Direction,
    Dropped,
    DropReason,
    KeyMaterialError,
    Options,
    Packets,
    Profile,
    Results,
    UnsupportedError,
    open_engine,
)

from . import oracle
from .packets import ipv4, ipv6
from .pair import IV_KEY, OUTER4, SPI, Pair, engine, refused, sa

NONE = (1 << 64) - 1


def alike(results: Results, verdicts: list[Any]) -> None:
    """A batch's results are these verdicts."""
    numbers = (results.sas, results.sequences, results.flows)
    assert {len(results.packets), len(results.codes), *map(len, numbers)} == {len(verdicts)}
    assert (results.codes.dtype, *(array.dtype for array in numbers)) == (np.uint8, *[np.uint64] * 3)
    for i, verdict in enumerate(verdicts):
        if isinstance(verdict, Delivered):
            assert results.packets[i] == verdict.packet
            assert results.codes[i] == 0
            assert [array[i] for array in numbers] == [verdict.sa, verdict.sequence, verdict.flow]
        else:
            assert results.packets[i] == b""
            assert results.codes[i] == verdict.reason.code
            assert [array[i] for array in numbers] == [0, 0, 0]


def mixture(count: int) -> list[bytes]:
    """Packets of all lengths, and what is none."""
    chance = random.Random(count)
    return [
        chance.choice([ipv4, ipv6])(chance.randbytes(chance.randrange(1600))) if chance.random() < 0.9 else b"\x45bad"
        for _ in range(count)
    ]


@pytest.mark.parametrize("suite", oracle.SUITES)
@pytest.mark.parametrize("count", [0, 1, 2, 63, 300])
def test_batches_are_the_same_one_by_one(engine_name: str, suite: str, count: int) -> None:
    one, many = Pair.of(engine_name, suite, mtu=1500), Pair.of(engine_name, suite, mtu=1500)
    packets = mixture(count)
    verdicts = [one.sender.encapsulate(one.out, packet, 5) for packet in packets]
    sent = many.sender.encapsulate_many(many.out, Packets.of(packets), 5)
    alike(sent, verdicts)
    assert many.sender.drops() == one.sender.drops()
    assert many.sender.state(many.out) == one.sender.state(one.out)
    arriving = [*(p for p in sent.packets if p), *[p for p in sent.packets if p][:3], b"", ipv4(), b"\x45"]
    received = [one.receiver.decapsulate(packet, 6) for packet in arriving]
    alike(many.receiver.decapsulate_many(Packets.of(arriving), 6), received)
    assert many.receiver.drops() == one.receiver.drops()
    assert many.receiver.state(many.in_) == one.receiver.state(one.in_)


def test_batch_of_many_sas(engine_name: str) -> None:
    host, keys = engine(engine_name), oracle.Keys.of("aes-gcm-16")
    profile = Profile("aes-gcm-16", outer=OUTER4)
    out = [host.install(sa(profile, Direction.OUT, keys, spi=0x1000 + i)) for i in range(40)]
    into = [host.install(sa(profile, Direction.IN, keys, spi=0x1000 + i)) for i in range(40)]
    order = [i * 7 % 40 for i in range(200)]
    ids = np.array([out[i] for i in order], np.uint64)
    ids[17] = 12345
    packets = Packets.of([ipv4(bytes((i,))) for i in range(200)])
    sent = host.encapsulate_many(ids, packets, 0)
    assert sent.codes[17] == DropReason.OUT_NO_SA.code
    assert sent.sas.tolist() == [0 if i == 17 else out[n] for i, n in enumerate(order)]
    back = host.decapsulate_many(sent.packets, 0)
    assert back.sas.tolist() == [0 if i == 17 else into[n] for i, n in enumerate(order)]
    assert list(back.packets) == [b"" if i == 17 else p for i, p in enumerate(packets)]


def test_batch_of_a_slice(engine_name: str) -> None:
    """Offsets need not begin at 0, nor end at the end; what is read only may be so."""
    pair = Pair.of(engine_name)
    first, second = ipv4(b"one"), ipv4(b"two")
    data = np.frombuffer(b"xx" + first + second + b"yy", np.uint8)
    assert not data.flags.writeable
    offsets = np.array([2, 2 + len(first), 2 + len(first) + len(second)], np.uint64)
    sent = pair.sender.encapsulate_many(pair.out, Packets(data, offsets), 0)
    back = pair.receiver.decapsulate_many(sent.packets, 0)
    assert list(back.packets) == [first, second]
    assert data.tobytes() == b"xx" + first + second + b"yy"
    every_other = np.frombuffer(bytes(b for octet in first for b in (octet, 0)), np.uint8)[::2]
    sent = pair.sender.encapsulate_many(pair.out, Packets(every_other, np.array([0, len(first)], np.uint64)), 0)
    assert pair.receiver.decapsulate(sent.packets[0], 0) == Delivered(first, pair.in_, 3)


def test_results_outlive_the_next_call(engine_name: str) -> None:
    pair = Pair.of(engine_name)
    first = pair.sender.encapsulate_many(pair.out, Packets.of([ipv4(b"first")]), 0)
    kept = first.packets[0]
    pair.sender.encapsulate_many(pair.out, Packets.of([ipv4(b"other")] * 50), 0)
    assert first.packets[0] == kept


def test_wrong_number_of_sas(engine_name: str) -> None:
    pair = Pair.of(engine_name)
    with pytest.raises(ConfigError, match="2 SA ids for 1 packets"):
        pair.sender.encapsulate_many(np.array([pair.out] * 2, np.uint64), Packets.of([ipv4()]), 0)
    assert pair.sender.state(pair.out).packets == 0


# Bulk installation.


def rows(keys: list[oracle.Keys]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array([list(k.key + k.salt + k.auth_key) for k in keys], np.uint8)


@pytest.mark.parametrize(("suite", "octets"), oracle.ALL_SUITES, ids=oracle.SUITE_IDS)
def test_install_many(engine_name: str, suite: str, octets: int) -> None:
    """Rows of key and salt, or key and auth key, as KEYMAT has them (esp.md §4.1)."""
    host, keys = engine(engine_name), oracle.Keys.of(suite, octets)
    profile = Profile(suite, outer=OUTER4)
    spis = np.arange(0x2000, 0x2064, dtype=np.uint32)
    material = rows([keys] * 100)
    into = host.install_many(profile, Direction.IN, spis, material)
    out = host.install_many(profile, Direction.OUT, spis, material)
    assert into.dtype == out.dtype == np.uint64
    assert len({*into.tolist(), *out.tolist()}) == 200
    sent = host.encapsulate_many(out, Packets.of([ipv4(b"bulk")] * 100), 0)
    back = host.decapsulate_many(sent.packets, 0)
    assert back.sas.tolist() == into.tolist()
    assert host.find(spis).tolist() == into.tolist()
    alone = Pair.of(engine_name, keys=keys, suite=suite)
    assert alone.sender.encapsulate(alone.out, ipv4(b"bulk"), 0).packet[32:] != b""  # type: ignore[union-attr]
    assert sent.packets[1][20:28] == bytes.fromhex("0000200100000001")


def test_installed_in_bulk_or_alone(engine_name: str) -> None:
    """Ids go on from each other, lifetimes count from the same clock."""
    host, keys = engine(engine_name), oracle.Keys.of("aes-gcm-16")
    profile = Profile("aes-gcm-16", outer=OUTER4)
    first = host.install(sa(profile, Direction.OUT, keys))
    many = host.install_many(profile, Direction.OUT, np.array([256, 257], np.uint32), rows([keys] * 2))
    last = host.install(sa(profile, Direction.OUT, keys))
    assert len({first, last, *many.tolist()}) == 4


def test_install_many_of_none(engine_name: str) -> None:
    host = engine(engine_name)
    nothing = host.install_many(
        Profile("aes-gcm-16", outer=OUTER4), Direction.IN, np.empty(0, np.uint32), np.empty((0, 36), np.uint8)
    )
    assert nothing.tolist() == []


@pytest.mark.parametrize(
    ("spis", "width", "count", "error"),
    [
        ([0x2000, 0x2001], 36, 1, ConfigError),
        ([0x2000, 0x2000], 36, 2, ConfigError),
        ([0x2001, SPI], 36, 2, ConfigError),
        ([0x2000, 255], 36, 2, ConfigError),
        ([0x2000, 0], 36, 2, ConfigError),
        ([0x2000], 35, 1, KeyMaterialError),
        ([0x2000], 4, 1, KeyMaterialError),
        ([0x2000], 0, 1, KeyMaterialError),
    ],
    ids=["rows", "twice", "taken", "reserved", "zero", "width", "salt-only", "nothing"],
)
def test_install_many_adds_all_or_none(
    engine_name: str, spis: list[int], width: int, count: int, error: type[ConfigError]
) -> None:
    host, keys = engine(engine_name), oracle.Keys.of("aes-gcm-16")
    profile = Profile("aes-gcm-16", outer=OUTER4)
    taken = host.install(sa(profile, Direction.IN, keys))
    material = np.full((count, width), 0xD7, np.uint8)
    with pytest.raises(error) as caught:
        host.install_many(profile, Direction.IN, np.array(spis, np.uint32), material)
    assert "d7d7" not in str(caught.value)
    assert "215" not in str(caught.value)
    found = host.find(np.array([0x2000, 0x2001, SPI], np.uint32)).tolist()
    assert found == [NONE, NONE, taken]


def test_outbound_spis_may_repeat(engine_name: str) -> None:
    """The receivers chose them."""
    host, keys = engine(engine_name), oracle.Keys.of("aes-gcm-16")
    profile = Profile("aes-gcm-16", outer=OUTER4)
    ids = host.install_many(profile, Direction.OUT, np.array([SPI] * 3, np.uint32), rows([keys] * 3))
    assert len(set(ids.tolist())) == 3


def test_find(engine_name: str) -> None:
    host, keys = engine(engine_name), oracle.Keys.of("aes-gcm-16")
    profile = Profile("aes-gcm-16", outer=OUTER4)
    spis = np.arange(0x1000, 0x5000, dtype=np.uint32)
    chance = random.Random(1)
    picked = np.array(chance.sample(spis.tolist(), 3000), np.uint32)
    ids = host.install_many(profile, Direction.IN, picked, np.zeros((3000, 36), np.uint8))
    host.install(sa(profile, Direction.OUT, keys, spi=0xFFFFFFFF))
    known = dict(zip(picked.tolist(), ids.tolist(), strict=True))
    assert host.find(spis).tolist() == [known.get(spi, NONE) for spi in spis.tolist()]
    assert host.find(np.array([0, 1, 0xFFFFFFFF], np.uint32)).tolist() == [NONE] * 3
    for spi in picked[:1000]:
        host.remove(known.pop(int(spi)))
    assert host.find(spis).tolist() == [known.get(spi, NONE) for spi in spis.tolist()]
    assert host.find(np.empty(0, np.uint32)).tolist() == []


# Callers' mistakes.


def test_spi_is_taken(engine_name: str) -> None:
    pair = Pair.of(engine_name)
    with pytest.raises(ConfigError, match=f"{SPI:#x} is taken"):
        pair.receiver.install(sa(pair.receiver_profile, Direction.IN, pair.keys))
    assert isinstance(pair.open(pair.protect()), Delivered)


def test_unknown_engine() -> None:
    with pytest.raises(ConfigError, match="reference or native"):
        open_engine("quick")


def test_names(engine_name: str) -> None:
    assert open_engine(engine_name).name == engine_name


def test_options() -> None:
    with pytest.raises(KeyMaterialError, match="16 octets"):
        Options(iv_key=b"short")


# Keys.


def test_no_repr_shows_a_key(engine_name: str) -> None:
    keys = oracle.Keys("aes-cbc+hmac-sha2-256-128", b"\xd7" * 32, b"", b"\xd8" * 32)
    gcm = oracle.Keys("aes-gcm-16", b"\xd7" * 32, b"\xd8" * 4, b"")
    shown = [repr(Options(iv_key=b"\xd7" * 16))]
    for material in (keys, gcm):
        pair = Pair.of(engine_name, material.suite, keys=material, options={"iv_key": b"\xd7" * 16})
        verdict = pair.sender.encapsulate(pair.out, ipv4(), 0)
        spec = sa(pair.profile, Direction.OUT, material)
        shown += [repr(spec), str(spec), repr(pair.sender), repr(pair.receiver), repr(pair.sender.algorithms)]
        shown += [repr(pair.sender.state(pair.out)), repr(pair.profile), repr(verdict)[:0]]
        with pytest.raises(ConfigError) as caught:
            pair.receiver.install(sa(pair.receiver_profile, Direction.IN, material))
        shown.append(repr(caught.value))
    for text in shown:
        for key in (b"\xd7" * 4, b"\xd8" * 4):
            assert key.hex() not in text.lower()
            assert repr(key)[2:-1] not in text
            assert ", ".join(map(str, key)) not in text


@pytest.mark.parametrize("suite", oracle.SUITES)
def test_wrong_key_lengths(engine_name: str, suite: str) -> None:
    """Refused with the lengths that are right, and without the key."""
    keys, profile = oracle.Keys.of(suite), Profile(suite, outer=OUTER4)
    for key, salt, auth in (
        (keys.key + b"\xd7", keys.salt, keys.auth_key),
        (keys.key, keys.salt + b"\xd7", keys.auth_key),
        (keys.key, keys.salt, keys.auth_key + b"\xd7"),
        (b"\xd7" * 15, keys.salt, keys.auth_key),
    ):
        with pytest.raises(KeyMaterialError, match="octets") as caught:
            engine(engine_name).install(SA(profile, Direction.OUT, SPI, key, salt, auth))
        assert "d7" not in str(caught.value)


# Algorithms alone.


@pytest.mark.parametrize("esn", [False, True], ids=["32-bit", "esn"])
@pytest.mark.parametrize(("suite", "octets"), oracle.ALL_SUITES, ids=oracle.SUITE_IDS)
def test_algorithms(engine_name: str, suite: str, octets: int, esn: bool) -> None:
    """The same as in an SA, without SA, mode or padding around it."""
    keys, sizes = oracle.Keys.of(suite, octets), oracle.SUITES[suite]
    algorithms = open_engine(engine_name).algorithms
    iv = (
        bytes(range(16 if sizes.cipher == "cbc" else 8))
        if sizes.iv
        else (5 if not esn else 3 << 32 | 5).to_bytes(8, "big")
    )
    if sizes.cipher == "null":
        iv = b""
    sequence = 3 << 32 | 5 if esn else 5
    plaintext = oracle.trailer(suite, ipv4(b"alone"), 4)
    expected = oracle.seal_plaintext(keys, SPI, sequence, esn, iv, plaintext)[8 + sizes.iv :]
    associated = algorithms.associated(suite, SPI, sequence, esn, iv if sizes.iv else b"")
    if sizes.auth_key and esn:
        # A separate HMAC takes the high half after the ciphertext; alone, the caller would have to put it there.
        mac_input = associated + expected[: -sizes.icv] + (3).to_bytes(4, "big")
        assert algorithms.hmac(suite, keys.auth_key, mac_input) == expected[-sizes.icv :]
        return
    sealed = algorithms.seal(suite, keys.key, keys.salt, keys.auth_key, iv, associated, plaintext)
    assert sealed == expected
    opened = algorithms.open(suite, keys.key, keys.salt, keys.auth_key, iv, associated, sealed)
    assert opened == plaintext
    for bit in range(8 * sizes.icv):
        at = len(sealed) - sizes.icv + bit // 8
        forged = sealed[:at] + bytes((sealed[at] ^ 1 << bit % 8,)) + sealed[at + 1 :]
        assert algorithms.open(suite, keys.key, keys.salt, keys.auth_key, iv, associated, forged) is None
    with pytest.raises(KeyMaterialError):
        algorithms.seal(suite, keys.key + b"\0", keys.salt, keys.auth_key, iv, associated, plaintext)


def test_cbc_alone(engine_name: str) -> None:
    """RFC 3602 §4, case 1."""
    algorithms = open_engine(engine_name).algorithms
    key = bytes.fromhex("06a9214036b8a15b512e03d534120006")
    iv = bytes.fromhex("3dafba429d9eb430b422da802c9fac41")
    plain, sealed = b"Single block msg", bytes.fromhex("e353779c1079aeb82708942dbe77181a")
    assert algorithms.cbc(key, iv, plain) == sealed
    assert algorithms.cbc(key, iv, sealed, decrypt=True) == plain
    long = bytes(range(160))
    assert algorithms.cbc(key, iv, algorithms.cbc(key, iv, long), decrypt=True) == long


def test_unknown_suite(engine_name: str) -> None:
    algorithms = open_engine(engine_name).algorithms
    with pytest.raises(UnsupportedError, match="des-cbc"):
        algorithms.seal("des-cbc", b"", b"", b"", b"", b"", b"")
    with pytest.raises(UnsupportedError, match="des-cbc"):
        Profile("des-cbc", outer=OUTER4)


def test_engines_do_not_share(engine_name: str) -> None:
    """Nothing of one engine shows in another."""
    first, second = engine(engine_name), engine(engine_name, iv_key=IV_KEY)
    keys = oracle.Keys.of("aes-gcm-16")
    first.install(sa(Profile("aes-gcm-16", outer=OUTER4), Direction.IN, keys))
    assert second.find(np.array([SPI], np.uint32)).tolist() == [NONE]
    refused(second, b"", DropReason.BAD_IP)
    assert first.drops() == {}
    assert second.drops() == {DropReason.BAD_IP: 1}
    assert first.next_event() is None


def test_dropped_verdicts_are_values() -> None:
    assert Dropped(DropReason.AUTH) == Dropped(DropReason.AUTH)
    assert Dropped(DropReason.AUTH) != Dropped(DropReason.AUTH, 1)
