"""What every protocol of the family offers to the engines: one object each, registered in `protocols/__init__.py`.

An engine never asks which protocol it has before it. A packet's way in has three steps: `locate` reads what stands at
fixed places and needs no SA, `read` everything that the SA's settings explain, `open` what the key gives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..crypto import Suite, Transform
from ..errors import ConfigError
from ..verdict import DropReason
from .flow_identifier import FlowPolicy
from .ip import Datagram
from .modes import Mode
from .options import Found


class Format:
    """Settings that one protocol has alone."""

    protocol: ClassVar[str]


class Terms(Protocol):
    """What a protocol has to know of an SA; `sa.Profile` is one."""

    @property
    def cipher(self) -> Suite: ...
    @property
    def mode(self) -> Mode: ...
    @property
    def esn(self) -> bool: ...
    @property
    def window(self) -> int: ...
    @property
    def check_padding(self) -> bool: ...
    @property
    def format(self) -> Format | None: ...


@dataclass(frozen=True, slots=True)
class KeySizes:
    """Octets of an SA's key material.   key: the lengths allowed."""

    key: tuple[int, ...]
    salt: int
    auth_key: int


@dataclass(frozen=True, slots=True)
class Located:
    """What an arriving packet shows to everyone.

    low: low half of the sequence number, None where only the SA tells where it stands.   flow: Session ID, else 0.
    """

    spi: int
    low: int | None
    flow: int = 0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is to be protected.

    flow: Session ID or flow identifier.   iv: also where it is not sent.
    payload: 0..65535 octets, TFC padding included; the packet in it is payload_octets long.
    datagram: the packet whose last octets are the payload's; None for dummies and AGGFRAG payloads.
    version: of the IP header in front.   in_udp: a UDP header comes between.
    """

    spi: int
    sequence: int
    flow: int
    iv: bytes
    next_header: int
    payload: bytes
    payload_octets: int
    datagram: Datagram | None
    version: int
    in_udp: bool


@dataclass(frozen=True, slots=True)
class Arrived:
    """A packet that has passed all checks that need no key.

    number: as sent: the low half, or all 64 bits; None: there is none.
    flow: Session ID or flow identifier.   sub_sa: whose window and keys; 0 where the SA has no Sub SAs.
    key_info: what the keys of a Sub SA or of a stateless sender are derived with; empty: the SA's own keys.
    payload_at: first octet behind the IV.   iv: as sent.   crypt_offset_octets: from payload_at.
    has_crypt_offset: the packet says so itself, also of 0 octets (EESP).
    option: the first unknown one that asks for more than to be skipped; `at` counts from the protocol's first octet.
    broken: what the peer agreed not to do and did; it is dropped for that once the ICV holds.
    """

    body: bytes
    number: int | None
    payload_at: int
    iv: bytes
    flow: int = 0
    sub_sa: int = 0
    key_info: bytes = b""
    crypt_offset_octets: int = 0
    has_crypt_offset: bool = False
    option: Found | None = None
    broken: DropReason | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """Authentic content of a packet.

    reason: set if it is authentic and still has to be dropped; then payload is empty.
    tear_down: the peer broke what was agreed on, and the SA should go.
    """

    next_header: int
    payload: bytes
    reason: DropReason | None = None
    tear_down: bool = False


class Encapsulation(ABC):
    """One protocol: its header around a payload, and off again.

    format: class of its settings, None if it has none.
    whole_numbers: all 64 bits of a sequence number are sent, and it is never 0; else the low half.
    takes_tfc: octets may come behind the payload, which says itself how long it is (RFC 4303 §2.7).
    """

    name: ClassVar[str]
    format: ClassVar[type[Format] | None] = None
    whole_numbers: ClassVar[bool] = False
    takes_tfc: ClassVar[bool] = True

    @abstractmethod
    def ip_protocol(self, terms: Terms) -> int:
        """Return the number in the IP header in front."""

    def marker(self) -> bytes:
        """Return what stands between a UDP header and this protocol."""
        return b""

    def check(self, terms: Terms) -> None:
        """Raise ConfigError if the protocol can't work on these terms."""
        if terms.mode is Mode.IPTFS:
            raise ConfigError(f"mode iptfs with protocol {self.name}", key="mode", expected="protocol eesp")

    def key_sizes(self, terms: Terms) -> KeySizes:
        """Return how long an SA's keys are."""
        cipher = terms.cipher
        return KeySizes(cipher.key_octets, cipher.salt_octets, cipher.auth_key_octets)

    def last_sequence(self, terms: Terms) -> int:
        """Return the highest number that may be sent."""
        return (1 << 64) - 1 if terms.esn else (1 << 32) - 1

    def can_send_dummies(self, terms: Terms) -> bool:
        """Whether a dummy can be sent: a mode that makes the outer header, and a format that can say it."""
        return terms.mode is Mode.TUNNEL

    # In

    @abstractmethod
    def locate(self, body: bytes) -> Located | DropReason:
        """Return SPI and what else stands at fixed places, without an SA.

        body: from the protocol's first octet to the end of the IP packet or UDP datagram.
        """

    @abstractmethod
    def quoted(self, body: bytes) -> Located | None:
        """Return the same from the first octets of a packet of our own, as ICMP quotes it; None: too few.

        low: None where the number is not among them.
        """

    def shown_flow(self, body: bytes) -> int | None:
        """Return how a packet that `locate` has read names its flow to everyone, None if it does not."""
        return None

    @abstractmethod
    def read(
        self, terms: Terms, body: bytes, version: int, in_udp: bool, *, looking: bool = False
    ) -> Arrived | DropReason:
        """Check all that needs no key, of a packet that `locate` has found the SA of.

        version: of the IP header in front.   looking: for who only wants to see what is inside: refuse nothing but what
        can't be opened.
        """

    @abstractmethod
    def unseal(self, terms: Terms, keys: Transform, arrived: Arrived, sequence: int) -> bytes | DropReason:
        """Return all that stands between IV and ICV, in clear, of what `read` has passed.   sequence: all 64 bits.

        Drops: AUTH.
        """

    @abstractmethod
    def unwrap(self, terms: Terms, arrived: Arrived, content: bytes) -> Opened:
        """Take trailer, Payload Info Header and padding off what `unseal` has returned."""

    def open(self, terms: Terms, keys: Transform, arrived: Arrived, sequence: int) -> Opened | DropReason:
        """Open what `read` has passed.   sequence: all 64 bits.

        Drops: AUTH; what is found behind it is inside Opened, so that the caller knows that the ICV held.
        """
        content = self.unseal(terms, keys, arrived, sequence)
        return content if isinstance(content, DropReason) else self.unwrap(terms, arrived, content)

    # Out

    def flow_policy(self, terms: Terms) -> FlowPolicy | None:
        """Return how flows are named, None where they have no name."""
        return None

    def flow(self, terms: Terms, flow: int) -> int:
        """Return as much of a flow's identifier as there is room for on the wire."""
        return 0

    def source_port(self, terms: Terms, flow: int, port: int) -> int:
        """Return the UDP source port of a flow.   port: the SA's."""
        return port

    @abstractmethod
    def seal(self, terms: Terms, keys: Transform, out: Outgoing) -> bytes:
        """Return the protected packet, from the protocol's first octet."""

    @abstractmethod
    def inner_mtu(self, terms: Terms, version: int, in_udp: bool, room: int) -> int:
        """Return the largest payload whose protected form surely has at most room octets.

        room: without UDP header, with the marker in it.   Where sizes differ from packet to packet: that of the worst.
        """

    # Derived keys

    def sends_numbers(self, terms: Terms) -> bool:
        """Whether packets carry a sequence number."""
        return True

    def has_sub_sas(self, terms: Terms) -> bool:
        """Whether a packet's flow says which Sub SA it belongs to."""
        return False

    def key_info(self, terms: Terms, spi: int, sequence: int, flow: int) -> bytes:
        """Return what an outgoing packet's keys are derived with, empty: the SA's own keys."""
        return b""

    def derive(self, terms: Terms, key: bytes, key_info: bytes) -> tuple[bytes, bytes]:
        """Return key and salt.   key: the SA's; key_info: not empty, of `key_info` or of `Arrived`."""
        raise NotImplementedError(f"{self.name} derives no keys")
