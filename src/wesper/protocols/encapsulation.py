"""What every protocol of the family offers to the engines: one object each, registered in `protocols/__init__.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ..crypto import Suite, Transform
from ..verdict import DropReason


@dataclass(frozen=True, slots=True)
class Opened:
    """Authentic content of a packet.   reason: set if it is authentic and still has to be dropped."""

    next_header: int
    payload: bytes
    reason: DropReason | None = None


class Encapsulation(ABC):
    """One protocol: its header around a payload, and off again."""

    name: ClassVar[str]
    ip_protocol: ClassVar[int]

    @abstractmethod
    def locate(self, body: bytes) -> tuple[int, int] | DropReason:
        """Return SPI and low half of the sequence number, without a key.

        body: from the protocol's first octet to the end of the IP packet or UDP datagram.
        Drops: TRUNCATED_HEADER.
        """

    @abstractmethod
    def fits(self, suite: Suite, body: bytes) -> bool:
        """Whether body has room for IV, trailer and ICV, and whole blocks between them."""

    @abstractmethod
    def encapsulate(
        self,
        suite: Suite,
        keys: Transform,
        spi: int,
        sequence: int,
        esn: bool,
        iv: bytes,
        next_header: int,
        payload: bytes,
    ) -> bytes:
        """Return the protected packet, from the protocol's first octet.

        sequence: all 64 bits.   iv: also where it is not sent.   payload: 0..65535 octets, TFC padding included.
        """

    @abstractmethod
    def decapsulate(
        self, suite: Suite, keys: Transform, body: bytes, sequence: int, esn: bool, check_padding: bool
    ) -> Opened | DropReason:
        """Open a packet that `fits`.   sequence: all 64 bits, inferred.

        Drops: AUTH; inside Opened: BAD_PADDING, so that the caller knows that the ICV held.
        """

    @abstractmethod
    def overhead(self, suite: Suite) -> int:
        """Return the octets added besides padding and its two trailer octets."""

    @abstractmethod
    def inner_mtu(self, suite: Suite, room: int) -> int:
        """Return the largest payload whose protected form has at most room octets."""
