"""Which protocols, modes and settings are set side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from .. import psp
from ..engine import open_engine
from ..errors import ConfigError
from ..protocols.crypt_offset import MAX_OCTETS, CryptOffset, Exposure
from ..protocols.eesp_format import EESPFormat
from ..protocols.encapsulation import Format
from ..protocols.flow_identifier import FlowKind, FlowPolicy
from ..protocols.ip import parse
from ..protocols.modes import Inner, Mode, Outer
from ..protocols.udp import UDPEncapsulation
from ..protocols.wespv2 import WESPv2Format
from ..sa import SA, Direction, Profile
from ..verdict import Delivered, Dropped

SUITE: Final = "aes-gcm-16"
# Addresses of documentation (RFC 5737, RFC 3849).
OUTERS: Final = {
    4: Outer(ip_address("203.0.113.1"), ip_address("203.0.113.2")),
    6: Outer(ip_address("2001:db8:f::1"), ip_address("2001:db8:f::2")),
}
_READABLE: Final = CryptOffset(Exposure.L3_L4)
_BY_FLOW: Final = FlowPolicy(FlowKind.FIVE_TUPLE)
_COOKIE: Final = bytes(5) + (7001).to_bytes(3, "big")  # a VNI, as VXLAN has it (RFC 7348 §5)

Protect = Callable[[bytes], bytes]
"""From an IP packet to the protected one; every call is the next packet of the same SA."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to protect a packet.

    protocol: a name of `wire.layouts`.   about: what its settings are, "" for the plain one.
    suite: of the SA; PSP has its own versions.
    """

    protocol: str
    mode: Mode
    about: str = ""
    suite: str = SUITE
    udp: bool = False
    format: Format | None = None
    crypt_offset_words: int | None = None
    cookie: bytes | None = None

    @property
    def title(self) -> str:
        """As a person calls it."""
        words = [self.protocol.upper().replace("V2", "v2"), self.mode.value]
        if self.udp and self.protocol != "psp":
            words.append("in UDP")
        return " ".join(words) + (f", {self.about}" if self.about else "")

    def protector(self, packet: bytes, version: int) -> Protect:
        """Return what protects packets like this one.   version: of the outer IP header, where the mode makes one.

        Raises ConfigError if packet is no IP packet.
        """
        datagram = parse(packet)
        if datagram is None:
            raise ConfigError("no IP packet", key="packet", expected="one IPv4 or IPv6 packet, whole")
        outer = None if self.mode is Mode.TRANSPORT else OUTERS[version]
        if self.protocol == "psp":
            return self._by_psp(outer)
        source, destination = ip_address(datagram.header.source), ip_address(datagram.header.destination)
        return self._by_sa(outer, Inner(source, destination) if self.mode is Mode.BEET else None)

    def _by_sa(self, outer: Outer | None, inner: Inner | None) -> Protect:
        profile = Profile(
            self.suite,
            self.mode,
            outer,
            inner,
            UDPEncapsulation() if self.udp else None,
            self.protocol,
            format=self.format,
        )
        # Nobody opens these packets: the keys are as good as any.
        sizes = profile.ways.key_sizes(profile)
        sa = SA(profile, Direction.OUT, 0x1234, bytes(max(sizes.key)), bytes(sizes.salt), bytes(sizes.auth_key))
        engine = open_engine("reference")
        number = engine.install(sa)

        def protect(packet: bytes) -> bytes:
            made = engine.encapsulate(number, packet, 0)
            if not isinstance(made, Delivered):
                raise ConfigError(
                    f"{self.title}: the packet is dropped: {made}", key="packet", expected="a smaller one"
                )
            return made.packet

        return protect

    def _by_psp(self, outer: Outer | None) -> Protect:
        words = self.crypt_offset_words or 0
        profile = psp.Profile(self.mode, 0, words, self.cookie, outer=outer)
        device = psp.Device(engine="reference")
        association = device.allocate()

        def protect(packet: bytes) -> bytes:
            made = device.encapsulate(profile, packet, association.spi, association.key)
            if isinstance(made, Dropped):
                raise ConfigError(
                    f"{self.title}: the packet is dropped: {made}", key="packet", expected="a smaller one"
                )
            return made

        return protect


def cases(version: int) -> Iterator[Case]:
    """Yield what is compared for packets of an IP version inside.   version: 4 or 6."""
    shown = WESPv2Format(_READABLE, MAX_OCTETS)
    named = WESPv2Format(flow_identifier=_BY_FLOW)
    sessions = EESPFormat(session=_BY_FLOW)
    yield Case("esp", Mode.TUNNEL)
    yield Case("esp", Mode.TUNNEL, "implicit IV", suite="aes-gcm-16-iiv")
    yield Case("esp", Mode.TUNNEL, udp=True)
    yield Case("wesp", Mode.TUNNEL)
    yield Case("wesp", Mode.TUNNEL, "integrity only", suite="aes-gmac")
    yield Case("wespv2", Mode.TUNNEL)
    yield Case("wespv2", Mode.TUNNEL, "headers readable", format=shown)
    yield Case("wespv2", Mode.TUNNEL, "flow identifier", format=named)
    yield Case("wespv2", Mode.TUNNEL, "flow identifier", udp=True, format=named)
    yield Case("eesp", Mode.TUNNEL)
    yield Case("eesp", Mode.TUNNEL, "implicit IV", suite="aes-gcm-16-iiv")
    yield Case("eesp", Mode.TUNNEL, "session per flow", format=sessions)
    yield Case("eesp", Mode.TUNNEL, "session per flow", udp=True, format=sessions)
    yield Case(
        "eesp",
        Mode.TUNNEL,
        "headers readable",
        format=EESPFormat(crypt_offset=_READABLE, max_crypt_offset_octets=MAX_OCTETS),
    )
    yield Case("psp", Mode.TUNNEL, udp=True)
    yield Case("psp", Mode.TUNNEL, "headers readable", udp=True, crypt_offset_words=6 if version == 4 else 11)
    yield Case("psp", Mode.TUNNEL, "cookie", udp=True, crypt_offset_words=2, cookie=_COOKIE)
    for protocol in ("esp", "wesp", "wespv2", "eesp"):
        yield Case(protocol, Mode.TRANSPORT)
    yield Case("psp", Mode.TRANSPORT, udp=True)
    yield Case("psp", Mode.TRANSPORT, "ports readable", udp=True, crypt_offset_words=1)
    for protocol in ("esp", "wesp", "wespv2", "eesp"):
        yield Case(protocol, Mode.BEET)
