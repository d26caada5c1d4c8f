"""Replay rules for associations that need one: PSP itself has none.

Kept by whoever receives, beside the device, for those associations alone that are named here: the device's memory stays
what it is. IVs are looked at once a packet is authentic, so forged ones move nothing.
Source: PSP Architecture Specification, "Replay Protection"; OCP Falcon 0.9 §6.5 for the time window.
"""

from __future__ import annotations

import enum
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..protocols.psp import INDEX_MASK
from ..sa.replay import DEFAULT_WINDOW, MAX_WINDOW, ReplayWindow
from ..verdict import DropReason

MOST: Final = 1 << 20  # associations watched, unless told otherwise
_WRAP: Final = 1 << 64


class Replay(enum.Enum):
    """How an association's IVs are looked at."""

    NONE = "none"  # PSP's own: not at all
    TIME_WINDOW = "time_window"  # not older than the newest one less a margin: inside it copies pass
    EXACT = "exact"  # each once, by a bitmap: for senders whose IVs are a dense counter


@dataclass(frozen=True, slots=True)
class ReplayRule:
    """A rule and its measure.   Raises ConfigError.

    margin_ns: of TIME_WINDOW, how much older than the newest IV one may be, below 2^63; above what the network
    reorders.   window: of EXACT, 32..2^20 packets, a multiple of 32.
    """

    kind: Replay = Replay.NONE
    margin_ns: int = 1_000_000_000
    window: int = DEFAULT_WINDOW

    def __post_init__(self) -> None:
        if not 0 < self.margin_ns < 1 << 63:
            raise ConfigError(str(self.margin_ns), key="margin_ns", expected="1..2^63-1")
        if not 32 <= self.window <= MAX_WINDOW or self.window % 32:
            raise ConfigError(str(self.window), key="window", expected=f"a multiple of 32 up to {MAX_WINDOW}")


@dataclass(frozen=True, slots=True)
class GuardState:
    """What an association's rule has seen.   newest: the newest IV accepted.   accepted, replayed: packets."""

    rule: Replay
    newest: int
    accepted: int
    replayed: int


class Guard(ABC):
    """Replay rules by SPI.   Calls from several threads are safe.

    most: how many associations may be watched.
    """

    name: ClassVar[str]

    def __init__(self, most: int = MOST) -> None:
        if most < 1:
            raise ConfigError(str(most), key="most", expected="1 or more")
        self._most = most

    def watch(
        self, spi: int, rule: Replay, *, margin_ns: int = 1_000_000_000, window: int = DEFAULT_WINDOW, newest: int = 0
    ) -> None:
        """Look at an association's IVs from now on; whatever was known of it is forgotten.

        margin_ns, window: as of a `ReplayRule`.
        newest: the newest IV that counts as seen: for TIME_WINDOW surely older than the sender's clock, for EXACT below
        the first that it uses.   Raises ConfigError.
        """
        if not spi & INDEX_MASK or not 0 < spi < 1 << 32:
            raise ConfigError(f"SPI {spi:#x}", key="spi", expected="low 31 bits that are not all zero")
        wanted = ReplayRule(rule, margin_ns, window)
        if not 0 <= newest < _WRAP:
            raise ConfigError(str(newest), key="newest", expected="0..2^64-1")
        if rule is Replay.NONE:
            self.forget(spi)
        elif not self._watch(spi, wanted, newest):
            raise ConfigError(f"{self._most} associations are watched", key="most", expected="a guard of more")

    @abstractmethod
    def _watch(self, spi: int, rule: ReplayRule, newest: int) -> bool: ...

    @abstractmethod
    def forget(self, spi: int) -> None:
        """Look at an association no more."""

    @abstractmethod
    def forget_slot(self, slot: int) -> None:
        """Forget all associations of a device key that is gone: its SPIs come again."""

    @abstractmethod
    def state(self, spi: int) -> GuardState | None:
        """Return what an association's rule has seen; None if it is not watched."""

    @abstractmethod
    def accept(self, spi: int, iv: int) -> bool:
        """Whether an authentic packet may be delivered; it then counts as seen."""

    @abstractmethod
    def accept_many(
        self, spis: NDArray[np.uint32], ivs: NDArray[np.uint64], codes: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Return codes with PSP_REPLAY in place of 0 or PSP_SAMPLED where a packet may not be delivered.

        Packets are looked at in their order.   spis, ivs, codes: (n,).
        """

    @abstractmethod
    def __len__(self) -> int: ...


class Watched:
    """One association under a rule.   newest: the newest IV that counts as seen, accepted, replayed: packets."""

    __slots__ = ("_window", "accepted", "newest", "replayed", "rule")

    def __init__(self, rule: ReplayRule, newest: int) -> None:
        self.rule, self.newest = rule, newest
        self.accepted = self.replayed = 0
        self._window = ReplayWindow(rule.window, newest) if rule.kind is Replay.EXACT else None

    def accept(self, iv: int) -> bool:
        """Whether an authentic packet may be delivered; it then counts as seen."""
        if self._window is not None:
            good = self._window.accept(iv)
            self.newest = self._window.top
        else:
            # Newer, modulo 2^64, than the newest less the margin.
            good = (iv - self.newest + self.rule.margin_ns) % _WRAP < 1 << 63
            if good and (iv - self.newest) % _WRAP < 1 << 63:
                self.newest = iv
        if good:
            self.accepted += 1
        else:
            self.replayed += 1
        return good

    def close(self) -> None:
        """Count all IVs up to the newest as seen, where each is taken once."""
        if self._window is not None:
            self._window.close()


class ReferenceGuard(Guard):
    """For reading."""

    name: ClassVar[str] = "reference"

    def __init__(self, most: int = MOST) -> None:
        super().__init__(most)
        self._watched: dict[int, Watched] = {}
        self._lock = threading.Lock()

    def _watch(self, spi: int, rule: ReplayRule, newest: int) -> bool:
        with self._lock:
            if spi not in self._watched and len(self._watched) >= self._most:
                return False
            self._watched[spi] = Watched(rule, newest)
            return True

    def forget(self, spi: int) -> None:
        with self._lock:
            self._watched.pop(spi, None)

    def forget_slot(self, slot: int) -> None:
        with self._lock:
            self._watched = {spi: each for spi, each in self._watched.items() if spi >> 31 != slot}

    def state(self, spi: int) -> GuardState | None:
        with self._lock:
            found = self._watched.get(spi)
            return None if found is None else GuardState(found.rule.kind, found.newest, found.accepted, found.replayed)

    def accept(self, spi: int, iv: int) -> bool:
        with self._lock:
            found = self._watched.get(spi)
            return found is None or found.accept(iv)

    def accept_many(
        self, spis: NDArray[np.uint32], ivs: NDArray[np.uint64], codes: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        out = codes.copy()
        for place, code in enumerate(codes.tolist()):
            if code in _DELIVERABLE and not self.accept(int(spis[place]), int(ivs[place])):
                out[place] = DropReason.PSP_REPLAY.code
        return out

    def __len__(self) -> int:
        return len(self._watched)


_DELIVERABLE: Final = frozenset((0, DropReason.PSP_SAMPLED.code))


def open_guard(engine: str, most: int = MOST) -> Guard:
    """Return the guard that goes with an engine.   engine: its name."""
    if engine != "native":
        return ReferenceGuard(most)
    from .native import NativeGuard

    return NativeGuard(most)
