"""What goes on the wire, octet for octet against the oracle, and back: every suite, mode and family."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from wesper import Delivered, Direction, DropReason, Inner, Mode, Outer, Profile

from . import oracle
from .packets import A4, A6, B4, B6, ICMP, LEFT4, LEFT6, RIGHT4, RIGHT6, UDP, icmp, ipv4, ipv6, udp
from .pair import IV_KEY, OUTER4, OUTER6, SPI, Pair, delivered, engine, refused, sa

INNER = {
    4: ipv4(icmp(8, 0), ICMP, tos=0xB8, df=True),
    6: ipv6(udp(b"odd"), UDP, traffic_class=0xB8, flow_label=0xABCDE),
}


def outer_header(version: int, inner: int, body: bytes, sequence: int) -> bytes:
    """DSCP copied, flow label copied from IPv6, identification 0 since DF is set (RFC 4301 §5.1.2, RFC 6864 §4.1)."""
    if version == 4:
        return ipv4(body, 50, source=LEFT4, destination=RIGHT4, tos=0xB8, identification=0, df=True, ttl=64)
    label = 0xABCDE if inner == 6 else 0
    return ipv6(body, 50, source=LEFT6, destination=RIGHT6, traffic_class=0xB8, flow_label=label, hop_limit=64)


@pytest.mark.parametrize("esn", [False, True], ids=["32-bit", "esn"])
@pytest.mark.parametrize(("inner", "outer"), [(4, 4), (6, 4), (4, 6), (6, 6)])
@pytest.mark.parametrize(("suite", "key_octets"), oracle.ALL_SUITES, ids=oracle.SUITE_IDS)
def test_tunnel(engine_name: str, suite: str, key_octets: int, inner: int, outer: int, esn: bool) -> None:
    keys = oracle.Keys.of(suite, key_octets)
    last = 0x1_FFFF_FFFE if esn else 0xFFFF_FFFD
    pair = Pair.of(engine_name, suite, keys=keys, outer=OUTER4 if outer == 4 else OUTER6, esn=esn, sequence=last)
    for sequence in (last + 1, last + 2):
        iv = oracle.own_iv(keys, sequence, IV_KEY, pair.out)
        body = oracle.seal(keys, SPI, sequence, esn, iv, INNER[inner], 4 if inner == 4 else 41)
        verdict = pair.sender.encapsulate(pair.out, INNER[inner], 0)
        assert verdict == Delivered(outer_header(outer, inner, body, sequence), pair.out, sequence)
        assert pair.open(verdict.packet) == Delivered(INNER[inner], pair.in_, sequence)


@pytest.mark.parametrize("esn", [False, True], ids=["32-bit", "esn"])
@pytest.mark.parametrize(("suite", "key_octets"), oracle.ALL_SUITES, ids=oracle.SUITE_IDS)
@pytest.mark.parametrize("version", [4, 6])
def test_transport(engine_name: str, suite: str, key_octets: int, version: int, esn: bool) -> None:
    keys = oracle.Keys.of(suite, key_octets)
    pair = Pair.of(engine_name, suite, Mode.TRANSPORT, keys=keys, esn=esn)
    data = udp(b"transport")
    body = oracle.seal(keys, SPI, 1, esn, oracle.own_iv(keys, 1, IV_KEY, pair.out), data, UDP)
    packet, expected = (
        (ipv4(data, UDP, tos=3, options=b"\x01\x01\x01\x00"), ipv4(body, 50, tos=3, options=b"\x01\x01\x01\x00"))
        if version == 4
        else (ipv6(data, UDP, flow_label=7), ipv6(body, 50, flow_label=7))
    )
    verdict = pair.sender.encapsulate(pair.out, packet, 0)
    assert verdict == Delivered(expected, pair.out, 1)
    assert pair.open(expected) == Delivered(packet, pair.in_, 1)


@pytest.mark.parametrize(("suite", "key_octets"), oracle.ALL_SUITES, ids=oracle.SUITE_IDS)
@pytest.mark.parametrize("esn", [False, True], ids=["32-bit", "esn"])
def test_every_octet_is_authentic(engine_name: str, suite: str, key_octets: int, esn: bool) -> None:
    """One bit flipped in any octet behind the sequence number fails the ICV and moves nothing."""
    pair = Pair.of(engine_name, suite, keys=oracle.Keys.of(suite, key_octets), esn=esn)
    packet = pair.protect(ipv4(b"payload"))
    for at in range(28, len(packet)):
        forged = packet[:at] + bytes((packet[at] ^ 1 << at % 8,)) + packet[at + 1 :]
        refused(pair.receiver, forged, DropReason.AUTH, sa=pair.in_)
    assert isinstance(pair.open(packet), Delivered)


@pytest.mark.parametrize(("suite", "key_octets"), oracle.ALL_SUITES, ids=oracle.SUITE_IDS)
def test_high_half_is_authentic(engine_name: str, suite: str, key_octets: int) -> None:
    """RFC 4303 §2.2.1: the half that is not sent is in the ICV."""
    keys = oracle.Keys.of(suite, key_octets)
    pair = Pair.of(engine_name, suite, keys=keys, sequence=5 << 32)
    iv = bytes(oracle.SUITES[suite].iv)
    for high in (4, 6, 0):
        body = oracle.seal(keys, SPI, high << 32 | 9, True, iv, INNER[4], 4)
        refused(pair.receiver, ipv4(body, 50), DropReason.AUTH, sa=pair.in_)
    body = oracle.seal(keys, SPI, 5 << 32 | 9, True, iv, INNER[4], 4)
    assert pair.open(ipv4(body, 50)) == Delivered(INNER[4], pair.in_, 5 << 32 | 9)


@pytest.mark.parametrize("suite", oracle.SUITES)
def test_truncated_at_every_octet(engine_name: str, suite: str) -> None:
    """Below 8 octets another counter than above (esp.md §9.3); what still has whole blocks fails the ICV."""
    pair = Pair.of(engine_name, suite)
    sizes = oracle.SUITES[suite]
    body = pair.protect(ipv4(bytes(25)))[20:]
    for octets in range(len(body)):
        sealed = octets - 8 - sizes.iv - sizes.icv
        reason = DropReason.TRUNCATED_HEADER if octets < 8 else DropReason.TRUNCATED
        if sealed >= sizes.block and sealed % sizes.block == 0:
            reason = DropReason.AUTH
        refused(pair.receiver, ipv4(body[:octets], 50), reason, sa=pair.in_)
    # An IP header that tells more than there is.
    whole = pair.protect()
    for octets in range(len(whole)):
        refused(pair.receiver, whole[:octets], DropReason.BAD_IP, sa=pair.in_)
    assert isinstance(pair.open(whole + b"link layer padding"), Delivered)


@pytest.mark.parametrize("suite", ["aes-gcm-16", "aes-cbc+hmac-sha2-256-128", "aes-gmac"])
@pytest.mark.parametrize("octets", [*range(20, 40), 64, 1400, 1499, 1500])
def test_payload_lengths(engine_name: str, suite: str, octets: int) -> None:
    pair = Pair.of(engine_name, suite)
    packet = ipv4(bytes(octets - 20))
    protected = pair.protect(packet)
    block, sizes = oracle.SUITES[suite].block, oracle.SUITES[suite]
    assert len(protected) == 20 + 8 + sizes.iv + -(-(octets + 2) // block) * block + sizes.icv
    assert pair.open(protected) == Delivered(packet, pair.in_, 1)


@pytest.mark.parametrize("suite", oracle.SUITES)
def test_fixed_iv(engine_name: str, suite: str) -> None:
    """For known answers an SA may be given its IV; where it is implicit, the sequence number stays."""
    keys, sizes = oracle.Keys.of(suite), oracle.SUITES[suite]
    iv = bytes(range(200, 216 if sizes.block == 16 else 208))
    sender = engine(engine_name)
    number = sender.install(sa(Profile(suite, outer=OUTER4), Direction.OUT, keys, iv=iv))
    packet = delivered(sender.encapsulate(number, INNER[4], 0)).packet
    assert packet[20:] == oracle.seal(keys, SPI, 1, True, iv, INNER[4], 4)


def test_ivs_of_cbc_do_not_follow_from_each_other(engine_name: str) -> None:
    """RFC 3602 §3: not the counter itself, not one key for all engines."""
    suite = "aes-cbc+hmac-sha2-256-128"
    ivs = set()
    for options in ({}, {"iv_key": b"another key, 16."}):
        pair = Pair.of(engine_name, suite, options=options)
        ivs |= {pair.protect()[28:44] for _ in range(8)}
    assert len(ivs) == 16
    assert not any(iv[:8] == bytes(8) for iv in ivs)


def beet(inner: int, outer: int) -> dict[str, Any]:
    return {
        "inner": Inner(A4, B4) if inner == 4 else Inner(A6, B6),
        "outer": OUTER4 if outer == 4 else OUTER6,
    }


@pytest.mark.parametrize("esn", [False, True], ids=["32-bit", "esn"])
@pytest.mark.parametrize(("inner", "outer"), [(4, 4), (6, 4), (4, 6), (6, 6)])
@pytest.mark.parametrize(("suite", "key_octets"), oracle.ALL_SUITES, ids=oracle.SUITE_IDS)
def test_beet(engine_name: str, suite: str, key_octets: int, inner: int, outer: int, esn: bool) -> None:
    """RFC 7402 §B.1.5: the original's fields under the outer addresses, and §B.1.4 back."""
    keys = oracle.Keys.of(suite, key_octets)
    pair = Pair.of(engine_name, suite, Mode.BEET, keys=keys, esn=esn, **beet(inner, outer))
    data = udp(b"beet")
    body = oracle.seal(keys, SPI, 1, esn, oracle.own_iv(keys, 1, IV_KEY, pair.out), data, UDP)
    fields4: dict[str, Any] = {"tos": 0x2A, "ttl": 17, "identification": 0x77, "df": False}
    fields6: dict[str, Any] = {"traffic_class": 0x2A, "hop_limit": 17, "flow_label": 0x12345}
    packet = ipv4(data, UDP, **fields4) if inner == 4 else ipv6(data, UDP, **fields6)
    if inner == 6:
        fields4 |= {"identification": 0, "df": True}  # net/ipv4/xfrm4_mode_beet.c: nothing to take them from
    else:
        fields6 |= {"flow_label": 0}
    expected = (
        ipv4(body, 50, source=LEFT4, destination=RIGHT4, **fields4)
        if outer == 4
        else ipv6(body, 50, source=LEFT6, destination=RIGHT6, **fields6)
    )
    assert pair.sender.encapsulate(pair.out, packet, 0) == Delivered(expected, pair.out, 1)
    # Back: what a changed family could not carry is not there.
    lossy4 = {**fields4, "identification": 0, "df": True} if outer == 6 else fields4
    lossy6 = {**fields6, "flow_label": 0} if outer == 4 else fields6
    back = ipv4(data, UDP, **lossy4) if inner == 4 else ipv6(data, UDP, **lossy6)
    assert pair.open(expected) == Delivered(back, pair.in_, 1)


@pytest.mark.parametrize("address", [IPv4Address("224.1.2.3")])
def test_multicast_destination_of_a_tunnel(engine_name: str, address: IPv4Address) -> None:
    pair = Pair.of(engine_name, outer=Outer(LEFT4, address))
    packet = pair.protect()
    assert packet[16:20] == address.packed
    assert isinstance(pair.open(packet), Delivered)
