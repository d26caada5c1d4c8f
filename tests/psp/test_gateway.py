"""Gateways: packets led to associations and taken from them, on each engine; IVs bounded and never used twice."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from wesper import psp
from wesper.engine import EventKind
from wesper.engine.interface import MTU_AGE, SECOND
from wesper.errors import ConfigError
from wesper.protocols import icmp, ip
from wesper.psp.gateway import OUTBOUND_IDS
from wesper.sa import Action, AddressRange, Direction, Lifetime, Mode, Outer, Policy, Selector
from wesper.verdict import Bypassed, Delivered, Dropped, DropReason

from .conftest import KEYS
from .packets import HOSTS, rebuilt, udp

COOKIE = bytes.fromhex("00000000000a11ce")
PORTS = tuple(range(50000, 50016))
SPI = 0x80000123
WAYS = [
    pytest.param(mode, outer, inner, id=f"{mode.value}-{outer}-{inner}")
    for mode, outer, inner in [(Mode.TUNNEL, o, i) for o in (4, 6) for i in (4, 6)]
    + [(Mode.TRANSPORT, each, each) for each in (4, 6)]
]


def profile(mode: Mode = Mode.TUNNEL, version: int = 4, code: int = 0, **more: object) -> psp.GatewayProfile:
    """Return how packets go from the first host to the second."""
    near, far = HOSTS[version]
    outer = Outer(near, far) if mode is Mode.TUNNEL else None
    look = psp.Profile(mode, code, cookie=COOKIE, outer=outer, source_port=psp.SourcePort.TABLE, ports=PORTS, mtu=1500)
    return replace(psp.GatewayProfile(look, near, far), **more)


def sa(way: Direction, given: psp.GatewayProfile, spi: int = SPI, sequence: int = 0) -> psp.GatewaySA:
    return psp.GatewaySA(given, way, spi, psp.derive_key(KEYS[spi >> 31], spi, given.look.version), sequence)


def gateway(name: str) -> psp.Gateway:
    """Return a gateway with both device keys."""
    made = psp.open_gateway(name, psp.Options(hash_key=bytes(16)))
    made.set_device_keys(KEYS)
    return made


class Ends:
    """A sender and a receiver, the latter with the device keys."""

    def __init__(self, name: str, given: psp.GatewayProfile | None = None) -> None:
        self.profile = given or profile()
        self.sender = gateway(name)
        self.receiver = gateway(name)
        self.out = self.sender.install(sa(Direction.OUT, self.profile))
        self.inward = self.receiver.install(sa(Direction.IN, self.profile))
        self.sender.set_policies([Policy(Action.PROTECT, (), ((None, self.out),))])

    def send(self, packet: bytes, now: int = 0) -> bytes:
        (verdict,) = self.sender.outbound(packet, now)
        assert isinstance(verdict, Delivered)
        return verdict.packet


def reason(verdict: object) -> DropReason:
    assert isinstance(verdict, Dropped)
    return verdict.reason


@pytest.mark.parametrize("code", [0, 1, 2, 3])
@pytest.mark.parametrize(("mode", "outer", "inner"), WAYS)
def test_a_packet_comes_out_as_it_went_in(engine_name: str, mode: Mode, outer: int, inner: int, code: int) -> None:
    ends = Ends(engine_name, profile(mode, outer, code))
    packet = udp(inner, b"hidden from the wire")
    sent = ends.send(packet)
    assert sent[0] >> 4 == outer
    assert (b"hidden from the wire" in sent) is (code >= 2)  # GMAC encrypts nothing
    verdict = ends.receiver.inbound(sent, 0)
    assert isinstance(verdict, Delivered)
    assert verdict.packet == packet
    assert verdict.sa == ends.inward == SPI
    assert ends.receiver.state(SPI).packets == ends.sender.state(ends.out).packets == 1


@pytest.mark.needs_native
def test_both_engines_send_the_same_octets() -> None:
    packets = [udp(4, bytes(size)) for size in (0, 1, 700, 1300)]
    sent = [[Ends(name).send(each) for each in packets] for name in ("reference", "native")]
    assert sent[0] == sent[1]


def test_a_flow_keeps_its_source_port_and_flows_are_spread(engine_name: str) -> None:
    ends = Ends(engine_name)

    def port(source: int) -> int:
        return int.from_bytes(ends.send(udp(source=source))[20:22], "big")

    found = {source: port(source) for source in range(40000, 40100)}
    assert found == {source: port(source) for source in found}
    assert set(found.values()) <= set(PORTS)
    assert len(set(found.values())) > 8


def test_no_iv_beyond_the_bound_and_none_twice_across_a_restart(engine_name: str) -> None:
    ends = Ends(engine_name)
    seen = []
    ends.sender.reserve(ends.out, 3)
    for _ in range(3):
        (verdict,) = ends.sender.outbound(udp(), 0)
        assert isinstance(verdict, Delivered)
        seen.append(verdict.sequence)
    assert reason(ends.sender.outbound(udp(), 0)[0]) is DropReason.PSP_OUT_IV
    ends.sender.reserve(ends.out, 4)
    ends.send(udp())
    seen.append(ends.sender.state(ends.out).sequence)

    again = gateway(engine_name)
    id = again.install(sa(Direction.OUT, ends.profile, sequence=seen[-1]))
    verdict = again.encapsulate(id, udp(), 0)
    assert isinstance(verdict, Delivered)
    seen.append(verdict.sequence)
    assert seen == [1, 2, 3, 4, 5]
    assert int.from_bytes(verdict.packet[36:44], "big") == 5  # on the wire: IPv4, UDP, 8 octets of PSP


def test_a_refused_packet_never_leaves_its_iv_to_another(engine_name: str) -> None:
    ends = Ends(engine_name)
    (first,) = ends.sender.outbound(udp(6, bytes(2000)), 0)
    assert reason(first) is DropReason.PSP_OUT_TOO_BIG
    ends.send(udp())
    assert ends.sender.state(ends.out).sequence == 2
    assert ends.sender.state(ends.out).packets == 1


def test_a_dummy_proves_its_key_and_goes_no_further(engine_name: str) -> None:
    for given in (profile(), profile(Mode.TRANSPORT, 6), profile(code=1)):
        deep = replace(given, look=replace(given.look, crypt_offset_words=40))
        ends = Ends(engine_name, deep)
        verdict = ends.sender.dummy(ends.out, bytes(8), 0)
        assert isinstance(verdict, Delivered)
        assert reason(ends.receiver.inbound(verdict.packet, 0)) is DropReason.PSP_EMPTY
        assert ends.receiver.state(SPI).packets == 1


def test_what_is_not_an_associations_own_is_dropped(engine_name: str) -> None:
    ends = Ends(engine_name)
    sent = ends.send(udp())
    for other in (
        profile(Mode.TRANSPORT),
        replace(ends.profile, look=replace(ends.profile.look, cookie=bytes(8))),
        replace(ends.profile, selectors=(Selector((), (AddressRange.parse("203.0.113.0/24"),)),)),
    ):
        receiver = gateway(engine_name)
        receiver.install(sa(Direction.IN, other))
        assert reason(receiver.inbound(sent, 0)) is DropReason.SELECTOR_MISMATCH

    # The SPI's key for another version, which only the device itself could have given away.
    receiver = gateway(engine_name)
    receiver.install(sa(Direction.IN, profile(code=1)))
    assert reason(receiver.inbound(sent, 0)) is DropReason.PSP_NO_DEVICE_KEY
    assert receiver.state(SPI).packets == 0

    # The device keys fit all of its SPIs, and the gateway was told of one.
    stranger = gateway(engine_name)
    assert reason(stranger.inbound(sent, 0)) is DropReason.PSP_NO_DEVICE_KEY
    assert reason(ends.receiver.inbound(udp(), 0)) is DropReason.IN_NO_POLICY
    spoilt = sent[:-1] + bytes((sent[-1] ^ 1,))
    assert reason(ends.receiver.inbound(spoilt, 0)) is DropReason.PSP_AUTH
    assert ends.receiver.state(SPI).integrity_failed == 1
    assert ends.receiver.drops()[DropReason.PSP_AUTH] == ends.receiver.counters()["rx_auth_fail"] == 1


def test_selectors_let_their_own_traffic_in(engine_name: str) -> None:
    ranges = AddressRange.parse(str(ip_network(HOSTS[4][0])))
    # The receiver's remote is who sends.
    ends = Ends(engine_name, replace(profile(), selectors=(Selector((), (ranges,)),)))
    assert isinstance(ends.receiver.inbound(ends.send(udp()), 0), Delivered)


def test_policy_decides_what_is_protected(engine_name: str) -> None:
    ends = Ends(engine_name)
    for policies, expected in (
        ([], DropReason.OUT_DISCARD),
        ([Policy(Action.DISCARD)], DropReason.OUT_DISCARD),
        ([Policy(Action.PROTECT)], DropReason.OUT_NO_SA),
    ):
        ends.sender.set_policies(policies)
        assert reason(ends.sender.outbound(udp(), 0)[0]) is expected
    event = ends.sender.next_event()
    assert event is not None
    assert event.kind is EventKind.ACQUIRE
    ends.sender.set_policies([Policy(Action.BYPASS)])
    assert ends.sender.outbound(udp(), 0) == [Bypassed(udp())]
    assert reason(ends.sender.outbound(b"no packet", 0)[0]) is DropReason.PSP_OUT_BAD_PACKET


@pytest.mark.parametrize(("mode", "outer", "inner"), WAYS)
def test_the_inner_mtu_is_the_last_size_that_fits(engine_name: str, mode: Mode, outer: int, inner: int) -> None:
    ends = Ends(engine_name, profile(mode, outer))
    room = ends.sender.inner_mtu(ends.out)
    head = 28 if inner == 4 else 48

    def packet(size: int) -> bytes:
        made = udp(inner, bytes(size - head))
        return rebuilt(made, df=1) if inner == 4 else made

    assert len(ends.send(packet(room))) == 1500
    (verdict,) = ends.sender.outbound(packet(room + 1), 0)
    assert isinstance(verdict, Dropped)
    assert (verdict.reason, verdict.mtu) == (DropReason.PSP_OUT_TOO_BIG, room)


def test_a_large_packet_that_may_be_cut_is_cut_for_its_tunnel(engine_name: str) -> None:
    ends = Ends(engine_name)
    verdicts = ends.sender.outbound(rebuilt(udp(4, bytes(3000)), df=0), 0)
    assert len(verdicts) == 3
    for verdict in verdicts:
        assert isinstance(verdict, Delivered)
        assert len(verdict.packet) <= 1500
        assert isinstance(ends.receiver.inbound(verdict.packet, 0), Delivered)


@pytest.mark.parametrize("version", [4, 6])
def test_an_icmp_message_is_believed_if_it_quotes_a_packet_of_ours(engine_name: str, version: int) -> None:
    ends = Ends(engine_name, profile(version=version))
    room = ends.sender.inner_mtu(ends.out)
    sent = ends.send(rebuilt(udp(4, bytes(1000)), df=1))
    outer = ip.parse(sent)
    assert outer is not None
    forged = bytearray(sent)
    forged[outer.upper_at + 8 + 15] ^= 0x80  # an IV that was never used
    for quoted, believed in ((bytes(forged), False), (sent, True), (sent, False)):
        message = icmp.packet_too_big(quoted, 1300, HOSTS[version][1])
        assert message is not None
        assert ends.sender.icmp_error(message, SECOND) is believed
    assert ends.sender.state(ends.out).mtu == 1300
    event = ends.sender.next_event()
    assert event is not None
    assert (event.kind, event.mtu) == (EventKind.MTU_CHANGED, 1300)
    assert ends.sender.inner_mtu(ends.out, SECOND) == room - 200
    assert ends.sender.inner_mtu(ends.out, SECOND + MTU_AGE) == room  # forgotten


def test_lifetimes_end_an_association_with_events(engine_name: str) -> None:
    ends = Ends(engine_name, replace(profile(), soft=Lifetime(packets=2), hard=Lifetime(packets=3)))
    for _ in range(3):
        ends.send(udp())
    assert reason(ends.sender.encapsulate(ends.out, udp(), 0)) is DropReason.PSP_OUT_EXPIRED
    events = [ends.sender.next_event() for _ in range(3)]
    kinds = [None if each is None else (each.kind, each.limit) for each in events]
    assert kinds == [(EventKind.SOFT_EXPIRED, "packets"), (EventKind.HARD_EXPIRED, "packets"), None]
    with pytest.raises(ConfigError):
        ends.sender.state(ends.out)
    assert reason(ends.sender.outbound(udp(), 0)[0]) is DropReason.OUT_NO_SA
    for verdict in (ends.sender.encapsulate(ends.out, udp(), 0), ends.sender.dummy(ends.out, b"", 0)):
        assert reason(verdict) is DropReason.PSP_OUT_NO_KEY


def test_a_device_key_that_goes_takes_its_associations_along(engine_name: str) -> None:
    ends = Ends(engine_name)
    sent = ends.send(udp())
    ends.receiver.set_device_keys((bytes(32), KEYS[1]))  # the SPI is of the other one
    assert isinstance(ends.receiver.inbound(sent, 0), Delivered)
    ends.receiver.set_device_keys((bytes(32), None))
    assert reason(ends.receiver.inbound(sent, 0)) is DropReason.PSP_NO_DEVICE_KEY
    ends.receiver.set_device_keys((None, bytes(32)))
    assert reason(ends.receiver.inbound(sent, 0)) is DropReason.PSP_AUTH


def test_a_bitmap_takes_each_packet_once(engine_name: str) -> None:
    ends = Ends(engine_name, replace(profile(), replay=psp.ReplayRule(psp.Replay.EXACT, window=64)))
    sent = [ends.send(udp()) for _ in range(100)]
    dummy = ends.sender.dummy(ends.out, bytes(8), 0)
    assert isinstance(dummy, Delivered)
    assert isinstance(ends.receiver.inbound(sent[0], 0), Delivered)
    assert reason(ends.receiver.inbound(sent[0], 0)) is DropReason.PSP_REPLAY
    forged = sent[99][:-1] + bytes((sent[99][-1] ^ 1,))
    assert reason(ends.receiver.inbound(forged, 0)) is DropReason.PSP_AUTH  # and moves nothing
    assert isinstance(ends.receiver.inbound(sent[69], 0), Delivered)
    assert reason(ends.receiver.inbound(sent[5], 0)) is DropReason.PSP_REPLAY
    assert isinstance(ends.receiver.inbound(sent[6], 0), Delivered)
    # A dummy says that its peer lives, and says so once.
    for _ in range(2):
        assert reason(ends.receiver.inbound(dummy.packet, 0)) is DropReason.PSP_EMPTY
    state = ends.receiver.state(SPI)
    assert (state.sequence, state.packets, state.replay) == (101, 4, 3)
    assert ends.receiver.counters()["rx_replay"] == 2
    assert ends.receiver.counters()["rx_packets"] == 7


def test_a_bitmap_knows_what_an_earlier_run_has_received(engine_name: str) -> None:
    ends = Ends(engine_name, replace(profile(), replay=psp.ReplayRule(psp.Replay.EXACT, window=64)))
    sent = [ends.send(udp()) for _ in range(80)]
    for packet in sent[:70]:
        assert isinstance(ends.receiver.inbound(packet, 0), Delivered)
    again = gateway(engine_name)
    again.install(sa(Direction.IN, ends.profile, sequence=ends.receiver.state(SPI).sequence))
    again.close_window(SPI)
    assert {reason(again.inbound(packet, 0)) for packet in sent[:70]} == {DropReason.PSP_REPLAY}
    assert all(isinstance(again.inbound(packet, 0), Delivered) for packet in sent[70:])
    for nobody in (SPI + 1, ends.out):
        with pytest.raises(ConfigError, match="no association"):
            again.close_window(nobody)


def test_a_time_window_takes_what_is_not_too_old(engine_name: str) -> None:
    ends = Ends(engine_name, replace(profile(), replay=psp.ReplayRule(psp.Replay.TIME_WINDOW, margin_ns=10)))
    sent = [ends.send(udp()) for _ in range(30)]
    assert all(isinstance(ends.receiver.inbound(sent[at], 0), Delivered) for at in (19, 19, 9))
    ends.receiver.close_window(SPI)  # it promises nothing of single packets, before or after
    assert isinstance(ends.receiver.inbound(sent[19], 0), Delivered)
    assert reason(ends.receiver.inbound(sent[8], 0)) is DropReason.PSP_REPLAY
    assert ends.receiver.state(SPI).replay == 1


def test_without_a_rule_what_comes_twice_is_delivered_twice(engine_name: str) -> None:
    ends = Ends(engine_name)
    sent = ends.send(udp())
    ends.receiver.close_window(SPI)
    assert all(isinstance(ends.receiver.inbound(sent, 0), Delivered) for _ in range(2))
    assert ends.receiver.state(SPI).replay == 0


def test_time_ends_an_association_without_a_packet(engine_name: str) -> None:
    ends = Ends(engine_name, replace(profile(), hard=Lifetime(seconds=60)))
    ends.sender.handle_timeout(59 * SECOND)
    assert ends.sender.next_event() is None
    ends.sender.handle_timeout(60 * SECOND)
    event = ends.sender.next_event()
    assert event is not None
    assert (event.kind, event.sa, event.limit) == (EventKind.HARD_EXPIRED, ends.out, "seconds")


def test_what_can_not_be_installed_is_refused(engine_name: str) -> None:
    ends = Ends(engine_name)
    inward = sa(Direction.IN, ends.profile)
    with pytest.raises(ConfigError, match="is taken"):
        ends.receiver.install(inward)
    other = gateway(engine_name)
    with pytest.raises(ConfigError, match="another key"):
        other.install(replace(inward, key=bytes(16)))
    for spi in (0, 0x80000000, 1 << 32):
        with pytest.raises(ConfigError):
            replace(inward, spi=spi)
    with pytest.raises(ConfigError):
        replace(inward, key=bytes(15))
    assert inward.key.hex() not in repr(inward)
    ends.receiver.remove(SPI)
    for gone in (SPI, OUTBOUND_IDS + 7):
        with pytest.raises(ConfigError, match="no association"):
            ends.receiver.remove(gone)
