"""PSP: from an IP packet to a protected one and back (PSP Architecture Specification of April 2022).

No state and no clock here: SPI, key and IV come in with the packet, and the receiver's device keys are an argument.
What the specification leaves open is decided as docs/psp.md says.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..crypto.psp import VERSIONS, DeviceKey, Version, version
from ..crypto.siphash import siphash
from ..errors import ConfigError
from ..verdict import DropReason
from ..wire.ipv4 import IPv4
from ..wire.ipv6 import IPv6
from ..wire.numbers import DCCP, IPV4, IPV6, NO_NEXT_HEADER, SCTP, TCP, UDP_LITE
from ..wire.numbers import UDP as UDP_PROTOCOL
from ..wire.psp import COOKIE, ICV, PORT, PSP
from ..wire.udp import UDP
from . import modes
from .ip import Datagram, checksum, parse, pseudo_header
from .modes import Mode, Outer

UDP_HEADER: Final = 8
FIXED: Final = PSP.SIZE  # octets of the header that every packet has
INDEX_MASK: Final = 0x7FFFFFFF
FIRST_PORT: Final = 49152  # RFC 6335 §6: dynamic ports
_LARGEST: Final = 65535
_WITH_PORTS: Final = frozenset((TCP, UDP_PROTOCOL, SCTP, DCCP, UDP_LITE))
_TUNNELLED: Final = (IPV4, IPV6)
# What a tunnel's end wants of modes.release: the inner packet's own DSCP.
_PLAIN: Final = Outer(ip_address("0.0.0.0"), ip_address("0.0.0.0"))


class SourcePort(enum.Enum):
    """Where the UDP source port comes from.   A flow always has the same one."""

    HASH = "hash"  # keyed hash of the inner flow, within 49152..65535
    TABLE = "table"  # the hash chooses among ports given, 16 or more
    FIXED = "fixed"  # the one port given
    XOR = "xor"  # google/psp's: source XOR destination port of TCP and UDP, else 1000; may be any number


@dataclass(frozen=True, slots=True)
class Profile:
    """What many PSP associations share: how their packets look.

    mode: transport or tunnel.   version: 0..3.
    crypt_offset_words: 0..63, in 4 octets, counted from the end of the IV, so over cookie and extension too; GMAC: 0.
    cookie: virtualization cookie, 8 octets, None for none.   extension: octets behind it, a multiple of 8, up to 2024.
    outer: of tunnel mode; its flow label, if None, comes from the flow's hash. None in tunnel mode: the outer header is
    made of the inner one, as google/psp does.
    port: UDP destination.   source_port, ports: see SourcePort.   checksum: compute UDP's, else 0.
    sample, drop: the S and D bits.   reserved: the two R bits, for tests.
    mtu: of the path, octets from the outer IP header on.
    Raises ConfigError.
    """

    mode: Mode = Mode.TRANSPORT
    version: int = 0
    crypt_offset_words: int = 0
    cookie: bytes | None = None
    extension: bytes = b""
    outer: Outer | None = None
    port: int = PORT
    source_port: SourcePort = SourcePort.HASH
    ports: tuple[int, ...] = ()
    checksum: bool = False
    sample: bool = False
    drop: bool = False
    reserved: int = 0
    mtu: int = _LARGEST

    def __post_init__(self) -> None:
        gmac = version(self.version).gmac
        wanted = {SourcePort.FIXED: range(1, 2), SourcePort.TABLE: range(16, 65536)}.get(self.source_port, range(1))
        for what, key, good, expected in (
            (self.mode.value, "mode", self.mode is not Mode.BEET, "transport or tunnel"),
            (
                str(self.crypt_offset_words),
                "crypt_offset_words",
                0 <= self.crypt_offset_words <= (0 if gmac else 63),
                "0 for AES-GMAC" if gmac else "0..63",
            ),
            (_count(self.cookie), "cookie", self.cookie is None or len(self.cookie) == COOKIE, f"{COOKIE} octets"),
            (
                _count(self.extension),
                "extension",
                len(self.extension) % 8 == 0 and self.header_octets <= 2048,
                "a multiple of 8, header and all within 2048 octets",
            ),
            ("given", "outer", self.outer is None or self.mode is Mode.TUNNEL, "None in transport mode"),
            (str(self.port), "port", 0 < self.port <= 65535, "1..65535"),
            (
                f"{len(self.ports)} ports",
                "ports",
                len(self.ports) in wanted and all(1024 <= port <= 65535 for port in self.ports),
                {SourcePort.FIXED: "one, 1024..65535", SourcePort.TABLE: "16 or more, 1024..65535"}.get(
                    self.source_port, "none"
                ),
            ),
            (str(self.reserved), "reserved", 0 <= self.reserved <= 3, "0..3"),
            (str(self.mtu), "mtu", 68 <= self.mtu <= _LARGEST, f"68..{_LARGEST}"),
        ):
            if not good:
                raise ConfigError(what, key=key, expected=expected)

    @property
    def header_octets(self) -> int:
        """Octets of the PSP header with cookie and extension."""
        return FIXED + (0 if self.cookie is None else COOKIE) + len(self.extension)

    @property
    def overhead(self) -> int:
        """Octets that protection adds behind the IP header that stays or comes: UDP and PSP header, ICV."""
        return UDP_HEADER + self.header_octets + ICV


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a packet is not sent.   mtu: with PSP_OUT_TOO_BIG, the largest packet that would fit."""

    reason: DropReason
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """An authentic packet.

    packet: the inner one, from its IP header; empty where reason says that there is none.
    version, spi, iv: of its header.   cookie: None for none.   extension: octets behind it.   sample: the S bit.
    octets: as rx_bytes counts them: from the end of the IV to the end of the payload.
    reason: PSP_SAMPLED, PSP_EMPTY, PSP_BAD_INNER or PSP_ECN_DROP if it is dropped all the same.
    """

    packet: bytes
    spi: int
    iv: int
    version: int
    cookie: bytes | None
    extension: bytes
    sample: bool
    octets: int
    reason: DropReason | None = None


def seal(version: Version, key: bytes, packet: bytes) -> bytes:
    """Return a PSP packet protected.   packet: PSP header, extension and payload in clear; Crypt Offset within them."""
    nonce, clear = _nonce_and_clear(version, packet)
    return packet[:clear] + AESGCM(key).encrypt(nonce, packet[clear:], packet[:clear])


def open_sealed(version: Version, key: bytes, sealed: bytes) -> bytes | None:
    """Return PSP header, extension and payload in clear, None if the ICV does not fit.

    sealed: at least 32 octets, Crypt Offset within them.   The ICV is looked at also where nothing is encrypted.
    """
    nonce, clear = _nonce_and_clear(version, sealed)
    if version.gmac:
        clear = len(sealed) - ICV
    try:
        return sealed[:clear] + AESGCM(key).decrypt(nonce, sealed[clear:], sealed[:clear])
    except InvalidTag:
        return None


def _nonce_and_clear(version: Version, packet: bytes) -> tuple[bytes, int]:
    # The nonce is SPI and IV as they stand; AAD is all that stands in clear.
    return packet[4:FIXED], len(packet) if version.gmac else FIXED + 4 * (packet[2] & 63)


def encapsulate(profile: Profile, hash_key: bytes, packet: bytes, spi: int, key: bytes, iv: int) -> bytes | Refused:
    """Return a packet protected, from its outer IP header.

    hash_key: 16 octets, of source ports and flow labels.   key: as long as the version's.   iv: never used with key.
    """
    datagram = parse(packet)
    if datagram is None:
        return Refused(DropReason.PSP_OUT_BAD_PACKET)
    if not spi & INDEX_MASK:
        return Refused(DropReason.PSP_OUT_SPI)
    flow = flow_hash(hash_key, datagram)
    head = _head(profile, datagram, flow, spi, iv)
    if head is None:
        return Refused(DropReason.PSP_OUT_MODE)
    if profile.mode is Mode.TUNNEL:
        next_header, payload = (IPV4 if datagram.version == 4 else IPV6), datagram.packet
    else:
        next_header, payload = datagram.upper, datagram.packet[datagram.upper_at :]
    header = PSP(
        next_header=next_header,
        header_units=profile.header_octets // 8 - 1,
        reserved=profile.reserved,
        crypt_offset_words=profile.crypt_offset_words,
        sample=int(profile.sample),
        drop=int(profile.drop),
        version=profile.version,
        cookie_present=int(profile.cookie is not None),
        spi=spi,
        iv=iv,
        cookie=profile.cookie or b"",
        extension=profile.extension,
    )
    if FIXED + 4 * profile.crypt_offset_words > profile.header_octets + len(payload):
        return Refused(DropReason.PSP_OUT_CRYPT_OFFSET)
    octets = len(head.head) + profile.overhead + len(payload)
    dont_fragment = head.head[0] >> 4 == 6 or bool(head.head[6] & 0x40)
    if octets > (profile.mtu if dont_fragment else _LARGEST):
        return Refused(DropReason.PSP_OUT_TOO_BIG, max(profile.mtu - (octets - len(datagram.packet)), 0))
    body = seal(version(profile.version), key, header.build() + payload)
    udp = UDP(_source_port(profile, datagram, flow), profile.port, UDP_HEADER + len(body))
    if profile.checksum:
        total = checksum(pseudo_header(*head.addresses, UDP_PROTOCOL, UDP_HEADER + len(body)) + udp.build() + body)
        udp.checksum = total or 0xFFFF  # RFC 768: zero would mean none
    return head.finish(UDP_PROTOCOL, udp.build() + body)


def payload_octets(sent: bytes) -> int:
    """Return what tx_bytes counts of a protected packet: octets from the end of the IV to the end of the payload."""
    datagram = parse(sent)
    assert datagram is not None  # encapsulate made it
    return len(sent) - datagram.upper_at - UDP_HEADER - FIXED - ICV


def decapsulate(
    device_key: Callable[[int], DeviceKey | None],
    versions: Collection[int],
    port: int,
    verify_checksum: bool,
    packet: bytes,
) -> Opened | DropReason:
    """Open a packet with nothing but the device's keys.

    device_key: by the SPI's top bit.   versions: those enabled.   verify_checksum: of UDP, where it is not zero.
    Drops: see DropReason; those inside Opened are of authentic packets.
    """
    located = locate(versions, port, verify_checksum, packet)
    if isinstance(located, DropReason):
        return located
    keys = device_key(located.spi >> 31)
    if keys is None:
        return DropReason.PSP_NO_DEVICE_KEY
    opened = open_sealed(located.version, keys.derive(located.spi, located.version), located.sealed)
    return DropReason.PSP_AUTH if opened is None else release(located, opened)


@dataclass(frozen=True, slots=True)
class Located:
    """A packet that could be one of PSP's, before any key has said so.   sealed: from PSP header to ICV."""

    datagram: Datagram
    sealed: bytes
    version: Version
    spi: int


def locate(versions: Collection[int], port: int, verify_checksum: bool, packet: bytes) -> Located | DropReason:
    """Find PSP in a packet, and check what needs no key.   Arguments as in `decapsulate`."""
    datagram = parse(packet)
    if datagram is None:
        return DropReason.PSP_BAD_IP
    sealed = _body(datagram, port, verify_checksum)
    if isinstance(sealed, DropReason):
        return sealed
    used = header_version(sealed, versions)
    if isinstance(used, DropReason):
        return used
    spi = int.from_bytes(sealed[4:8], "big")
    return Located(datagram, sealed, used, spi) if spi & INDEX_MASK else DropReason.PSP_SPI


def release(located: Located, opened: bytes) -> Opened:
    """Return what an authentic packet holds.   opened: header, extension and payload in clear."""
    header = PSP.parse(opened)
    packet, reason = _release(located.datagram, header.next_header, opened[len(header) :])
    if reason is None and header.drop:
        reason = DropReason.PSP_SAMPLED
    return Opened(
        packet,
        located.spi,
        header.iv,
        header.version,
        header.cookie if header.cookie_present else None,
        header.extension,
        bool(header.sample),
        len(opened) - FIXED,
        reason,
    )


def _body(datagram: Datagram, port: int, verify_checksum: bool) -> bytes | DropReason:
    """Return PSP header to ICV out of an IP packet."""
    packet, at = datagram.packet, datagram.upper_at
    if datagram.upper != UDP_PROTOCOL:
        return DropReason.NOT_FOR_US
    if datagram.offset:
        return DropReason.PSP_FRAGMENT  # it shows no port; a host reassembles before it offers packets
    if len(packet) < at + UDP_HEADER:
        return DropReason.PSP_BAD_UDP
    udp = UDP.parse(packet, at)
    if udp.destination_port != port:
        return DropReason.NOT_FOR_US
    if datagram.fragment:
        return DropReason.PSP_FRAGMENT
    octets = len(packet) - at
    if udp.length != octets:
        return DropReason.PSP_BAD_UDP
    if verify_checksum and udp.checksum:
        header = datagram.header
        if checksum(pseudo_header(header.source, header.destination, UDP_PROTOCOL, octets) + packet[at:]):
            return DropReason.PSP_CHECKSUM
    return packet[at + UDP_HEADER :]


def header_version(body: bytes, versions: Collection[int] = tuple(VERSIONS)) -> Version | DropReason:
    """Return a header's version, or what is wrong with the header that needs no key to be seen.

    body: from PSP header to ICV.   versions: those enabled.
    """
    if len(body) < FIXED + ICV:
        return DropReason.PSP_TRUNCATED
    units, words, flags = body[1], body[2] & 63, body[3]
    if not flags & 1:
        return DropReason.PSP_ALWAYS_ONE
    code = (flags >> 2) & 15
    if code not in versions:
        return DropReason.PSP_VERSION
    used = version(code)
    if units < (2 if flags & 2 else 1) or 8 * (units + 1) + ICV > len(body):
        return DropReason.PSP_HEADER_LENGTH
    if not used.gmac and FIXED + 4 * words + ICV > len(body):
        return DropReason.PSP_CRYPT_OFFSET
    return used


def _release(datagram: Datagram, next_header: int, payload: bytes) -> tuple[bytes, DropReason | None]:
    """Put the inner packet together."""
    if next_header == NO_NEXT_HEADER or not payload:
        return b"", DropReason.PSP_EMPTY
    mode = Mode.TUNNEL if next_header in _TUNNELLED else Mode.TRANSPORT
    inner, _ = modes.release(mode, datagram, datagram.upper_at, datagram.upper_link, next_header, payload, _PLAIN, None)
    if isinstance(inner, bytes):
        return inner, None
    return b"", DropReason.PSP_ECN_DROP if inner is DropReason.ECN_DROP else DropReason.PSP_BAD_INNER


def _head(profile: Profile, datagram: Datagram, flow: int, spi: int, iv: int) -> modes.Enclosed | None:
    """Return the IP header to come in front; None for what the mode can't take."""
    if profile.mode is Mode.TRANSPORT:
        if datagram.fragment or datagram.upper in _TUNNELLED:
            return None  # PSP tells a tunnel by Next Header alone
        head = bytearray(datagram.packet[: datagram.upper_at])
        return modes.Enclosed(datagram.upper, b"", head, datagram.upper_link)
    if profile.outer is None:
        return None if datagram.fragment else _copied(datagram)  # a copied header would make another fragment
    enclosed = modes.enclose(Mode.TUNNEL, datagram, profile.outer, None, modes.outer_identification(iv, spi))
    assert isinstance(enclosed, modes.Enclosed)  # a tunnel takes every packet
    if profile.outer.flow_label is None and enclosed.head[0] >> 4 == 6:
        word = int.from_bytes(enclosed.head[:4], "big") & ~0xFFFFF
        enclosed.head[:4] = (word | (flow >> 44)).to_bytes(4, "big")
    return enclosed


def _copied(datagram: Datagram) -> modes.Enclosed:
    """google/psp's tunnel: the outer header is the inner one without IPv4 options or extension headers."""
    if isinstance(datagram.header, IPv4):
        head = bytearray(datagram.packet[:20])
        head[0] = 0x45
        return modes.Enclosed(IPV4, b"", head, 9)
    return modes.Enclosed(IPV6, b"", bytearray(datagram.packet[: IPv6.SIZE]), 6)


def flow_hash(key: bytes, datagram: Datagram) -> int:
    """Return a flow's 64-bit hash: addresses, protocol and, where the packet shows them, ports.

    Fragments all count as without ports, so that they stay together.
    """
    header, at = datagram.header, datagram.upper_at
    ports = bytes(4)
    if datagram.upper in _WITH_PORTS and not datagram.fragment and at + 4 <= len(datagram.packet):
        ports = datagram.packet[at : at + 4]
    return siphash(key, header.source + header.destination + bytes((datagram.upper,)) + ports)


def _source_port(profile: Profile, datagram: Datagram, flow: int) -> int:
    match profile.source_port:
        case SourcePort.HASH:
            return FIRST_PORT | (flow & 0x3FFF)
        case SourcePort.TABLE:
            return profile.ports[(flow & 0xFFFFFFFF) % len(profile.ports)]
        case SourcePort.FIXED:
            return profile.ports[0]
        case SourcePort.XOR:
            at = datagram.upper_at
            shown = datagram.upper in (TCP, UDP_PROTOCOL) and at + 4 <= len(datagram.packet)
            if not shown:
                return PORT
            source, destination = struct.unpack_from(">HH", datagram.packet, at)
            return int(source ^ destination)


def _count(octets: bytes | None) -> str:
    return f"{len(octets or b'')} octets"
