"""A second opinion from Scapy's ESP layer: we open what it protects, and it opens what we protect."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from wesper.sa import AddressRange, Mode, UDPEncapsulation

from ..engine import oracle
from ..engine.packets import A4, A6, B4, B6, LEFT4, LEFT6, RIGHT4, RIGHT6, ipv4, ipv6, udp
from ..pcap.crossing import SPI, captured, decrypted, encrypted, static_sa

pytestmark = [
    pytest.mark.needs_module("scapy", "scapy"),
    # Scapy registers ciphers that the cryptography package has given up
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
]

# Scapy's names. It sends every IV, so RFC 8750's implicit ones are none of its; short ICVs it takes from the wrong
# place (secdev/scapy issue 4903), so aes-gcm-8, aes-gcm-12, aes-ccm-8 and aes-ccm-12 are left out.
CIPHERS = {
    "aes-gcm-16": "AES-GCM",
    "chacha20-poly1305": "CHACHA20-POLY1305",
    "aes-gmac": "AES-NULL-GMAC",
    "aes-ccm-16": "AES-CCM",
    "aes-cbc": "AES-CBC",
    "null": "NULL",
}
SUITES = [(name, octets) for name, octets in oracle.ALL_SUITES if name.split("+")[0] in CIPHERS]
V6 = {"local": AddressRange.parse(str(LEFT6)), "remote": AddressRange.parse(str(RIGHT6))}
SHAPES: dict[str, dict[str, Any]] = {
    "tunnel": {},
    "tunnel-v6": V6,
    "tunnel-udp": {"encapsulation": UDPEncapsulation()},
    "transport": {"mode": Mode.TRANSPORT},
    "transport-v6": {"mode": Mode.TRANSPORT, **V6},
}
IDS = [f"{name}/{8 * octets}" for name, octets in SUITES]


def association(suite: str, octets: int, shape: str, esn: int | None) -> Any:
    """Scapy's SA.   esn: the high half, None for 32-bit numbers."""
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.ipsec import ESP, SecurityAssociation

    keys = oracle.Keys.of(suite, octets)
    cipher, _, integrity = suite.partition("+")
    header = None
    if shape.startswith("tunnel"):
        header = IPv6(src=str(LEFT6), dst=str(RIGHT6)) if "v6" in shape else IP(src=str(LEFT4), dst=str(RIGHT4))
    return SecurityAssociation(
        ESP,
        spi=SPI,
        seq_num=1,
        crypt_algo=CIPHERS[cipher],
        crypt_key=keys.key + keys.salt,
        auth_algo=integrity.replace("hmac-", "").upper() or None,
        auth_key=keys.auth_key or None,
        tunnel_header=header,
        nat_t_header=UDP(sport=4500, dport=4500, chksum=0) if "udp" in shape else None,
        esn_en=esn is not None,
        esn=esn or 0,
    )


def inner(shape: str) -> bytes:
    """A packet that the SA takes."""
    if shape == "transport":
        return ipv4(udp(ends=(LEFT4, RIGHT4)), 17, source=LEFT4, destination=RIGHT4)
    if shape == "transport-v6":
        return ipv6(udp(ends=(LEFT6, RIGHT6)), 17, source=LEFT6, destination=RIGHT6)
    return ipv6(udp(ends=(A6, B6)), 17) if "v6" in shape else ipv4(udp(ends=(A4, B4)), 17)


def parsed(octets: bytes) -> Any:
    import scapy.layers.ipsec  # noqa: F401 - makes ESP known as what follows IP
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    return IPv6(octets) if octets[0] >> 4 == 6 else IP(octets)


def ours(suite: str, octets: int, shape: str, esn: int | None) -> Any:
    sa = static_sa(suite, **SHAPES[shape], esn=esn is not None, sequence=(esn or 0) << 32)
    key = oracle.Keys.of(suite, octets).key
    return replace(sa, key=key)


@pytest.mark.parametrize("esn", [None, 5], ids=["32-bit", "esn"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("suite", "octets"), SUITES, ids=IDS)
def test_we_open_what_scapy_protects(suite: str, octets: int, shape: str, esn: int | None, engine_name: str) -> None:
    packet = inner(shape)
    protected = bytes(association(suite, octets, shape, esn).encrypt(parsed(packet)))
    crossed = decrypted(captured([protected]), [ours(suite, octets, shape, esn)], engine_name)
    assert crossed.tally.dropped == {}
    assert crossed.inner == [packet]


@pytest.mark.parametrize("esn", [None, 5], ids=["32-bit", "esn"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("suite", "octets"), SUITES, ids=IDS)
def test_scapy_opens_what_we_protect(suite: str, octets: int, shape: str, esn: int | None, engine_name: str) -> None:
    packet = inner(shape)
    crossed = encrypted(captured([packet]), [ours(suite, octets, shape, esn)], engine_name)
    protected = parsed(crossed.records[0].data)
    opened = association(suite, octets, shape, esn).decrypt(protected)
    assert bytes(opened) == packet


def test_scapy_notices_a_changed_octet() -> None:
    """The check that the tests above rely on is one."""
    from scapy.layers.ipsec import IPSecIntegrityError

    crossed = encrypted(captured([inner("tunnel")]), [ours("aes-gcm-16", 16, "tunnel", None)], "reference")
    octets = crossed.records[0].data
    assert ip_address(octets[12:16]) == LEFT4
    with pytest.raises(IPSecIntegrityError):
        association("aes-gcm-16", 16, "tunnel", None).decrypt(parsed(octets[:-1] + bytes([octets[-1] ^ 1])))
