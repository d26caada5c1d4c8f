"""Networks within networks: each packet goes by the narrowest, whatever the order in the file."""

from __future__ import annotations

from ipaddress import ip_address
from struct import pack
from types import SimpleNamespace
from typing import cast

import pytest

from wesper.engine import open_engine
from wesper.sa import SA, Action, AddressRange, Direction, Mode, Outer, Policy, Profile, Selector
from wesper.tunnel.daemon import Daemon
from wesper.verdict import Delivered

NETWORKS = {
    "wide": ("10.0.0.0/8", "192.168.1.0/24", "fd00::/16"),
    "office": ("10.1.0.0/16", "192.168.0.0/16", "fd00:1::/32"),
    "host": ("10.1.2.3/32",),
    "rest": ("0.0.0.0/0",),
}
TO = {
    "10.2.0.1": "wide",
    "10.1.0.1": "office",
    "10.1.2.3": "host",
    "192.168.1.1": "wide",
    "192.168.2.1": "office",
    "8.8.8.8": "rest",
    "fd00:1::1": "office",
    "fd00:2::1": "wide",
}


def packet(to: str) -> bytes:
    """Return a packet of 20 octets of some protocol to an address."""
    peer = ip_address(to)
    if peer.version == 6:
        return pack(">IHBB16s16s", 6 << 28, 0, 59, 64, ip_address("fd00:9::1").packed, peer.packed)
    head = pack(">BBHHHBBH4s4s", 0x45, 0, 20, 0, 0, 64, 253, 0, b"\xac\x10\0\1", peer.packed)
    total = sum(head[at] << 8 | head[at + 1] for at in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + pack(">H", total ^ 0xFFFF) + head[12:]


@pytest.mark.parametrize("engine", ["reference", pytest.param("native", marks=pytest.mark.needs_native)])
@pytest.mark.parametrize("names", [list(NETWORKS), list(reversed(NETWORKS))], ids=["wide-first", "narrow-first"])
def test_a_packet_goes_by_the_narrowest_network(names: list[str], engine: str) -> None:
    opened = open_engine(engine)
    outer = Outer(ip_address("192.0.2.1"), ip_address("192.0.2.2"))
    sas, tunnels = {}, []
    for number, name in enumerate(names):
        key = bytes([number + 1]) * 16
        sa = SA(Profile("aes-gcm-16", Mode.TUNNEL, outer), Direction.OUT, 0x1000 + number, key, b"salt")
        sas[opened.install(sa)] = name
        ranges = tuple(map(AddressRange.parse, NETWORKS[name]))
        policy = Policy(Action.PROTECT, (Selector((), ranges),), ((None, list(sas)[-1]),), name)
        tunnels.append(SimpleNamespace(policy=lambda policy=policy: policy))
    Daemon.set_policies(cast(Daemon, SimpleNamespace(engine=opened, tunnels=tunnels)))
    went = {}
    for to in TO:
        (verdict,) = opened.outbound(packet(to), 0)
        assert isinstance(verdict, Delivered), verdict
        went[to] = sas[verdict.sa]
    assert went == TO
