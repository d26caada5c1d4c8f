"""Drops, with the kernel's counter beside ours: the same packet before the kernel and before our engine in its place.

Where the two differ on purpose, docs/decisions.md or docs/kernels.md says why, and the case here says so too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from wesper.kernel import Guest
from wesper.kernel import xfrm as kernel_xfrm
from wesper.kernel.xfrm import Xfrm
from wesper.sa import Action, AddressRange, Lifetime, Mode, Policy, Selector
from wesper.verdict import Delivered, Dropped, DropReason

from ..engine import oracle
from ..engine.packets import fragment_header, ipv4, ipv6, patched, udp
from .peer import ESP, INNER_GUEST4, INNER_HERE4, Peer, send_datagram

QUIET_S = 0.2
"""How long nothing has to come for it to count as nothing."""
NOTHING: dict[str, int] = {}


@dataclass(frozen=True)
class Case:
    """One faulty packet.

    packets: made of a peer; all but the last are good ones.   options: of the Peer.
    kernel, ours: what the last one raises.   answered: whether the kernel takes it all the same.
    """

    packets: Callable[[Peer], list[bytes]]
    ours: DropReason
    kernel: str
    options: dict[str, Any] | None = None
    answered: bool = False


def inner(peer: Peer) -> bytes:
    return peer.echo_request()


def plaintext(peer: Peer, *, pad: bytes | None = None, pad_length: int | None = None, next_header: int = 4) -> bytes:
    """An echo request with its trailer, in parts as asked for."""
    packet = inner(peer)
    padding = bytes(range(1, -(len(packet) + 2) % 4 + 5)) if pad is None else pad
    return packet + padding + bytes((len(padding) if pad_length is None else pad_length, next_header))


def sealed(peer: Peer) -> bytes:
    return peer.seal(inner(peer))


def flipped(peer: Peer, at: int) -> bytes:
    octets = bytearray(sealed(peer))
    octets[at] ^= 1
    return bytes(octets)


def twice(peer: Peer) -> list[bytes]:
    return [sealed(peer)] * 2


def unknown_spi(peer: Peer) -> bytes:
    packet = sealed(peer)
    at = 20 if packet[0] >> 4 == 4 else 40
    return packet[:at] + b"\0\0\x77\x77" + packet[at + 4 :]


def with_ce(peer: Peer) -> bytes:
    packet = sealed(peer)
    if packet[0] >> 4 == 4:
        return patched(packet, 1, b"\3")
    return packet[:1] + bytes((packet[1] | 0x30,)) + packet[2:]


CASES = {
    "no room for a sequence number": Case(
        lambda peer: [peer.around(sealed(peer)[-7:])], DropReason.TRUNCATED_HEADER, "XfrmInHdrError"
    ),
    "no room for IV and ICV": Case(
        lambda peer: [peer.around(peer.sa_out.spi.to_bytes(4, "big") + b"\0\0\0\1" + bytes(12))],
        DropReason.TRUNCATED,
        "XfrmInStateProtoError",
    ),
    "not whole blocks": Case(
        lambda peer: [peer.around(peer.sa_out.spi.to_bytes(4, "big") + b"\0\0\0\1" + bytes(16 + 33 + 16))],
        DropReason.TRUNCATED,
        "XfrmInStateProtoError",
        {"suite": "aes-cbc+hmac-sha2-256-128"},
    ),
    "unknown SPI": Case(lambda peer: [unknown_spi(peer)], DropReason.NO_SA, "XfrmInNoStates"),
    "seen before": Case(twice, DropReason.REPLAY, "XfrmInStateSeqError"),
    "number 0": Case(
        lambda peer: [peer.forged(0, plaintext(peer))], DropReason.REPLAY, "XfrmInStateSeqError", {"esn": False}
    ),
    "left of the window": Case(
        lambda peer: [peer.forged(500, plaintext(peer)), peer.forged(500 - 64, plaintext(peer))],
        DropReason.REPLAY,
        "XfrmInStateSeqError",
        {"esn": False, "window": 64},
    ),
    "left of the window, with ESN": Case(
        lambda peer: [peer.forged(500, plaintext(peer)), peer.forged(500 - 64, plaintext(peer))],
        DropReason.AUTH,
        "XfrmInStateProtoError",
        {"esn": True, "window": 64},
    ),
    "changed ICV": Case(lambda peer: [flipped(peer, -1)], DropReason.AUTH, "XfrmInStateProtoError"),
    "changed ciphertext": Case(lambda peer: [flipped(peer, -40)], DropReason.AUTH, "XfrmInStateProtoError"),
    "wrong high half": Case(
        lambda peer: [peer.forged((1 << 32) + 7, plaintext(peer))], DropReason.AUTH, "XfrmInStateProtoError"
    ),
    "pad length beyond the packet": Case(
        lambda peer: [peer.forged(1, plaintext(peer, pad_length=255))], DropReason.BAD_PADDING, "XfrmInStateProtoError"
    ),
    # Linux never looks at padding octets (RFC 4303 §2.4 says SHOULD); `check_padding` turns it off here.
    "wrong padding octets": Case(
        lambda peer: [peer.forged(1, plaintext(peer, pad=b"\xff" * (-(len(inner(peer)) + 2) % 4 + 4)))],
        DropReason.BAD_PADDING,
        "",
        answered=True,
    ),
    "TCP in a tunnel": Case(
        lambda peer: [peer.forged(1, plaintext(peer, next_header=6))], DropReason.BAD_INNER, "XfrmInStateModeError"
    ),
    # An SA of both families goes by Next Header alone in Linux: its IPv6 layer drops this, not XFRM.
    "IPv6 that is IPv4": Case(lambda peer: [peer.forged(1, plaintext(peer, next_header=41))], DropReason.BAD_INNER, ""),
    # Linux counts a dummy as an error of the protocol; RFC 4303 §2.6 wants it to vanish without a word.
    "dummy": Case(
        lambda peer: [peer.forged(1, plaintext(peer, next_header=59))], DropReason.DUMMY, "XfrmInStateProtoError"
    ),
    "in UDP though the SA has none": Case(
        lambda peer: [datagram(peer, sealed(peer))], DropReason.ENCAP_MISMATCH, "XfrmInStateMismatch"
    ),
    "raw though the SA has UDP": Case(
        lambda peer: [undressed(peer, sealed(peer))],
        DropReason.ENCAP_MISMATCH,
        "XfrmInStateMismatch",
        {"in_udp": True},
    ),
    "after its hard lifetime": Case(
        lambda peer: [peer.forged(number, plaintext(peer)) for number in (1, 2, 3)],
        DropReason.EXPIRED,
        "XfrmInStateExpired",
        {"hard": Lifetime(packets=2)},
    ),
    # RFC 6040 §4.2 wants it dropped; Linux delivers it.
    "congestion that the inner packet can't bear": Case(
        lambda peer: [with_ce(peer)], DropReason.ECN_DROP, "", answered=True
    ),
}


def datagram(peer: Peer, packet: bytes) -> bytes:
    """The packet with UDP around its ESP."""
    esp = packet[20:] if packet[0] >> 4 == 4 else packet[40:]
    build = ipv4 if peer.here.version == 4 else ipv6
    around = udp(esp, 4500, 4500, ends=(peer.here, peer.there))
    return build(around, 17, source=peer.here, destination=peer.there)


def undressed(peer: Peer, packet: bytes) -> bytes:
    """The packet without the UDP around its ESP."""
    esp = packet[28:] if packet[0] >> 4 == 4 else packet[48:]
    build = ipv4 if peer.here.version == 4 else ipv6
    return build(esp, ESP, source=peer.here, destination=peer.there)


def raised(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def counted(engine: Any) -> dict[str, int]:
    return {name: count for name, count in engine.counters().items() if count}


def expected(name: str) -> dict[str, int]:
    return {name: 1} if name else NOTHING


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("name", CASES)
def test_what_the_kernel_drops_we_drop(guest: Guest, xfrm: Xfrm, engine_name: str, name: str, outer: int) -> None:
    case = CASES[name]
    peer = Peer(guest, xfrm, engine_name, outer=outer, **(case.options or {}))
    mirror = peer.in_place_of_the_guest()
    *good, bad = case.packets(peer)
    for packet in good:
        peer.wire.send(packet)
        assert peer.wire.receive() is not None
        assert isinstance(mirror.decapsulate(packet, 0), Delivered)
    before = guest.xfrm_stat()
    peer.wire.send(bad)
    assert (peer.wire.receive(QUIET_S if not case.answered else 10) is not None) == case.answered
    assert raised(before, guest.xfrm_stat()) == expected(case.kernel)
    assert mirror.decapsulate(bad, 0) == Dropped(case.ours)
    assert counted(mirror) == expected(case.ours.counter)
    # Nothing of it has hurt the SA, unless it is over.
    if case.ours is not DropReason.EXPIRED:
        peer.engine.encapsulate(peer.out, inner(peer), 0)
        packet = peer.forged(1000, plaintext(peer))
        peer.wire.send(packet)
        assert peer.wire.receive() is not None
        assert isinstance(mirror.decapsulate(packet, 0), Delivered)


@pytest.mark.parametrize("outer", [4, 6])
def test_fragments_are_for_the_host_to_put_together(guest: Guest, xfrm: Xfrm, engine_name: str, outer: int) -> None:
    """The kernel's IP layer reassembles before ESP; to our engine a fragment that is offered is a fault."""
    peer = Peer(guest, xfrm, engine_name, outer=outer)
    mirror = peer.in_place_of_the_guest()
    packet = peer.seal(peer.echo_request(bytes(500)))
    ends = {"source": peer.here, "destination": peer.there}
    if outer == 4:
        esp = packet[20:]
        pieces = [ipv4(esp[:256], ESP, mf=True, **ends), ipv4(esp[256:], ESP, offset=256, **ends)]
    else:
        esp = packet[40:]
        pieces = [
            ipv6(fragment_header(ESP, 0, True) + esp[:256], 44, **ends),
            ipv6(fragment_header(ESP, 256, False) + esp[256:], 44, **ends),
        ]
    before = guest.xfrm_stat()
    for piece in pieces:
        peer.wire.send(piece)
        assert mirror.decapsulate(piece, 0) == Dropped(DropReason.FRAGMENT)
    assert isinstance(peer.opened(), Delivered)
    assert raised(before, guest.xfrm_stat()) == NOTHING
    assert counted(mirror) == {"XfrmInHdrError": 2}


@pytest.mark.parametrize("body", [b"\xff", bytes(4) + b"IKE"], ids=["keepalive", "non-ESP marker"])
def test_what_is_no_esp_on_its_port_is_nobodys_drop(guest: Guest, xfrm: Xfrm, engine_name: str, body: bytes) -> None:
    peer = Peer(guest, xfrm, engine_name, in_udp=True)
    mirror = peer.in_place_of_the_guest()
    before = guest.xfrm_stat()
    packet = peer.around(body)
    peer.wire.send(packet)
    verdict = mirror.decapsulate(packet, 0)
    assert isinstance(verdict, Dropped)
    assert verdict.reason.verdict == "not_for_us"
    assert peer.is_answered()
    assert raised(before, guest.xfrm_stat()) == NOTHING == counted(mirror)


def test_selectors(guest: Guest, xfrm: Xfrm, engine_name: str) -> None:
    """An authentic packet for another than the SA's selectors say."""
    other = AddressRange.parse("10.9.0.0/16")
    peer = Peer(guest, xfrm, engine_name)
    peer.change(peer.to_guest, selector=kernel_xfrm.Selector("10.9.0.0/16", "10.2.0.0/16"))
    peer.profile = peer.with_selectors(Selector(remote=(other,)))
    mirror = peer.in_place_of_the_guest()
    packet = sealed(peer)
    before = guest.xfrm_stat()
    peer.wire.send(packet)
    assert peer.wire.receive(QUIET_S) is None
    assert raised(before, guest.xfrm_stat()) == {"XfrmInStateMismatch": 1}
    assert mirror.decapsulate(packet, 0) == Dropped(DropReason.SELECTOR_MISMATCH)
    assert counted(mirror) == {"XfrmInStateMismatch": 1}


def test_policies(guest: Guest, xfrm: Xfrm, engine_name: str) -> None:
    """In clear where ESP is wanted, and where policy lets nothing through, both ways."""
    peer = Peer(guest, xfrm, engine_name)
    mirror = peer.in_place_of_the_guest()
    packet = inner(peer)
    before = guest.xfrm_stat()
    peer.wire.send(packet)
    assert peer.wire.receive(QUIET_S) is None
    # Linux says that the policy's template does not fit; RFC 4301 §5.2 knows SPD-I only, which has no entry here.
    assert raised(before, guest.xfrm_stat()) == {"XfrmInTmplMismatch": 1}
    assert mirror.inbound(packet, 0) == Dropped(DropReason.IN_NO_POLICY)

    xfrm.flush()
    near, far = f"{INNER_HERE4}/32", f"{INNER_GUEST4}/32"
    for direction, ends in (("in", (near, far)), ("out", (far, near))):
        block = kernel_xfrm.Policy(direction, kernel_xfrm.Selector(*ends), Mode.TUNNEL, 0, block=True)
        xfrm.allow(block)
    mirror.set_policies([Policy(Action.DISCARD)], [Policy(Action.DISCARD)])
    before = guest.xfrm_stat()
    peer.wire.send(packet)
    assert peer.wire.receive(QUIET_S) is None
    assert raised(before, guest.xfrm_stat()) == {"XfrmInPolBlock": 1}
    assert mirror.inbound(packet, 0) == Dropped(DropReason.IN_DISCARD)
    before = guest.xfrm_stat()
    guest.call(send_datagram, str(INNER_GUEST4), str(INNER_HERE4))
    assert raised(before, guest.xfrm_stat()) == {"XfrmOutPolBlock": 1}
    assert mirror.outbound(packet, 0) == [Dropped(DropReason.OUT_DISCARD)]


def test_no_sa_to_send_with(guest: Guest, xfrm: Xfrm, engine_name: str) -> None:
    """Policy says PROTECT, and there is no SA, or one that is over."""
    peer = Peer(guest, xfrm, engine_name, hard=Lifetime(packets=1))
    peer.engine.set_policies([Policy(Action.PROTECT, sas=((None, peer.out),))])
    before = guest.xfrm_stat()
    for _ in range(2):
        guest.call(send_datagram, str(INNER_GUEST4), str(INNER_HERE4))
        peer.engine.outbound(inner(peer), 0)
    assert raised(before, guest.xfrm_stat()) == counted(peer.engine) == {"XfrmOutStateExpired": 1}
    peer = Peer(guest, xfrm_anew(xfrm), engine_name)
    peer.engine.set_policies([Policy(Action.PROTECT)])
    xfrm.delete(peer.to_us)
    before = guest.xfrm_stat()
    guest.call(send_datagram, str(INNER_GUEST4), str(INNER_HERE4))
    peer.engine.outbound(inner(peer), 0)
    assert raised(before, guest.xfrm_stat()) == counted(peer.engine) == {"XfrmOutNoStates": 1}


def xfrm_anew(xfrm: Xfrm) -> Xfrm:
    xfrm.flush()
    return xfrm


def another_key(peer: Peer) -> None:
    peer.change(peer.to_us, key=oracle.Keys.of("aes-gcm-12").key)


def another_spi(peer: Peer) -> None:
    peer.change(peer.to_us, spi=0x7777)


def another_mode(peer: Peer) -> None:
    """What the kernel then sends looks like a packet of the SA; inside there is ICMP where IP should be."""
    xfrm_policy = kernel_xfrm.Policy(
        "out", kernel_xfrm.Selector(f"{peer.there}/32", f"{peer.here}/32"), Mode.TRANSPORT, peer.to_us.reqid
    )
    peer.change(peer.to_us, mode=Mode.TRANSPORT, outer=None)
    peer.allow(xfrm_policy)


PROVOKED: dict[str, tuple[Callable[[Peer], object], DropReason]] = {
    "seals with another key": (another_key, DropReason.AUTH),
    "uses an SPI of nobody": (another_spi, DropReason.NO_SA),
    "sends in transport mode": (another_mode, DropReason.BAD_INNER),
}


@pytest.mark.parametrize("name", PROVOKED)
def test_a_kernel_that_does_it_wrong(guest: Guest, xfrm: Xfrm, engine_name: str, name: str) -> None:
    spoil, reason = PROVOKED[name]
    peer = Peer(guest, xfrm, engine_name)
    spoil(peer)
    ends = (peer.there, peer.here) if reason is DropReason.BAD_INNER else (peer.inner_there, peer.inner_here)
    guest.call(send_datagram, *map(str, ends))
    assert peer.opened() == Dropped(reason)
    assert counted(peer.engine) == {reason.counter: 1}


def test_a_kernel_that_sends_in_udp_to_a_raw_sa(guest: Guest, xfrm: Xfrm, engine_name: str) -> None:
    """And the other way round."""
    for in_udp in (False, True):
        peer = Peer(guest, xfrm_anew(xfrm), engine_name, in_udp=in_udp)
        other = Peer.encapsulation_of(not in_udp)
        peer.change(peer.to_us, encapsulation=other)
        guest.call(send_datagram, str(peer.inner_there), str(peer.inner_here))
        assert peer.opened() == Dropped(DropReason.ENCAP_MISMATCH)


def test_the_kernels_packets_mangled_on_their_way(guest: Guest, xfrm: Xfrm, engine_name: str) -> None:
    """Replayed, changed, cut, marked, outside of our selectors, after our SA's end: each under its own name."""
    peer = Peer(guest, xfrm, engine_name, hard=Lifetime(packets=50))
    packets = []
    for _ in range(5):
        guest.call(send_datagram, str(peer.inner_there), str(peer.inner_here))
        packet = peer.wire.receive()
        assert packet is not None
        packets.append(packet)

    def opened(packet: bytes) -> Any:
        return peer.engine.decapsulate(packet, 0)

    assert isinstance(opened(packets[1]), Delivered)
    assert opened(packets[1]) == Dropped(DropReason.REPLAY)
    changed = packets[2][:-5] + bytes((packets[2][-5] ^ 0x80,)) + packets[2][-4:]
    assert opened(changed) == Dropped(DropReason.AUTH)
    cut = patched(packets[2], 2, (28 + 20).to_bytes(2, "big"))[: 28 + 20]
    assert opened(cut) == Dropped(DropReason.TRUNCATED)
    assert opened(patched(packets[2], 1, b"\3")) == Dropped(DropReason.ECN_DROP)
    assert opened(patched(packets[3], 6, b"\x20\0")) == Dropped(DropReason.FRAGMENT)
    assert isinstance(opened(packets[3]), Delivered)
    assert isinstance(opened(packets[0]), Delivered)
    assert counted(peer.engine) == {
        "XfrmInStateSeqError": 1, "XfrmInStateProtoError": 2, "XfrmInStateModeError": 1, "XfrmInHdrError": 1
    }  # fmt: skip
