"""Arbitrary SAs of WESP, WESPv2 and EESP, and packets of peers that have their keys and no manners."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from wesper import (
    SA,
    CryptOffset,
    EESPFormat,
    Exposure,
    FlowKind,
    FlowPolicy,
    Mode,
    Option,
    Profile,
    StatelessGroup,
    SubSAs,
    WESPv2Format,
)

from . import arbitrary, family_oracle, oracle
from .family_oracle import IDENTIFIER

_offsets = st.sampled_from([4, 8, 20, 28, 32, 40, 48, 252])
_policies = st.one_of(
    st.builds(FlowPolicy, st.just(FlowKind.FIXED), st.sampled_from([0, 1, 3])),
    st.builds(FlowPolicy, st.just(FlowKind.CPU), st.sampled_from([1, 2, 5])),
    st.builds(FlowPolicy, st.sampled_from([FlowKind.FIVE_TUPLE, FlowKind.DSCP, FlowKind.MARK])),
)
_crypt_offsets = st.one_of(
    st.builds(CryptOffset, st.sampled_from([Exposure.NONE, Exposure.L3, Exposure.L3_L4])),
    st.builds(CryptOffset, st.just(Exposure.OCTETS), _offsets, st.booleans()),
)
AEADS = [name for name, sizes in oracle.SUITES.items() if not sizes.auth_key]


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Any profile of these protocols."""
    protocol = draw(st.sampled_from(["wesp", "wespv2", "wespv2", "eesp", "eesp", "eesp"]))
    profile = draw(arbitrary.profiles())
    if protocol == "wesp":
        return replace(profile, protocol="wesp")
    if protocol == "wespv2":
        return replace(profile, protocol="wespv2", format=draw(_wespv2()))
    return _eesp(draw, profile)


@st.composite
def _wespv2(draw: st.DrawFn) -> WESPv2Format:
    flows = draw(st.none() | _policies)
    limit = draw(st.sampled_from([4, 28, 40, 252]))
    types = [2, 5, 31, 0x85, 0xC5] + ([27] if flows is None else [])
    options = st.builds(Option, st.sampled_from(types), st.binary(max_size=9))
    return WESPv2Format(
        draw(_crypt_offsets),
        limit,
        draw(st.sampled_from([None, None, 28, 252])),
        flows,
        draw(st.sampled_from([4, 6, 8])),
        tuple(draw(st.lists(options, max_size=2))),
    )


def _eesp(draw: st.DrawFn, profile: Profile) -> Profile:
    """Turn a profile of ESP into one of EESP."""
    kind = draw(st.sampled_from(["plain", "plain", "no numbers", "sub", "sub", "stateless"]))
    suite = draw(st.sampled_from(AEADS))
    numbers = kind in ("plain", "sub")
    if kind == "stateless":
        suite = "aes-gcm-16"
    elif not numbers and suite.endswith("-iiv"):
        suite = "aes-gcm-12"
    limit = draw(st.sampled_from([None, None, 0, 32, 252]))
    settings: dict[str, Any] = {"session": FlowPolicy() if kind == "stateless" else draw(_policies)}
    if kind == "sub":
        octets = draw(st.sampled_from(oracle.SUITES[suite].keys))
        kdf = draw(st.sampled_from(["hkdf-sha2-256", "hkdf-sha2-384", "hkdf-sha2-512"]))
        ports = draw(st.sampled_from([0, 0, 50000]))
        settings["sub_sas"] = SubSAs(
            kdf, draw(st.sampled_from([3, 7])), draw(st.sampled_from([None, 3])), octets, ports
        )
    if kind == "stateless":
        indexes = draw(st.sampled_from([(0,), (0, 255, 1), (7, 6)]))
        settings["stateless"] = StatelessGroup(draw(st.sampled_from([0, 0xC0000201, (1 << 64) - 1])), indexes)
    options = st.builds(Option, st.sampled_from([3, 77, 230]), st.binary(max_size=9))
    made = EESPFormat(
        sequence_numbers=numbers,
        crypt_offset=None if limit is None else draw(st.none() | _crypt_offsets),
        max_crypt_offset_octets=limit,
        options=tuple(draw(st.lists(options, max_size=2))),
        ip_protocol=draw(st.sampled_from([253, 253, 254])),
        **settings,
    )
    mode, selectors = profile.mode, profile.selectors
    if profile.outer is not None and draw(st.sampled_from([False] * 7 + [True])):
        mode, selectors = Mode.IPTFS, ()
    window = profile.window if profile.window != 32 else 64
    return replace(
        profile,
        suite=suite,
        mode=mode,
        selectors=selectors,
        protocol="eesp",
        format=made,
        esn=True,
        pad_to=0,
        window=window if numbers else 0,
    )


def keys_of(draw: st.DrawFn | Any, profile: Profile) -> oracle.Keys:
    """Key material of the lengths that an SA of this profile takes."""
    octets = draw(st.sampled_from(profile.ways.key_sizes(profile).key))
    settings = profile.format
    if isinstance(settings, EESPFormat) and (settings.sub_sas or settings.stateless):
        return oracle.Keys(profile.suite, hashlib.shake_256(b"root").digest(octets), b"", b"")
    return oracle.Keys.of(profile.suite, octets)


# Packets.


def body(chance: random.Random, sa: SA, keys: oracle.Keys, number: int) -> tuple[bytes, int]:
    """A packet from the protocol's first octet, and its IP protocol; with the marker if it goes into UDP."""
    profile = sa.profile
    number &= 0xFFFFFFFFFFFFFFFF if profile.esn else 0xFFFFFFFF
    if profile.protocol == "eesp":
        assert isinstance(profile.format, EESPFormat)
        return _eesp_body(chance, sa, profile.format, keys, number), profile.format.ip_protocol
    marker = IDENTIFIER if profile.encapsulation is not None else b""
    make = _wesp_body if profile.protocol == "wesp" else _wespv2_body
    return marker + make(chance, sa, keys, number), 141


def _fields(chance: random.Random, choices: dict[str, list[int]]) -> dict[str, int]:
    """Now and then one field that is not what it should be."""
    if chance.random() < 0.7:
        return {}
    name = chance.choice(list(choices))
    return {name: chance.choice(choices[name])}


def _wesp_body(chance: random.Random, sa: SA, keys: oracle.Keys, number: int) -> bytes:
    next_header, payload = arbitrary.inner_payload(chance)
    sizes = oracle.SUITES[keys.suite]
    padded = chance.random() < 0.5
    fields = _fields(
        chance,
        {
            "shown": [0, 4, 41, 17, next_header],
            "hdrlen": [0, 12, 20, 24],
            "trailerlen": [0, 12, 16],
            "version": [1, 2],
            "encrypted": [0, 1],
            "reserved": [1, 15],
        },
    )
    iv = chance.randbytes(sizes.iv)
    return family_oracle.wesp(keys, sa.spi, number, sa.profile.esn, iv, next_header, payload, padded=padded, **fields)


def _options(chance: random.Random, mine: bytes = b"") -> bytes:
    """An options area, as a rule well formed."""
    kinds = [bytes((5, 2, 1, 2)), bytes((27, 4)) + bytes(4), bytes((27, 8)) + bytes(8), b"\0", bytes((1, 2, 0, 0))]
    kinds += [bytes((kind, 1, 9)) for kind in (0x45, 0x85, 0xC5, 0x25, 2, 224)]
    made = mine + b"".join(chance.choice(kinds) for _ in range(chance.choice([0, 0, 1, 2, 5])))
    made += chance.choice([b"", b"\x1b", b"\x05\x30"]) if chance.random() < 0.08 else b""
    fill = -len(made) % 8 + chance.choice([0, 4])
    if fill and chance.random() < 0.95:
        made += b"\0" if fill == 1 else bytes((1, fill - 2)) + bytes(fill - 2)
    return made[:60]


def _wespv2_body(chance: random.Random, sa: SA, keys: oracle.Keys, number: int) -> bytes:
    sizes = oracle.SUITES[keys.suite]
    next_header, payload = arbitrary.inner_payload(chance)
    payload = payload[:8000]
    options = _options(chance)
    words = chance.choice([0, 0, 1, 5, 7, 10, 63, min(len(payload) // 4, 63)])
    words = min(words, (len(payload) + 2) // 4) if chance.random() < 0.9 else words
    fields = _fields(
        chance,
        {
            "shown": [0, 4, 41, 59, 17],
            "hdrlen": [0, 12, 20, 24, 28, 32, 255],
            "reserved": [1, 3],
            "version": [0, 2, 3],
            "optlen": [0, 4, 6, 60, 63],
        },
    )
    plaintext = None
    if chance.random() < 0.05:
        plaintext = chance.randbytes(4 * chance.randrange(1, 20))
    iv = chance.randbytes(sizes.iv)
    return family_oracle.wespv2(
        keys,
        sa.spi,
        number,
        sa.profile.esn,
        iv,
        next_header,
        payload,
        options=options,
        crypt_offset_words=words,
        plaintext=plaintext,
        **fields,
    )


def _eesp_body(chance: random.Random, sa: SA, settings: EESPFormat, keys: oracle.Keys, number: int) -> bytes:
    session = chance.choice([0, 1, 2, 3, 4, 7, 8, 0xFFFF]) if settings.stateless is None else 0
    iv = chance.randbytes(8)
    mine = b""
    if settings.sub_sas is not None:
        keys = family_oracle.sub_sa_keys(keys, settings.sub_sas, session)
    elif settings.stateless is not None:
        group = settings.stateless
        index, device = chance.choice([*group.indexes, group.indexes[0] + 1 & 255]), chance.choice([5, 0xC0000201])
        known = index if index in group.indexes else group.indexes[0]
        keys = family_oracle.stateless_keys(keys, group, known, sa.spi, device, int.from_bytes(iv[:2], "big"))
        mine = family_oracle.stateless_option(index, device, chance.choice([1] * 9 + [2]))
        mine = chance.choice([mine] * 9 + [b"", mine + mine])
    next_header, payload = arbitrary.inner_payload(chance)
    payload = payload[:8000]
    shown = chance.random() < (0.5 if settings.max_crypt_offset_octets is not None else 0.05)
    if sa.profile.mode is Mode.IPTFS and chance.random() < 0.6:
        next_header = 144
    padding = None
    if chance.random() < 0.1:
        padding = chance.choice([bytes(-len(payload) % 4 + 4), b"\1" * (-len(payload) % 4), bytes(252)])
    content = family_oracle.full(next_header, payload, padding=padding, nibble=chance.choice([0] * 9 + [4, 6, 9]))
    if sa.profile.mode is Mode.TUNNEL and chance.random() < (0.1 if shown else 0.9):
        content = family_oracle.optimized(payload) + chance.choice([b""] * 8 + [bytes(20), bytes(280), b"\0\1\0\0"])
    clear = 0
    if shown:
        placeholder = len(_options_of_length(mine)) + 4
        around = family_oracle.payload_offset(settings, keys.suite, placeholder)
        words = chance.choice([0, 1, 2, 5, 8, 9, 13, 63])
        words = min(words, len(content) // 4) if chance.random() < 0.9 else words
        clear = 4 * words
        said = around + (4 if chance.random() < 0.05 else 0)
        option = family_oracle.crypt_offset_option(said, clear)
        option = chance.choice([option] * 12 + [bytes((2, 4)) + bytes(4) + b"\1\0", option + option])
        options = option + _options_of_length(mine)
    else:
        options = _options(chance, mine)
    first = chance.choice([0x80] * 20 + [0x00, 0x88, 0x81])
    opt_len = chance.choice([None] * 12 + [0, 3, 4, 8, 252])
    sent = number if settings.sequence_numbers else None
    if len(content) > 60000:
        content = content[:60000]
    return family_oracle.eesp(
        keys, sa.spi, sent, iv, content, session=session, options=options, clear=clear, first=first, opt_len=opt_len
    )


def _options_of_length(mine: bytes) -> bytes:
    """Options that fill a multiple of 4."""
    return mine + bytes(-len(mine) % 4)


def mark(chance: random.Random) -> int:
    return chance.choice([0, 1, 2, 77, (1 << 32) - 1])


def first_numbers(profile: Profile) -> st.SearchStrategy[int]:
    """Numbers to start from."""
    if isinstance(profile.format, EESPFormat) and profile.format.stateless is not None:
        return st.sampled_from([7 << 48, (8 << 48) - 2, (1 << 64) - 2])
    return arbitrary.first_numbers(profile)
