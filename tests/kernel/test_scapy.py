"""Scapy as a third opinion: a real kernel's packets opened by its ESP layer and by both engines, alike."""

from __future__ import annotations

from typing import Any

import pytest

from wesper.kernel import Guest
from wesper.kernel.xfrm import Xfrm
from wesper.sa import Mode
from wesper.verdict import Delivered

from ..engine import oracle
from ..interop.test_scapy import CIPHERS
from .peer import Peer, send_datagram

pytestmark = [
    pytest.mark.needs_module("scapy", "scapy"),
    # Scapy registers ciphers that the cryptography package has given up
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
]
SUITES = [name for name, sizes in oracle.SUITES.items() if not sizes.implicit and name.split("+")[0] in CIPHERS]


@pytest.mark.parametrize("in_udp", [False, True], ids=["raw", "udp"])
@pytest.mark.parametrize(("mode", "version"), [(Mode.TUNNEL, 4), (Mode.TUNNEL, 6), (Mode.TRANSPORT, 4)])
@pytest.mark.parametrize("suite", SUITES)
def test_scapy_opens_what_the_kernel_seals(
    guest: Guest, xfrm: Xfrm, engine_name: str, suite: str, mode: Mode, version: int, in_udp: bool
) -> None:
    peer = Peer(guest, xfrm, engine_name, suite, mode=mode, inner=version, outer=version, in_udp=in_udp, esn=False)
    guest.call(send_datagram, str(peer.inner_there), str(peer.inner_here))
    packet = peer.wire.receive()
    assert packet is not None
    verdict = peer.engine.decapsulate(packet, 0)
    assert isinstance(verdict, Delivered)
    assert bytes(scapy_association(peer).decrypt(parsed(packet))) == verdict.packet
    assert verdict.packet.endswith(b"datagram")


def scapy_association(peer: Peer) -> Any:
    """Scapy's view of the SA from the guest to us."""
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.ipsec import ESP, SecurityAssociation

    cipher, _, integrity = peer.profile.suite.partition("+")
    header = None
    if peer.profile.mode is Mode.TUNNEL:
        kind = IP if peer.there.version == 4 else IPv6
        header = kind(src=str(peer.there), dst=str(peer.here))
    return SecurityAssociation(
        ESP,
        spi=peer.sa_in.spi,
        crypt_algo=CIPHERS[cipher],
        crypt_key=peer.keys.key + peer.keys.salt,
        auth_algo=integrity.replace("hmac-", "").upper() or None,
        auth_key=peer.keys.auth_key or None,
        tunnel_header=header,
        nat_t_header=UDP(sport=4500, dport=4500) if peer.profile.encapsulation else None,
    )


def parsed(packet: bytes) -> Any:
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    return IPv6(packet) if packet[0] >> 4 == 6 else IP(packet)
