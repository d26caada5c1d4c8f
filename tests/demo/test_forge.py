from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest

from wesper import psp
from wesper.demo.forge import forgeries
from wesper.engine import open_engine
from wesper.protocols.ip import checksum
from wesper.sa import (
    SA,
    CryptOffset,
    Direction,
    EESPFormat,
    Exposure,
    FlowKind,
    FlowPolicy,
    Mode,
    Outer,
    Profile,
    UDPEncapsulation,
    WESPv2Format,
)
from wesper.verdict import Delivered, Dropped, DropReason

HERE, THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")
ECHO = bytes.fromhex("4500001c0000400040016ba90a0000010a00000208004f5600013005")
KEYS = {"spi": 0x1000, "key": bytes(range(16)), "salt": b"salt"}
FORMATS = {
    "wespv2": WESPv2Format(
        CryptOffset(Exposure.L3), max_crypt_offset_octets=60, flow_identifier=FlowPolicy(FlowKind.FIVE_TUPLE)
    ),
    "eesp": EESPFormat(session=FlowPolicy(FlowKind.FIVE_TUPLE)),
}
ENGINES = ["reference", pytest.param("native", marks=pytest.mark.needs_native)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("around", [None, UDPEncapsulation()], ids=["in IP", "in UDP"])
@pytest.mark.parametrize(("protocol", "sorts"), [("esp", 4), ("wesp", 1), ("wespv2", 2), ("eesp", 1)])
def test_each_forgery_is_dropped_for_the_reason_it_names(
    engine: str, around: UDPEncapsulation | None, protocol: str, sorts: int
) -> None:
    sender, receiver = open_engine(engine), open_engine(engine)
    look = {"encapsulation": around, "protocol": protocol, "format": FORMATS.get(protocol)}
    sa = sender.install(SA(Profile("aes-gcm-16", outer=Outer(HERE, THERE), **look), Direction.OUT, **KEYS))
    receiver.install(SA(Profile("aes-gcm-16", outer=Outer(THERE, HERE), **look), Direction.IN, **KEYS))
    seen = []
    for _ in range(20):
        verdict = sender.encapsulate(sa, ECHO, 0)
        assert isinstance(verdict, Delivered)
        assert isinstance(receiver.decapsulate(verdict.packet, 0), Delivered)
        seen.append(verdict.packet)
    found: Counter[DropReason] = Counter()
    for forgery in forgeries(protocol, seen, 0x2000):
        assert len(forgery.packets) == len(seen)
        for packet in forgery.packets:
            assert checksum(packet[:20]) == 0, "the IP header's checksum is right"
            assert int.from_bytes(packet[2:4], "big") == len(packet)
            verdict = receiver.decapsulate(packet, 0)
            assert isinstance(verdict, Dropped)
            assert verdict.reason is forgery.reason
            found[verdict.reason] += 1
    assert receiver.drops() == found == dict.fromkeys(found, 20)
    assert len(found) == sorts
    after = sender.encapsulate(sa, ECHO, 0)
    assert isinstance(after, Delivered)
    assert isinstance(receiver.decapsulate(after.packet, 0), Delivered), "and what is real still arrives"


@pytest.mark.parametrize("engine", ENGINES)
def test_each_forgery_of_psp_is_dropped_for_the_reason_it_names(engine: str) -> None:
    device_key, spi = bytes(range(32)), 0x1000
    key = psp.derive_key(device_key, spi, 0)
    sender, receiver = psp.open_gateway(engine), psp.open_gateway(engine)
    receiver.set_device_keys((device_key, None))
    look = psp.Profile(Mode.TUNNEL, outer=Outer(HERE, THERE))
    sa = sender.install(psp.GatewaySA(psp.GatewayProfile(look, HERE, THERE), Direction.OUT, spi, key))
    receiver.install(psp.GatewaySA(psp.GatewayProfile(look, THERE, HERE), Direction.IN, spi, key))
    seen = []
    for _ in range(20):
        verdict = sender.encapsulate(sa, ECHO, 0)
        assert isinstance(verdict, Delivered)
        seen.append(verdict.packet)
    found: Counter[DropReason] = Counter()
    for forgery in forgeries("psp", seen, 0x80000001):
        for packet in forgery.packets:
            verdict = receiver.inbound(packet, 0)
            assert isinstance(verdict, Dropped)
            assert verdict.reason is forgery.reason
            found[verdict.reason] += 1
    assert receiver.drops() == found == dict.fromkeys(found, 20)
    assert len(found) == 3
    assert all(isinstance(receiver.inbound(packet, 0), Delivered) for packet in seen), "and what is real still arrives"


def test_what_is_not_esp_can_not_be_forged() -> None:
    with pytest.raises(ValueError, match="IPv4"):
        forgeries("esp", [b"\x60" + bytes(60)], 1)
    with pytest.raises(ValueError, match="no protocol"):
        forgeries("esp", [ECHO], 1)
