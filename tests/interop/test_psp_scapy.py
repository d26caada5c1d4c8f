"""PSP packets of both engines, opened and made by Scapy's layer.

Where the two agree: versions 0 and 1, no cookie, or one that Crypt Offset leaves in clear (docs/psp.md says why).
"""

from __future__ import annotations

import itertools
import struct
from ipaddress import ip_address
from typing import Any

import pytest

from wesper import psp
from wesper.protocols.modes import Mode, Outer
from wesper.vectors.ip_packets import ip_packet

pytestmark = pytest.mark.needs_module("scapy")

HERE, THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")
OUTER = Outer(ip_address("203.0.113.1"), ip_address("203.0.113.2"))
INNER = ip_packet(HERE, THERE, struct.pack(">HHHH", 40001, 53, 27, 0) + b"something to say..", protocol=17)
CASES = [
    (version, mode, cookie, words)
    for version, mode, cookie, words in itertools.product(
        (0, 1), (Mode.TRANSPORT, Mode.TUNNEL), (None, bytes(range(8))), (0, 2, 5)
    )
    if cookie is None or words >= 2
]


@pytest.fixture
def layer() -> Any:
    from scapy.contrib import psp as contrib

    return contrib.PSP


@pytest.fixture(params=["reference", pytest.param("native", marks=pytest.mark.needs_native)])
def engine(request: pytest.FixtureRequest) -> psp.Engine:
    engine = psp.open_engine(request.param)
    engine.set_device_key(0, bytes(range(32)))
    return engine


@pytest.mark.parametrize(("version", "mode", "cookie", "words"), CASES)
def test_scapy_opens_ours_and_we_open_scapys(
    engine: psp.Engine, layer: Any, version: int, mode: Mode, cookie: bytes | None, words: int
) -> None:
    outer = OUTER if mode is Mode.TUNNEL else None
    profile = psp.Profile(mode, version, words, cookie, outer=outer)
    key = engine.derive_key(9, version)
    made = engine.encapsulate(profile, INNER, 9, key, 0x0102030405060708)
    assert isinstance(made, bytes)
    theirs = layer(made[28:])
    assert (theirs.spi, theirs.version, theirs.cryptoffset) == (9, version, words)
    assert theirs.nexthdr == (4 if outer else 17)
    theirs.decrypt(key)
    assert bytes(theirs.data) == (INNER if outer else INNER[20:])

    theirs.encrypt(key)
    assert bytes(theirs) == made[28:]
    opened = engine.decapsulate(made[:28] + bytes(theirs))
    assert isinstance(opened, psp.Opened)
    assert (opened.packet, opened.cookie) == (INNER, cookie)
