"""WESP, WESPv2 and EESP through the engines: octets of a second writing, refusals, exposure, flows, Sub SAs."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest

from wesper import (
    SA,
    ConfigError,
    CryptOffset,
    Delivered,
    Direction,
    DropReason,
    EESPFormat,
    EventKind,
    Exposure,
    FlowKind,
    FlowPolicy,
    Mode,
    Option,
    Packets,
    Profile,
    StatelessGroup,
    SubSAs,
    UDPEncapsulation,
    WESPv2Format,
)
from wesper.protocols.eesp_keys import master_key
from wesper.protocols.icmp import packet_too_big

from . import family_oracle, oracle
from .packets import A4, B4, LEFT4, LEFT6, RIGHT4, RIGHT6, ipv4, ipv6, tcp, udp
from .pair import IV_KEY, OUTER4, OUTER6, SPI, Pair, delivered, engine, events, mirrored, refused, sa

INNER = ipv4(udp(b"payload of nobody's business"), 17)
ROOT = oracle.Keys("aes-gcm-16", bytes(range(32)), b"", b"")


def outside(body: bytes, number: int, version: int = 4) -> bytes:
    if version == 4:
        return ipv4(body, number, source=LEFT4, destination=RIGHT4)
    return ipv6(body, number, source=LEFT6, destination=RIGHT6)


# WESP: no published packets, so octet for octet against the tests' own writing of RFC 5840.


@pytest.mark.parametrize("outer", [OUTER4, OUTER6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("in_udp", [False, True], ids=["", "UDP"])
@pytest.mark.parametrize("suite", list(oracle.SUITES))
def test_wesp_octets(engine_name: str, suite: str, in_udp: bool, outer: Any) -> None:
    around = UDPEncapsulation() if in_udp else None
    pair = Pair.of(engine_name, suite, protocol="wesp", outer=outer, encapsulation=around, esn=False)
    packet = pair.protect(INNER)
    head = 20 if outer is OUTER4 else 40
    body = packet[head:]
    if in_udp:
        assert body[8:12] == b"\0\0\0\2"
        body = body[12:]
    assert packet[9 if outer is OUTER4 else 6] == (17 if in_udp else 141)
    iv = oracle.own_iv(pair.keys, 1, IV_KEY, pair.out)
    padded = outer is OUTER6 and not in_udp
    assert body == family_oracle.wesp(pair.keys, SPI, 1, False, iv, 4, INNER, padded=padded)
    assert delivered(pair.open(packet)).packet == INNER


WESP_FAULTS = [
    ({"version": 1}, DropReason.BAD_VERSION),
    ({"version": 3}, DropReason.BAD_VERSION),
    ({"hdrlen": 12}, DropReason.BAD_HDRLEN),
    ({"trailerlen": 12}, DropReason.BAD_TRAILERLEN),
    ({"encrypted": -1}, DropReason.BAD_ENCRYPTED_BIT),
    ({"padded": True, "hdrlen": -1}, DropReason.BAD_HDRLEN),
]


@pytest.mark.parametrize("suite", ["aes-gcm-16", "aes-gmac"])
@pytest.mark.parametrize(("fields", "reason"), WESP_FAULTS)
def test_wesp_refusals(engine_name: str, suite: str, fields: dict[str, Any], reason: DropReason) -> None:
    pair = Pair.of(engine_name, suite, protocol="wesp")
    encrypted = suite == "aes-gcm-16"
    if fields.get("encrypted") == -1:
        fields = {"encrypted": int(not encrypted)}
    fields = {key: value for key, value in fields.items() if value != -1}
    body = family_oracle.wesp(pair.keys, SPI, 1, True, bytes(8), 4, INNER, **fields)
    refused(pair.receiver, outside(body, 141), reason, sa=pair.in_)


def test_wesp_next_header_in_front(engine_name: str) -> None:
    """RFC 5840 §2: the trailer's, or 0; found behind the ICV, so the number counts as seen."""
    pair = Pair.of(engine_name, "aes-gmac", protocol="wesp")
    for number, shown in ((1, 4), (2, 0)):
        body = family_oracle.wesp(pair.keys, SPI, number, True, bytes(8), 4, INNER, shown=shown, reserved=15)
        assert isinstance(pair.open(outside(body, 141)), Delivered)
    body = family_oracle.wesp(pair.keys, SPI, 3, True, bytes(8), 4, INNER, shown=17)
    assert pair.open(outside(body, 141)).reason is DropReason.BAD_NEXT_HEADER  # type: ignore[union-attr]
    assert pair.receiver.state(pair.in_).sequence == 3


def test_wesp_without_padding_over_ipv6(engine_name: str) -> None:
    pair = Pair.of(engine_name, protocol="wesp", outer=OUTER6)
    body = family_oracle.wesp(pair.keys, SPI, 1, True, bytes(8), 4, INNER)
    refused(pair.receiver, outside(body, 141, 6), DropReason.BAD_HDRLEN, sa=pair.in_)


@pytest.mark.parametrize("protocol", ["wesp", "wespv2", "eesp"])
def test_nobody_expects_it(engine_name: str, protocol: str) -> None:
    """Numbers and markers of these protocols are another's business where no SA is theirs."""
    packet = Pair.of(engine_name, protocol=protocol).protect(INNER)
    refused(Pair.of(engine_name).receiver, packet, DropReason.NOT_FOR_US)
    # An SPI of another protocol's SA is no SA.
    other = {"wesp": "wespv2", "wespv2": "wesp", "eesp": "wesp"}[protocol]
    host = Pair.of(engine_name, protocol=other).receiver
    host.install(
        SA(mirrored(Profile("aes-gcm-16", outer=OUTER4, protocol=protocol)), Direction.IN, 999, bytes(32), b"salt")
    )
    refused(host, packet, DropReason.NO_SA)


# WESPv2


def test_unknown_options_are_told(engine_name: str) -> None:
    """§2.2.2: 01 drops in silence, 10 and 11 ask for an ICMP message that points to the type."""
    pair = Pair.of(engine_name, protocol="wespv2")
    for number, kind in enumerate((0x45, 0x85, 0xC5), 1):
        options = bytes((kind, 2, 0, 0))
        body = family_oracle.wespv2(pair.keys, SPI, number, True, bytes(8), 4, INNER, options=options)
        assert pair.open(outside(body, 141)).reason is DropReason.UNKNOWN_OPTION  # type: ignore[union-attr]
    told = events(pair.receiver)
    assert [(event.kind, event.pointer) for event in told] == [(EventKind.UNKNOWN_OPTION, 24)] * 2
    assert pair.receiver.state(pair.in_).packets == 3


@pytest.mark.parametrize("size", [0, 1200, 9000])
@pytest.mark.parametrize("suite", ["aes-gcm-16", "null+hmac-sha2-256-128"])
def test_what_is_quoted_of_a_packet_is_what_came(engine_name: str, suite: str, size: int) -> None:
    """As it came, so nothing that was encrypted; without what lies behind it; cut (RFC 4443 §2.4 (c))."""
    pair = Pair.of(engine_name, suite, protocol="wespv2", encapsulation=UDPEncapsulation())
    inner = ipv4(udp(bytes(size)), 17)
    options = bytes((0xC5, 2, 0, 0))
    iv = bytes(oracle.SUITES[suite].iv)
    body = family_oracle.wespv2(pair.keys, SPI, 1, True, iv, 4, inner, options=options)
    packet = outside(udp(b"\0\0\0\2" + body, 4500, 4500), 17)
    forged = packet[:-1] + bytes((packet[-1] ^ 1,))
    refused(pair.receiver, forged, DropReason.AUTH)
    assert pair.open(packet + b"behind it").reason is DropReason.UNKNOWN_OPTION  # type: ignore[union-attr]
    assert [event.packet for event in events(pair.receiver)] == [packet[:1232]]


# The path


@pytest.mark.parametrize("around", [None, UDPEncapsulation()], ids=["raw", "udp"])
@pytest.mark.parametrize(
    ("protocol", "made"),
    [
        ("wesp", None),
        ("wespv2", WESPv2Format(options=(Option(0x1C, b"12"),), flow_identifier=FlowPolicy(FlowKind.FIXED, 9))),
        ("eesp", None),
        ("eesp", EESPFormat(crypt_offset=CryptOffset(), max_crypt_offset_octets=0)),
        ("eesp", EESPFormat(options=(Option(230, bytes(6)),), sub_sas=SubSAs(max_id=3), session=FlowPolicy(value=3))),
        ("eesp", EESPFormat(sequence_numbers=False)),
    ],
    ids=["wesp", "wespv2", "optimized", "full", "sub SAs and options", "no numbers"],
)
def test_a_router_is_believed_if_it_quotes_what_was_sent(
    engine_name: str, protocol: str, made: Any, around: Any
) -> None:
    """RFC 4301 §8.2: the number behind options and markers is one that was sent lately, not one that comes yet."""
    is_counted = not isinstance(made, EESPFormat) or made.sequence_numbers
    keys = ROOT if isinstance(made, EESPFormat) and made.sub_sas is not None else None
    settings: dict[str, Any] = {"protocol": protocol, "format": made, "encapsulation": around, "keys": keys}
    pair = Pair.of(engine_name, window=1024 if is_counted else 0, **settings)
    other = Pair.of(engine_name, window=1024 if is_counted else 0, **settings)
    sent = [pair.protect(ipv4(udp(bytes(1300)), 17)) for _ in range(9)][-1]
    future = [other.protect(ipv4(udp(bytes(1300)), 17)) for _ in range(10)][-1]
    router = ip_address("192.0.2.77")
    for packet, mtu, is_believed in ((future, 1300, not is_counted), (sent, 1200, True)):
        message = packet_too_big(packet, mtu, router)
        assert message is not None
        assert pair.sender.icmp_error(message, 0) is is_believed
        assert (pair.sender.state(pair.out).mtu == mtu) is is_believed


# Exposure


TCP4 = ipv4(tcp(b"secret", ends=(A4, B4)), 6)
EXPOSURES = [
    (Exposure.NONE, INNER, 0),
    (Exposure.L3, INNER, 20),
    (Exposure.L3_L4, INNER, 28),
    (Exposure.L3_L4, TCP4, 40),
    (Exposure.L3, ipv4(udp(), 17, options=b"\1" * 8), 28),
    (Exposure.L3_L4, ipv6(udp(), 17), 48),
    (Exposure.L3_L4, ipv4(b"nothing known", 253), 20),
    (Exposure.L3_L4, ipv4(udp(), 17, offset=8), 20),  # a later fragment has no ports
    (Exposure.L3_L4, ipv4(b"\1\2\3\4", 6), 20),  # cut short
    (Exposure.OCTETS, INNER, 28),  # the guard: 252 were asked for
]


@pytest.mark.parametrize("protocol", ["wespv2", "eesp"])
@pytest.mark.parametrize(("exposure", "packet", "shown"), EXPOSURES)
def test_exposure(engine_name: str, protocol: str, exposure: Exposure, packet: bytes, shown: int) -> None:
    """What stands in clear is so many octets of the packet; all behind them can't be read."""
    policy = CryptOffset(exposure, 252 if exposure is Exposure.OCTETS else 0)
    made: Any = (
        WESPv2Format(policy, 252)
        if protocol == "wespv2"
        else EESPFormat(crypt_offset=policy, max_crypt_offset_octets=252)
    )
    pair = Pair.of(engine_name, protocol=protocol, format=made)
    sent = pair.protect(packet)
    at = 20 + 20 if protocol == "wespv2" else 20 + 28 + 4
    if shown:
        assert sent[at : at + shown] == packet[:shown]
    assert sent[at + shown : at + shown + 4] != packet[shown : shown + 4]
    assert delivered(pair.open(sent)).packet == packet


@pytest.mark.parametrize("limit", [0, 4, 20, 252])
def test_peer_limits_exposure(engine_name: str, limit: int) -> None:
    if limit == 0:
        with pytest.raises(ConfigError, match="does not accept"):
            WESPv2Format(CryptOffset(Exposure.L3_L4), 252, 0)
        return
    made = WESPv2Format(CryptOffset(Exposure.L3_L4), 252, limit)
    sent = Pair.of(engine_name, protocol="wespv2", format=made).protect(INNER)
    assert sent[22] >> 2 == min(limit, 28) // 4


def test_payload_is_exposed_when_told_in_so_many_words(engine_name: str) -> None:
    policy = CryptOffset(Exposure.OCTETS, 40, expose_payload=True)
    sent = Pair.of(engine_name, protocol="wespv2", format=WESPv2Format(policy, 252)).protect(INNER)
    assert sent[40:80] == INNER[:40]


# Flows


@pytest.mark.parametrize(
    ("policy", "differs"),
    [
        (FlowPolicy(FlowKind.FIVE_TUPLE), True),
        (FlowPolicy(FlowKind.CPU, 1 << 16), True),
        (FlowPolicy(FlowKind.DSCP), False),
        (FlowPolicy(FlowKind.FIXED, 77), False),
    ],
)
def test_flows_keep_their_name(engine_name: str, policy: FlowPolicy, differs: bool) -> None:
    made = WESPv2Format(flow_identifier=policy)
    pair = Pair.of(engine_name, protocol="wespv2", format=made)
    names = set()
    for port in range(2000, 2020):
        seen = set()
        for size in (0, 1, 700):
            verdict = delivered(
                pair.sender.encapsulate(pair.out, ipv4(udp(bytes(size), 1000, port), 17, tos=46 << 2), 0)
            )
            assert verdict.packet[24:26] == b"\x1b\x08"
            assert int.from_bytes(verdict.packet[26:34], "big") == verdict.flow
            assert delivered(pair.open(verdict.packet)).flow == verdict.flow
            seen.add(verdict.flow)
        assert len(seen) == 1
        names |= seen
    assert len(names) == (20 if differs else 1)
    assert differs or names == {46 if policy.kind is FlowKind.DSCP else 77}


def test_pieces_of_a_packet_have_one_name(engine_name: str) -> None:
    pair = Pair.of(engine_name, protocol="wespv2", format=WESPv2Format(flow_identifier=FlowPolicy(FlowKind.FIVE_TUPLE)))
    pieces = [ipv4(udp(bytes(24)), 17, mf=True), ipv4(bytes(24), 17, offset=32)]
    first, second = (delivered(pair.sender.encapsulate(pair.out, piece, 0)).flow for piece in pieces)
    assert first == second


def test_a_batch_names_its_flows(engine_name: str) -> None:
    """As single packets do; 0 where a protocol has no names, and where a packet is dropped."""
    pair = Pair.of(engine_name, protocol="wespv2", format=WESPv2Format(flow_identifier=FlowPolicy(FlowKind.FIVE_TUPLE)))
    ids = {"wespv2": pair.out}
    for n, (protocol, made) in enumerate({"esp": None, "eesp": EESPFormat(session=FlowPolicy(FlowKind.MARK))}.items()):
        profile = Profile("aes-gcm-16", outer=OUTER4, protocol=protocol, format=made)
        ids[protocol] = pair.sender.install(sa(profile, Direction.OUT, pair.keys, spi=SPI + 1 + n))
        pair.receiver.install(sa(mirrored(profile), Direction.IN, pair.keys, spi=SPI + 1 + n))
    order = ["esp", "esp", "wespv2", "esp", "eesp", "none", "wespv2", "eesp", "esp", "esp"]
    packets = Packets.of([ipv4(udp(b"", 1000, 2000 + n), 17) for n in range(len(order))])
    sas = np.array([ids.get(protocol, 7) for protocol in order], np.uint64)
    sent = pair.sender.encapsulate_many(sas, packets, 0, np.arange(100, 110, dtype=np.uint32))
    shown = {"wespv2": slice(26, 34), "eesp": slice(22, 24)}
    flows = [
        int.from_bytes(packet[shown.get(which, slice(0))], "big")
        for which, packet in zip(order, sent.packets, strict=True)
    ]
    assert sent.flows.tolist() == flows
    assert [bool(flow) for flow in flows] == [which in shown for which in order]
    assert (flows[4], flows[7]) == (104, 107)
    assert pair.receiver.decapsulate_many(sent.packets, 0).flows.tolist() == flows
    # Seen before, not authentic, no name at all.
    again = pair.receiver.decapsulate_many(Packets.of([*sent.packets, sent.packets[2][:-1] + b"?", b""]), 0)
    assert not again.flows.any()
    assert len(again.flows) == 12
    assert pair.sender.encapsulate_many(ids["esp"], packets, 0).flows.tolist() == [0] * 10
    assert pair.sender.encapsulate_many(ids["eesp"], Packets.of([]), 0).flows.tolist() == []


def test_mark_names_the_flow(engine_name: str) -> None:
    pair = Pair.of(engine_name, protocol="eesp", format=EESPFormat(session=FlowPolicy(FlowKind.MARK)))
    verdict = delivered(pair.sender.encapsulate(pair.out, INNER, 0, mark=0x12345))
    assert verdict.flow == 0x2345
    assert verdict.packet[22:24] == b"\x23\x45"


# EESP


def sub_pair(name: str, **settings: Any) -> Pair:
    made = EESPFormat(sub_sas=SubSAs(max_id=3, **settings), session=FlowPolicy(FlowKind.MARK))
    return Pair.of(name, protocol="eesp", format=made, keys=ROOT)


def test_sub_sas_count_and_key_for_themselves(engine_name: str) -> None:
    pair = sub_pair(engine_name)
    for mark, number in ((0, 1), (3, 1), (0, 2), (3, 2), (7, 3)):  # 7 modulo 4 is 3
        verdict = delivered(pair.sender.encapsulate(pair.out, INNER, 0, mark=mark))
        keys = family_oracle.sub_sa_keys(ROOT, SubSAs(), mark % 4)
        content = family_oracle.optimized(INNER)
        iv = number.to_bytes(8, "big")
        assert verdict.packet[20:] == family_oracle.eesp(keys, SPI, number, iv, content, session=mark % 4)
        assert delivered(pair.open(verdict.packet)).packet == INNER
        refused(pair.receiver, verdict.packet, DropReason.REPLAY, sa=pair.in_)
    assert pair.receiver.sub_sa_state(pair.in_, 0).sequence == 2
    assert pair.receiver.sub_sa_state(pair.in_, 3).packets == 3
    assert pair.receiver.state(pair.in_).packets == 5


def test_forgeries_make_no_sub_sa(engine_name: str) -> None:
    """§2.9.2: only what is authentic makes a window, and nothing above what was announced."""
    pair = sub_pair(engine_name)
    keys = replace(ROOT, key=bytes(32), salt=bytes(4))
    for session in range(4):
        body = family_oracle.eesp(keys, SPI, 1, bytes(8), family_oracle.optimized(INNER), session=session)
        refused(pair.receiver, outside(body, 253), DropReason.AUTH, sa=pair.in_)
        with pytest.raises(ConfigError):
            pair.receiver.sub_sa_state(pair.in_, session)
    good = family_oracle.sub_sa_keys(ROOT, SubSAs(), 4)
    body = family_oracle.eesp(good, SPI, 1, bytes(8), family_oracle.optimized(INNER), session=4)
    refused(pair.receiver, outside(body, 253), DropReason.BAD_SESSION, sa=pair.in_)


def test_sub_sas_have_ports_of_their_own(engine_name: str) -> None:
    """§6: a Sub SA's port is learnt from its first authentic packet; another one later is a peer that moved."""
    made = EESPFormat(sub_sas=SubSAs(max_id=3, first_port=50000), session=FlowPolicy(FlowKind.MARK))
    pair = Pair.of(engine_name, protocol="eesp", format=made, keys=ROOT, encapsulation=UDPEncapsulation())
    for mark, port in ((0, 4500), (1, 50000), (3, 50002)):
        packet = delivered(pair.sender.encapsulate(pair.out, INNER, 0, mark=mark)).packet
        assert int.from_bytes(packet[20:22], "big") == port
        assert isinstance(pair.open(packet), Delivered)
    assert events(pair.receiver) == []
    packet = delivered(pair.sender.encapsulate(pair.out, INNER, 0, mark=1)).packet
    assert isinstance(pair.open(packet[:20] + b"\x77\x77" + packet[22:]), Delivered)
    assert [(e.kind, e.port, e.session) for e in events(pair.receiver)] == [(EventKind.PEER_MOVED, 0x7777, 1)]


def test_sub_sas_without_ports_of_their_own_move_together(engine_name: str) -> None:
    """The first packet of a Sub SA from elsewhere is a peer that moved: a NAT has given all of them another port."""
    made = EESPFormat(sub_sas=SubSAs(max_id=3), session=FlowPolicy(FlowKind.MARK))
    pair = Pair.of(engine_name, protocol="eesp", format=made, keys=ROOT, encapsulation=UDPEncapsulation())

    def come(mark: int, port: int) -> list[tuple[int, int]]:
        packet = delivered(pair.sender.encapsulate(pair.out, INNER, 0, mark=mark)).packet
        assert isinstance(pair.open(packet[:20] + port.to_bytes(2, "big") + packet[22:]), Delivered)
        return [(event.port, event.session) for event in events(pair.receiver)]

    assert come(1, 4500) == []
    assert come(2, 7777) == [(7777, 2)]
    moved = replace(pair.receiver_profile, encapsulation=UDPEncapsulation(4500, 7777))
    pair.receiver.set_profile(pair.in_, moved)
    assert come(3, 7777) == []
    assert come(0, 7777) == []
    assert come(1, 8888) == [(8888, 1)]


def test_too_much_exposure_tears_the_sa_down(engine_name: str) -> None:
    """§3.1.2: processed, dropped, and told; a forgery of it is only an ICV that does not fit."""
    pair = Pair.of(engine_name, protocol="eesp", format=EESPFormat(max_crypt_offset_octets=32))
    content = family_oracle.full(4, INNER)
    option = family_oracle.crypt_offset_option(28, 36)
    body = family_oracle.eesp(pair.keys, SPI, 1, bytes(8), content, options=option, clear=36)
    refused(pair.receiver, outside(body[:-1] + bytes((body[-1] ^ 1,)), 253), DropReason.AUTH, sa=pair.in_)
    assert events(pair.receiver) == []
    assert pair.open(outside(body, 253)).reason is DropReason.BAD_CRYPT_OFFSET  # type: ignore[union-attr]
    assert [event.kind for event in events(pair.receiver)] == [EventKind.TEAR_DOWN]


def stateless(name: str, indexes: tuple[int, ...], keys: tuple[bytes, ...], sequence: int, device: int = 5) -> Any:
    made = EESPFormat(sequence_numbers=False, stateless=StatelessGroup(device, indexes))
    profile = Profile("aes-gcm-16", outer=OUTER4, protocol="eesp", format=made, window=0)
    host = engine(name)
    out = host.install(SA(profile, Direction.OUT, SPI, b"".join(keys), sequence=sequence))
    return host, out, profile


def test_rotation_of_a_stateless_group(engine_name: str) -> None:
    """EESP-SL-1: n-1, n and n+1 are accepted, others are no SA; devices and epochs have keys of their own."""
    masters = {index: master_key([bytes((index,)) * 32, bytes((index ^ 0x55,)) * 32]) for index in (6, 7, 8, 9)}
    _, _, profile = stateless(engine_name, (7, 6, 8), tuple(masters[i] for i in (7, 6, 8)), 0)
    receiver = engine(engine_name)
    into = receiver.install(SA(mirrored(profile), Direction.IN, SPI, b"".join(masters[i] for i in (7, 6, 8))))
    for index in (6, 7, 8, 9):
        for device in (5, 1 << 63):
            sender, out, _ = stateless(engine_name, (index,), (masters[index],), 3 << 48, device)
            packet = delivered(sender.encapsulate(out, INNER, 0)).packet
            assert packet[40:48] == (3 << 48 | 1).to_bytes(8, "big")
            if index == 9:
                refused(receiver, packet, DropReason.NO_SA, sa=into)
            else:
                assert delivered(receiver.decapsulate(packet, 0)).packet == INNER
    # The last counter of an epoch is followed by the next epoch.
    sender, out, _ = stateless(engine_name, (7,), (masters[7],), (4 << 48) - 1)
    packet = delivered(sender.encapsulate(out, INNER, 0)).packet
    assert packet[40:42] == b"\0\4"
    assert delivered(receiver.decapsulate(packet, 0)).sequence == 0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"suite": "null+hmac-sha2-256-128"}, "combined-mode"),
        ({"esn": False}, "64 bits"),
        ({"window": 32}, "64 and more"),
        ({"pad_to": 100}, "TFC padding"),
        ({"format": EESPFormat(sequence_numbers=False)}, "window"),
        ({"format": EESPFormat(sequence_numbers=False), "window": 0, "suite": "aes-gcm-16-iiv"}, "sends its IV"),
        ({"format": EESPFormat(sub_sas=SubSAs(key_octets=17))}, "key_octets"),
        ({"format": WESPv2Format()}, "EESPFormat"),
    ],
)
def test_terms_that_do_not_go_together(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Profile(**{"suite": "aes-gcm-16", "outer": OUTER4, "protocol": "eesp", **settings})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: EESPFormat(crypt_offset=CryptOffset(Exposure.L3)), "not allowed"),
        (lambda: EESPFormat(options=(Option(2, bytes(2)),)), "setting of its own"),
        (lambda: EESPFormat(ip_protocol=50), "IP protocol 50"),
        (lambda: EESPFormat(session=FlowPolicy(value=4), sub_sas=SubSAs(max_id=3)), "0..3"),
        (lambda: StatelessGroup(1, (7, 9)), "one before"),
        (lambda: WESPv2Format(options=(Option(0x25),)), "0x20"),
        (lambda: WESPv2Format(options=(Option(5, bytes(58)),)), "at most 60"),
        (lambda: CryptOffset(Exposure.L3, 4), "neither"),
        (lambda: CryptOffset(Exposure.OCTETS, 5), "multiple of 4"),
        (lambda: master_key([bytes(31) + b"\1"] * 2), "cancel"),
    ],
)
def test_settings_that_can_not_be(make: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()


@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT, Mode.BEET])
def test_aggfrag_goes_through_as_it_is(engine_name: str, mode: Mode) -> None:
    """EESP alone carries it yet; nothing but Next Header 144 comes out."""
    if mode is not Mode.TUNNEL:
        with pytest.raises(ConfigError, match="iptfs"):
            Profile("aes-gcm-16", Mode.IPTFS, OUTER4, protocol="wespv2" if mode is Mode.BEET else "esp")
        return
    pair = Pair.of(engine_name, mode=Mode.IPTFS, protocol="eesp")
    payload = bytes(4) + INNER + b"anything"
    assert delivered(pair.open(pair.protect(payload))).packet == payload
    body = family_oracle.eesp(pair.keys, SPI, 2, bytes(8), family_oracle.full(4, INNER))
    assert pair.open(outside(body, 253)).reason is DropReason.BAD_PAYLOAD_INFO  # type: ignore[union-attr]
