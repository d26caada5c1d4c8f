"""ESP between our engines and a real kernel, ping both ways: every mode, family, suite, raw and in UDP."""

from __future__ import annotations

import pytest

from wesper.kernel import Guest
from wesper.kernel.xfrm import Xfrm
from wesper.sa import Mode

from ..engine import oracle
from .peer import Peer

SHAPES = [
    *[(Mode.TUNNEL, inner, outer) for inner in (4, 6) for outer in (4, 6)],
    *[(Mode.TRANSPORT, each, each) for each in (4, 6)],
    *[(Mode.BEET, inner, outer) for inner in (4, 6) for outer in (4, 6)],
]
SHAPE_IDS = [f"{mode.value}-{inner}in{outer}" for mode, inner, outer in SHAPES]
# Linux sends every IV, so it has none of RFC 8750's implicit ones.
SUITES = [name for name, sizes in oracle.SUITES.items() if not sizes.implicit]
SIZED = [(suite, octets) for suite in SUITES for octets in oracle.SUITES[suite].keys[:-1]]


@pytest.mark.parametrize("udp", [False, True], ids=["raw", "udp"])
@pytest.mark.parametrize(("mode", "inner", "outer"), SHAPES, ids=SHAPE_IDS)
@pytest.mark.parametrize("suite", SUITES)
def test_ping_both_ways(
    guest: Guest, xfrm: Xfrm, engine_name: str, suite: str, mode: Mode, inner: int, outer: int, udp: bool
) -> None:
    peer = Peer(guest, xfrm, engine_name, suite, mode=mode, inner=inner, outer=outer, in_udp=udp)
    before = guest.xfrm_stat()
    assert peer.is_answered()
    assert peer.is_answered(bytes(1200))
    for packet in peer.ping_from_guest():
        assert packet[0] >> 4 == outer
        assert packet[9 if outer == 4 else 6] == (17 if udp else 50)
    assert guest.xfrm_stat() == before
    assert not peer.engine.drops()


@pytest.mark.parametrize(("suite", "octets"), SIZED, ids=[f"{suite}/{8 * octets}" for suite, octets in SIZED])
def test_shorter_keys(guest: Guest, xfrm: Xfrm, engine_name: str, suite: str, octets: int) -> None:
    peer = Peer(guest, xfrm, engine_name, suite, key_octets=octets)
    assert peer.is_answered()
    peer.ping_from_guest()


@pytest.mark.parametrize("esn", [False, True], ids=["32-bit", "esn"])
@pytest.mark.parametrize("octets", [0, 1, 2, 3, 13, 14, 15, 16, 1300])
def test_every_length_of_padding(guest: Guest, xfrm: Xfrm, engine_name: str, octets: int, esn: bool) -> None:
    peer = Peer(guest, xfrm, engine_name, "aes-cbc+hmac-sha2-256-128", esn=esn)
    assert peer.is_answered(bytes(octets))
    peer.ping_from_guest(octets=octets)
