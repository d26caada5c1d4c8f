"""What a PSP exchange is offered with, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..crypto.psp import VERSIONS
from ..errors import ConfigError, WesperError
from . import exchange_messages as messages
from .exchange_messages import EndReason, Keys, Kind, Ports, SPIs
from .exchange_runs import Run


class ExchangeEnded(WesperError):
    """The exchange is over.   reason: why."""

    exit_code = 4

    def __init__(self, reason: EndReason, sentence: str) -> None:
        self.reason = reason
        super().__init__(sentence)


@dataclass(frozen=True, slots=True)
class Terms:
    """What one side offers.

    psp_versions: those that it receives.   udp_port: where.   most_associations: that the peer may have at a time.
    most_batch: in one message.   raw: raw connections are agreed to by themselves.
    """

    psp_versions: frozenset[int] = frozenset(VERSIONS)
    udp_port: int = 1000
    most_associations: int = 1 << 20
    most_batch: int = messages.MOST_BATCH
    raw: bool = False

    def __post_init__(self) -> None:
        for key, good, expected in (
            ("psp_versions", self.psp_versions and self.psp_versions <= VERSIONS.keys(), "some of 0..3"),
            ("udp_port", 0 < self.udp_port < 65536, "1..65535"),
            ("most_associations", 0 < self.most_associations < 1 << 32, "1..2^32-1"),
            ("most_batch", 0 < self.most_batch <= messages.MOST_BATCH, f"1..{messages.MOST_BATCH}"),
        ):
            if not good:
                raise ConfigError(str(getattr(self, key)), key=key, expected=expected)


@dataclass(frozen=True, slots=True)
class Greeted:
    """The peer has said HELLO.   psp_versions: those that both sides have."""

    psp_versions: frozenset[int]
    udp_port: int
    most_associations: int
    most_batch: int


@dataclass(frozen=True, slots=True, eq=False)
class Offered:
    """The peer asks for connections: `prepare` and `confirm` them, or `refuse`."""

    kind: Kind
    version: int
    first_id: int
    ports: Ports | None
    spis: SPIs
    keys: Keys = field(repr=False)

    def __len__(self) -> int:
        return len(self.spis)


@dataclass(frozen=True, slots=True)
class Agreed:
    """The peer has agreed to connections of ours, or raw ones of the peer's were agreed to."""

    run: Run


@dataclass(frozen=True, slots=True)
class Refused:
    """The peer has not."""

    first_id: int
    count: int
    reason: int
    sentence: str


@dataclass(frozen=True, slots=True, eq=False)
class Fresh:
    """The peer has been given fresh associations: take what comes with them too.   places: in the run."""

    run: Run
    places: NDArray[np.intp]
    spis: SPIs


@dataclass(frozen=True, slots=True, eq=False)
class Released:
    """The peer sends with the fresh ones: what comes with these is to be taken no more."""

    run: Run
    places: NDArray[np.intp]
    spis: SPIs


@dataclass(frozen=True, slots=True, eq=False)
class Closed:
    """The peer has closed connections; their rows are gone."""

    run: Run
    places: NDArray[np.intp]
    reason: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The exchange is over, and all connections with it.   by_peer: the peer has ended it."""

    reason: EndReason
    sentence: str
    by_peer: bool


Event = Greeted | Offered | Agreed | Refused | Fresh | Released | Closed | Ended
