"""What a host needs of the exchange with its peers: associations for connections, and word of what becomes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..host.link import IPAddress
from .flows import FlowKind


@dataclass(eq=False, slots=True)
class Agreement:
    """One connection that both hosts have keys for.

    local, peer: addresses of this host and the other one, as their control connection has them.   identity: the peer's,
    of its certificate.   version: of PSP.   udp_port: where the peer takes PSP.   row: of the transmit table.
    spi: that the peer sends with.   handle: the exchange's own.
    """

    local: IPAddress
    peer: IPAddress
    identity: str
    version: int
    udp_port: int
    row: int
    spi: int
    handle: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A connection to be agreed on.   service_port: of the side that listens.   port: of the side that asks."""

    kind: FlowKind
    service_port: int
    port: int


HandOver = Callable[[], None]


class Refusal(Exception):
    """This host does not want a connection that a peer asks for.   sentence: for the peer."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence
        super().__init__(sentence)


class Party(ABC):
    """A host, as the exchange calls it."""

    @abstractmethod
    def offered(self, agreement: Agreement, wanted: Wanted) -> HandOver | None:
        """Take up a connection that a peer has asked for.   Raises Refusal.

        Returns what is still to be done, and can wait until the peer has its answer; Refusal then ends the connection.
        """

    @abstractmethod
    def rekeyed(self, agreement: Agreement, spi: int) -> None:
        """Take what comes with a fresh association too."""

    @abstractmethod
    def released(self, agreement: Agreement, spi: int) -> None:
        """Take what comes with an association no more: the peer sends with another."""

    @abstractmethod
    def over(self, agreement: Agreement, error: Exception | None) -> None:
        """Let go of a connection.   error: None if the peer has closed it in order."""


class Agreements(ABC):
    """The exchange, as a host uses it.   All in one asyncio loop."""

    @abstractmethod
    async def start(self, party: Party) -> None:
        """Listen for peers.   Raises ConfigError, PermissionNeeded, OSError."""

    @abstractmethod
    async def open(self, local: IPAddress, peer: IPAddress, wanted: Wanted) -> Agreement:
        """Agree on a connection.   Raises PeerRefused, PeerUnreachable, ConfigError for a peer that nobody knows."""

    @abstractmethod
    def close(self, agreement: Agreement) -> None:
        """Let the peer know that a connection is over."""

    @abstractmethod
    def tick(self, now: int) -> None:
        """Look at what time, limits and a rotation of the device ask for."""

    @abstractmethod
    def status(self) -> list[dict[str, Any]]:
        """Return what is to be told of each peer."""

    @abstractmethod
    def refused(self) -> dict[str, int]:
        """Return how many control connections came to nothing, by why."""

    @abstractmethod
    async def stop(self) -> None:
        """Let go of all peers."""
