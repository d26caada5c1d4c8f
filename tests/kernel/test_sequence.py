"""Sequence numbers with a real kernel: ESN across 2^32, replays, windows, the end of the numbers."""

from __future__ import annotations

import pytest

from wesper.kernel import Guest
from wesper.kernel.xfrm import Xfrm
from wesper.verdict import Dropped, DropReason

from .peer import Peer, send_datagram

CROSSING = (1 << 32) - 3
SUITES = [
    "aes-gcm-16",
    "aes-gmac",
    "aes-ccm-8",
    "chacha20-poly1305",
    "aes-cbc+hmac-sha2-256-128",
    "null+hmac-sha2-512-256",
]


@pytest.mark.parametrize("high", [0, 1, 5])
@pytest.mark.parametrize("suite", SUITES)
def test_esn_crosses_both_ways(guest: Guest, xfrm: Xfrm, engine_name: str, suite: str, high: int) -> None:
    peer = Peer(guest, xfrm, engine_name, suite, sequence=(high << 32) + CROSSING)
    before = guest.xfrm_stat()
    for _ in range(6):
        assert peer.is_answered()
    lows = [int.from_bytes(packet[24:28], "big") for packet in peer.ping_from_guest(count=4)]
    assert guest.xfrm_stat() == before
    assert not peer.engine.drops()
    # Ten packets each way from three below the border: the high half has moved at both ends.
    assert lows == [4, 5, 6, 7]
    assert xfrm.sequence(peer.to_us)[0] == ((high + 1) << 32) + 7
    assert xfrm.sequence(peer.to_guest)[1] == ((high + 1) << 32) + 7
    assert peer.engine.state(peer.out).sequence == ((high + 1) << 32) + 7


def test_late_packets_of_the_subspace_before(guest: Guest, xfrm: Xfrm, engine_name: str) -> None:
    """Sealed before the border, delivered after others from behind it: each side still finds the right high half."""
    peer = Peer(guest, xfrm, engine_name, sequence=CROSSING)
    request = [peer.echo_request() for _ in range(5)]
    sealed = [peer.seal(each) for each in request]
    for each in (sealed[4], sealed[0], sealed[3], sealed[1], sealed[2]):
        peer.wire.send(each)
    answers = [peer.wire.receive() for _ in range(5)]
    assert None not in answers
    for each in reversed(answers):
        assert each is not None
        assert not isinstance(peer.engine.decapsulate(each, 0), Dropped)
    assert not peer.engine.drops()


def test_the_kernel_stops_where_numbers_end(guest: Guest, xfrm: Xfrm, engine_name: str) -> None:
    """Without ESN neither end sends a number twice."""
    peer = Peer(guest, xfrm, engine_name, esn=False, sequence=(1 << 32) - 2)
    assert peer.is_answered()
    before = guest.xfrm_stat()
    request = peer.echo_request()
    verdict = peer.engine.encapsulate(peer.out, request, 0)
    assert verdict == Dropped(DropReason.OUT_SEQUENCE_OVERFLOW)
    guest.call(send_datagram, str(peer.inner_there), str(peer.inner_here))
    assert peer.wire.receive(0.3) is None
    after = guest.xfrm_stat()
    changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    ours = {name: count for name, count in peer.engine.counters().items() if count}
    assert changed == ours == {"XfrmOutStateSeqError": 1}


def test_a_kernel_that_lets_numbers_wrap_is_taken_for_a_replayer(guest: Guest, xfrm: Xfrm, engine_name: str) -> None:
    peer = Peer(guest, xfrm, engine_name, esn=False, sequence=(1 << 32) - 2)
    peer.change(peer.to_us, may_wrap=True)
    assert peer.is_answered()
    for _ in range(2):
        guest.call(send_datagram, str(peer.inner_there), str(peer.inner_here))
        assert peer.opened() == Dropped(DropReason.REPLAY)


@pytest.mark.parametrize("window", [32, 64, 1024, 4096])
def test_windows_agree_to_the_last_number(guest: Guest, xfrm: Xfrm, engine_name: str, window: int) -> None:
    """The same packets in the same order before the kernel and our engine in its place: the same ones pass."""
    peer = Peer(guest, xfrm, engine_name, window=window)
    sealed = {}
    for number in range(1, 2 * window + 2):
        if number in (1, 2, window // 2, window, window + 1, window + 2, 2 * window, 2 * window + 1):
            sealed[number] = peer.seal(peer.echo_request())
        else:
            peer.seal(peer.echo_request())
    mirror = peer.in_place_of_the_guest()
    order = [window, 1, 1, window + 1, 1, 2, 2 * window, window, window + 1, window + 2, 2 * window + 1, window + 1, 2]
    verdicts = []
    for number in order:
        before = guest.xfrm_stat()
        peer.wire.send(sealed[number])
        passed = peer.opened(0.25) is not None
        after = guest.xfrm_stat()
        verdict = mirror.decapsulate(sealed[number], 0)
        verdicts.append(verdict)
        assert passed == (not isinstance(verdict, Dropped)), number
        assert after["XfrmInStateSeqError"] - before["XfrmInStateSeqError"] == (
            verdict == Dropped(DropReason.REPLAY)
        ), number
        assert after["XfrmInStateProtoError"] - before["XfrmInStateProtoError"] == (
            verdict == Dropped(DropReason.AUTH)
        ), number
    dropped = [Dropped(DropReason.REPLAY), Dropped(DropReason.AUTH)]
    assert xfrm.refused(peer.to_guest) == tuple(verdicts.count(each) for each in dropped)
    assert all(each in verdicts for each in dropped)
