"""Transmit associations in a table, for senders whose packets do not bring their own: 64 octets each.

A row has key, SPI, last IV, counts and limits. Whoever has a socket's key at hand needs none of this: see
`Device.encapsulate_many`.
"""

from __future__ import annotations

import enum
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..crypto.psp import version
from ..engine import Packets
from ..errors import ConfigError
from ..protocols.psp import INDEX_MASK, Profile, payload_octets
from ..verdict import REASON_BY_CODE, Dropped, DropReason
from .batch import Sent
from .device import Device
from .interface import Engine
from .ivs import CounterIVs

SECOND: Final = 1_000_000_000
COUNTER_BLOCK: Final = 1 << 32  # IVs that the associations' own counters share: reserved at once
_EVENTS: Final = 65_536
_LIMITS: Final = ("packets", "octets", "seconds")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an association may be used; None: without end.

    packets, octets: sent, as tx_bytes counts octets, below 2^48.   seconds: since it was installed.
    """

    packets: int | None = None
    octets: int | None = None
    seconds: int | None = None

    def __post_init__(self) -> None:
        for name in _LIMITS:
            value = getattr(self, name)
            if value is not None and not 0 < value < 1 << 48:
                raise ConfigError(str(value), key=name, expected="1..2^48-1, or None")

    def soft(self) -> Limits:
        """Return four fifths of these limits, at which to make the next association."""
        return Limits(*(None if value is None else max(value * 4 // 5, 1) for value in self.values()))

    def values(self) -> tuple[int | None, int | None, int | None]:
        """Return packets, octets, seconds."""
        return self.packets, self.octets, self.seconds


class TableEventKind(enum.Enum):
    """What happened to an association."""

    SOFT_EXPIRED = "soft_expired"  # make the next one, and `replace` it
    HARD_EXPIRED = "hard_expired"  # its packets are dropped as PSP_OUT_EXPIRED


@dataclass(frozen=True, slots=True)
class TableEvent:
    """One event, once for an association.   id: its number.   limit: packets, octets or seconds."""

    kind: TableEventKind
    id: int
    limit: str


@dataclass(frozen=True, slots=True)
class RowState:
    """What an association has lived through.   iv: the last one used; before the first, the one to begin above.

    installed: when, in seconds since the table was made.
    """

    spi: int
    iv: int
    packets: int
    octets: int
    installed: int


class TransmitTable:
    """Associations by number.   Calls from several threads are safe.

    device: gives IVs and does the work.   profiles: how packets look; an association has one of them.
    hard, soft: limits of each association; soft None: four fifths of hard.
    own_counters: each association counts its IVs for itself, densely, for receivers with an exact replay window; wants
    a device whose IVs are a counter. Else all share the device's IVs. Either way a key is installed once at a time.
    Limits are looked at when an association is used; an idle one has no events.   Raises ConfigError.
    """

    def __init__(
        self,
        device: Device,
        profiles: Sequence[Profile],
        *,
        hard: Limits | None = None,
        soft: Limits | None = None,
        own_counters: bool = False,
        now: int = 0,
    ) -> None:
        if not 0 < len(profiles) <= 1 << 16:
            raise ConfigError(f"{len(profiles)} profiles", key="profiles", expected="1..65536")
        if own_counters and not isinstance(device.ivs, CounterIVs):
            raise ConfigError("own counters", key="own_counters", expected='a device with ivs="counter"')
        hard = hard or Limits()
        self._device, self._started, self._own_counters = device, now, own_counters
        self._key_octets = [version(profile.version).key_octets for profile in profiles]
        self._lock = threading.Lock()
        self._base = self._end = 0
        rows = _NativeRows if device.engine.name == "native" else _ReferenceRows
        self._rows: _Rows = rows(device.engine, tuple(profiles), soft or hard.soft(), hard)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<PSP transmit table, {len(self)} associations>"

    def install(self, spi: int, key: bytes, now: int = 0, *, profile: int = 0) -> int:
        """Add an association that the peer has given and return its number, as small as can be.

        Raises ConfigError for a reserved SPI or a key that does not fit the profile's version.
        """
        self._check(profile, spi, len(key))
        return self._rows.install(profile, spi, key, self._seconds(now))

    def install_many(
        self, spis: NDArray[np.uint32], keys: NDArray[np.uint8], now: int = 0, *, profile: int = 0
    ) -> NDArray[np.uint64]:
        """Add many associations of one profile and return their numbers.   keys: one a row.   Raises ConfigError."""
        if spis.ndim != 1 or spis.dtype != np.uint32 or keys.dtype != np.uint8 or keys.shape[:1] != spis.shape:
            raise ConfigError(f"{keys.dtype} {keys.shape}", key="keys", expected="uint8, a row for each uint32 SPI")
        reserved = spis[(spis & np.uint32(INDEX_MASK)) == 0]
        self._check(profile, int(reserved[0]) if len(reserved) else 1, keys.shape[1] if keys.ndim == 2 else 0)
        return self._rows.install_many(profile, spis, keys, self._seconds(now))

    def replace(self, id: int, spi: int, key: bytes, now: int = 0) -> None:
        """Give a number another association, with counts at zero: re-keying without a stall.   Raises ConfigError."""
        if not spi & INDEX_MASK or not self._rows.replace(id, spi, key, self._seconds(now)):
            raise ConfigError(
                f"association {id}",
                key="id",
                expected="one that install returned, an SPI and a key that fit its version",
            )

    def remove(self, id: int) -> None:
        """Remove an association; the next to be installed gets its number.   Raises ConfigError if there is none."""
        if not self._rows.remove(id):
            raise ConfigError(f"no association has the number {id}", key="id", expected="one that install returned")

    def state(self, id: int) -> RowState:
        """Return what an association has lived through.   Raises ConfigError if there is none."""
        found = self._rows.state(id)
        if found is None:
            raise ConfigError(f"no association has the number {id}", key="id", expected="one that install returned")
        return found

    def age(self, state: RowState, now: int) -> int:
        """Return how many seconds ago an association was installed."""
        return max(self._seconds(now) - state.installed, 0)

    def encapsulate(self, id: int, packet: bytes, now: int = 0) -> bytes | Dropped:
        """Protect one packet.   Drops: the PSP_OUT reasons; the size that fits is told by Device.encapsulate alone."""
        sent = self.encapsulate_many(id, Packets.of([packet]), now)
        code = int(sent.codes[0])
        return sent.packets[0] if not code else Dropped(REASON_BY_CODE[code])

    def encapsulate_many(self, ids: NDArray[np.uint64] | int, packets: Packets, now: int = 0) -> Sent:
        """Protect many packets.   ids: one for all, or one a packet.   The GIL is released.   Raises ConfigError."""
        if not isinstance(ids, int):
            if ids.shape != (len(packets),) or ids.dtype != np.uint64:
                raise ConfigError(f"{ids.dtype} {ids.shape}", key="ids", expected="uint64, one a packet")
            ids = np.ascontiguousarray(ids)
        ivs = self._ivs(len(packets))
        if ivs is None:
            reason = DropReason.PSP_OUT_IV
            self._device.engine.count(reason, len(packets))
            return Sent(Packets.of([b""] * len(packets)), np.full(len(packets), reason.code, np.uint8))
        return self._rows.encapsulate_many(ids, packets, ivs, self._seconds(now))

    def next_event(self) -> TableEvent | None:
        """Return the oldest event not yet fetched."""
        return self._rows.next_event()

    def _ivs(self, packets: int) -> int | tuple[int, int] | None:
        """Return the first of a run, or the bounds of the associations' counters; None if no IV is left."""
        if not self._own_counters:
            return self._device.ivs.take(packets)
        with self._lock:
            # A new block before any association can reach the end of this one; all of them go on in the new one.
            if max(self._rows.highest_iv(), self._base) + packets >= self._end:
                base = self._device.ivs.take(COUNTER_BLOCK)
                if base is None:
                    return None
                self._base, self._end = base, base + COUNTER_BLOCK
            return self._base, self._end

    def _check(self, profile: int, spi: int, key_octets: int) -> None:
        if not 0 <= profile < len(self._key_octets):
            raise ConfigError(f"profile {profile}", key="profile", expected=f"0..{len(self._key_octets) - 1}")
        if not spi & INDEX_MASK or not 0 < spi < 1 << 32:
            raise ConfigError(f"SPI {spi:#x}", key="spi", expected="low 31 bits that are not all zero")
        if key_octets != self._key_octets[profile]:
            raise ConfigError(f"{key_octets} octets", key="key", expected=f"{self._key_octets[profile]} octets")

    def _seconds(self, now: int) -> int:
        return max(now - self._started, 0) // SECOND & 0x3FFFFFFF


class _Rows(ABC):
    """The rows themselves, as an engine keeps them.   now: seconds since the table was made."""

    @abstractmethod
    def __len__(self) -> int: ...
    @abstractmethod
    def install(self, profile: int, spi: int, key: bytes, now: int) -> int: ...
    @abstractmethod
    def install_many(
        self, profile: int, spis: NDArray[np.uint32], keys: NDArray[np.uint8], now: int
    ) -> NDArray[np.uint64]: ...
    @abstractmethod
    def replace(self, id: int, spi: int, key: bytes, now: int) -> bool: ...
    @abstractmethod
    def remove(self, id: int) -> bool: ...
    @abstractmethod
    def state(self, id: int) -> RowState | None: ...
    @abstractmethod
    def encapsulate_many(
        self, ids: NDArray[np.uint64] | int, packets: Packets, ivs: int | tuple[int, int], now: int
    ) -> Sent: ...
    @abstractmethod
    def next_event(self) -> TableEvent | None: ...
    @abstractmethod
    def highest_iv(self) -> int: ...


@dataclass(slots=True)
class _Row:
    profile: int
    spi: int
    key: bytes = field(repr=False)
    installed: int
    iv: int  # the last one used; a key that was removed and comes again goes on above all it can have used
    packets: int = 0
    octets: int = 0
    told: set[TableEventKind] = field(default_factory=set)

    def reached(self, limits: Limits, now: int) -> str:
        """Return the name of the first limit that is reached, "" for none."""
        values = (self.packets, self.octets, max(now - self.installed, 0))
        for name, value, most in zip(_LIMITS, values, limits.values(), strict=True):
            if most is not None and value >= most:
                return name
        return ""


class _ReferenceRows(_Rows):
    def __init__(self, engine: Engine, profiles: tuple[Profile, ...], soft: Limits, hard: Limits) -> None:
        self._engine, self._profiles, self._soft, self._hard = engine, profiles, soft, hard
        self._rows: list[_Row | None] = []
        self._free: list[int] = []
        self._events: deque[TableEvent] = deque()
        self._highest = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows) - len(self._free)

    def install(self, profile: int, spi: int, key: bytes, now: int) -> int:
        with self._lock:
            row = _Row(profile, spi, key, now, self._highest)
            if self._free:
                id = self._free.pop()
                self._rows[id] = row
                return id
            self._rows.append(row)
            return len(self._rows) - 1

    def install_many(
        self, profile: int, spis: NDArray[np.uint32], keys: NDArray[np.uint8], now: int
    ) -> NDArray[np.uint64]:
        made = [self.install(profile, int(spi), key.tobytes(), now) for spi, key in zip(spis, keys, strict=True)]
        return np.array(made, np.uint64)

    def replace(self, id: int, spi: int, key: bytes, now: int) -> bool:
        row = self._row(id)
        if row is None or len(key) != len(row.key):
            return False
        with self._lock:
            self._rows[id] = _Row(row.profile, spi, key, now, self._highest)
        return True

    def remove(self, id: int) -> bool:
        if self._row(id) is None:
            return False
        with self._lock:
            self._rows[id] = None
            self._free.append(id)
        return True

    def state(self, id: int) -> RowState | None:
        row = self._row(id)
        return None if row is None else RowState(row.spi, row.iv, row.packets, row.octets, row.installed)

    def encapsulate_many(
        self, ids: NDArray[np.uint64] | int, packets: Packets, ivs: int | tuple[int, int], now: int
    ) -> Sent:
        codes = np.zeros(len(packets), np.uint8)
        out = []
        with self._lock:
            for i, packet in enumerate(packets):
                id = ids if isinstance(ids, int) else int(ids[i])
                sent = self._encapsulate(id, packet, ivs + i if isinstance(ivs, int) else ivs, now)
                if isinstance(sent, DropReason):
                    codes[i], sent = sent.code, b""
                out.append(sent)
        return Sent(Packets.of(out), codes)

    def _encapsulate(self, id: int, packet: bytes, ivs: int | tuple[int, int], now: int) -> bytes | DropReason:
        row = self._row(id)
        if row is None:
            return self._drop(DropReason.PSP_OUT_NO_KEY)
        limit = row.reached(self._hard, now)
        if limit:
            self._tell(row, id, TableEventKind.HARD_EXPIRED, limit)
            return self._drop(DropReason.PSP_OUT_EXPIRED)
        iv = ivs if isinstance(ivs, int) else max(row.iv + 1, ivs[0])
        if not isinstance(ivs, int) and iv >= ivs[1]:
            return self._drop(DropReason.PSP_OUT_IV)
        sent = self._engine.encapsulate(self._profiles[row.profile], packet, row.spi, row.key, iv)
        if isinstance(sent, Dropped):
            return sent.reason
        row.iv = iv
        self._highest = max(self._highest, 0 if isinstance(ivs, int) else iv)
        row.packets += 1
        row.octets = min(row.octets + payload_octets(sent), (1 << 48) - 1)
        limit = row.reached(self._soft, now)
        if limit:
            self._tell(row, id, TableEventKind.SOFT_EXPIRED, limit)
        return sent

    def next_event(self) -> TableEvent | None:
        return self._events.popleft() if self._events else None

    def highest_iv(self) -> int:
        return self._highest

    def _row(self, id: int) -> _Row | None:
        return self._rows[id] if 0 <= id < len(self._rows) else None

    def _drop(self, reason: DropReason) -> DropReason:
        self._engine.count(reason, 1)
        return reason

    def _tell(self, row: _Row, id: int, kind: TableEventKind, limit: str) -> None:
        if kind not in row.told:
            row.told.add(kind)
            if len(self._events) < _EVENTS:
                self._events.append(TableEvent(kind, id, limit))


class _NativeRows(_Rows):
    def __init__(self, engine: Engine, profiles: tuple[Profile, ...], soft: Limits, hard: Limits) -> None:
        from .. import _native
        from .native import NativeEngine

        assert isinstance(engine, NativeEngine)
        self._table = _native.PspTable(engine.core, profiles, soft.values(), hard.values())

    def __len__(self) -> int:
        return len(self._table)

    def install(self, profile: int, spi: int, key: bytes, now: int) -> int:
        id = self._table.install(profile, spi, key, now)
        assert id is not None  # what it refuses has been refused
        return id

    def install_many(
        self, profile: int, spis: NDArray[np.uint32], keys: NDArray[np.uint8], now: int
    ) -> NDArray[np.uint64]:
        from .native import array

        rows = np.ascontiguousarray(keys).reshape(-1)
        return array(self._table.install_many(profile, np.ascontiguousarray(spis), rows, now), np.uint64)

    def replace(self, id: int, spi: int, key: bytes, now: int) -> bool:
        return 0 <= id < 1 << 64 and self._table.replace(id, spi, key, now)

    def remove(self, id: int) -> bool:
        return 0 <= id < 1 << 64 and self._table.remove(id)

    def state(self, id: int) -> RowState | None:
        found = self._table.state(id) if 0 <= id < 1 << 64 else None
        return None if found is None else RowState(*found)

    def encapsulate_many(
        self, ids: NDArray[np.uint64] | int, packets: Packets, ivs: int | tuple[int, int], now: int
    ) -> Sent:
        from .native import sent

        data, offsets = np.ascontiguousarray(packets.data), np.ascontiguousarray(packets.offsets)
        if isinstance(ids, int):
            ids = ids if 0 <= ids < 1 << 64 else (1 << 64) - 1
        return sent(self._table.encapsulate_many(ids, data, offsets, ivs, now))

    def next_event(self) -> TableEvent | None:
        found = self._table.next_event()
        if found is None:
            return None
        id, is_hard, limit = found
        return TableEvent(TableEventKind.HARD_EXPIRED if is_hard else TableEventKind.SOFT_EXPIRED, id, _LIMITS[limit])

    def highest_iv(self) -> int:
        return self._table.highest_iv
