"""A PSP device: two device keys, SPIs that never come twice, rotation, IVs that never repeat.

The receiver's whole memory is this object, however many associations there are. `now` is integer nanoseconds on a
monotonic axis; the IVs' clock is another one and belongs to their source.
"""

from __future__ import annotations

import enum
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..crypto import psp as crypto
from ..engine import Packets
from ..errors import ConfigError, KeyMaterialError, WesperError
from ..protocols.psp import INDEX_MASK, Opened, Profile
from ..verdict import Dropped, DropReason
from .batch import Received, Sent
from .clock import Clock, open_clock
from .guard import Guard, open_guard
from .interface import Engine, Options, SampledDrop
from .ivs import ClockIVs, CounterIVs, IVSource
from .marks import Marks, MemoryMarks, fingerprint
from .opening import open_engine
from .samples import Samples

DAY = 86_400_000_000_000
_SPI_BLOCK = 1 << 16  # SPIs of keys that outlive the process, reserved at once
_SPI_LOW = INDEX_MASK // 5  # SPIs left when rotation is due


class SPIsExhausted(WesperError):
    """All 2^31 - 1 SPIs of the active device key are given away: rotate."""

    def __init__(self) -> None:
        super().__init__("no SPI of the active device key is left: rotate() makes a new key")


class DeviceEventKind(enum.Enum):
    """What happened to a device."""

    ROTATED = "rotated"  # a new device key is active: peers get new keys before the next rotation
    STALE = "stale"  # associations of the generation before the last have died
    SPIS_LOW = "spis_low"  # a fifth of the active key's SPIs are left: rotate


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """One event.   now: as given to the call that caused it.   generation: of the active key.   count: associations."""

    kind: DeviceEventKind
    now: int
    generation: int
    count: int = 0


@dataclass(frozen=True, slots=True)
class Association:
    """What a sender is given, over a secure channel.

    key: 16 or 32 octets, as version says.   generation: of the device key; the association receives until two
    rotations later.
    """

    spi: int
    key: bytes = field(repr=False)
    version: int
    generation: int


class Device:
    """Device keys and what hangs on them.   Calls from several threads are safe.

    engine: name, an engine without keys, or None for the fastest one built.   options: of the engine that is made.
    keys: both device keys, injected; None: one random key now, the other with the first rotation.
    new_keys: injected keys were never used with other marks.
    marks: where IVs and SPIs used are kept; None: in memory, which is enough where all keys end with the process.
    ivs: "clock", "counter", or a source.   clock: for "clock"; None: a PTP clock, or TAI.
    rotate_every: nanoseconds, None for never by itself.   random: makes device keys.
    Raises KeyMaterialError, ConfigError.
    """

    def __init__(
        self,
        *,
        engine: Engine | str | None = None,
        options: Options | None = None,
        keys: tuple[bytes, bytes] | None = None,
        new_keys: bool = False,
        marks: Marks | None = None,
        ivs: IVSource | str = "clock",
        clock: Clock | None = None,
        rotate_every: int | None = DAY,
        random: Callable[[int], bytes] = os.urandom,
        now: int = 0,
    ) -> None:
        if rotate_every is not None and rotate_every <= 0:
            raise ConfigError(f"{rotate_every} ns", key="rotate_every", expected="more than 0, or None")
        if isinstance(engine, Engine) and options is not None:
            raise ConfigError("options beside an engine", key="options", expected="those of the engine")
        self.engine = engine if isinstance(engine, Engine) else open_engine(engine, options)
        self._marks = MemoryMarks() if marks is None else marks
        self._random, self._rotate_every, self._rotated_at = random, rotate_every, now
        self._lock = threading.RLock()
        self._events: deque[DeviceEvent] = deque(maxlen=1024)
        self._generation = self._stale = 0
        self._allocated = [0, 0]  # by slot: associations made under its key
        self._next = [1, 1]
        self._prints: list[bytes | None] = [None, None]  # of injected keys, whose SPIs have marks
        self._guard: Guard | None = None
        self.samples = Samples(clock=clock)
        """Records of packets with the S bit."""
        if isinstance(ivs, IVSource):
            self.ivs = ivs
        elif ivs == "clock":
            self.ivs = ClockIVs(clock or open_clock(), self._marks)
        elif ivs == "counter":
            self.ivs = CounterIVs(self._marks)
        else:
            raise ConfigError(f"IVs {ivs!r}", key="ivs", expected='"clock", "counter" or a source')
        if keys is None:
            self.engine.set_device_key(0, self._random(crypto.DEVICE_KEY))
        else:
            self._inject(keys, new_keys)

    def __repr__(self) -> str:
        return f"<wesper PSP device, {self.engine.name} engine, generation {self._generation}>"

    @property
    def generation(self) -> int:
        """How often the device has rotated; the lowest bit is the active slot."""
        return self._generation

    # Associations

    def allocate(self, version: int = 0, now: int = 0) -> Association:
        """Make an association for a sender: an SPI of the active key that was never given away, and its key.

        Raises SPIsExhausted, ConfigError; OSError if a mark can't be written.
        """
        with self._lock:
            spi = self._take(1, now)
            return Association(spi, self.engine.derive_key(spi, version), version, self._generation)

    def allocate_many(self, count: int, version: int = 0, now: int = 0) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Make many at once: their SPIs, (n,) uint32, and keys, one a row, all of this generation.

        Raises SPIsExhausted without having made any, ConfigError, OSError.
        """
        if count < 0:
            raise ConfigError(str(count), key="count", expected="0 or more")
        with self._lock:
            first = self._take(count, now) if count else 1
            spis = np.arange(first, first + count, dtype=np.uint32)
            return spis, self.engine.derive_keys(spis, version)

    def _take(self, count: int, now: int) -> int:
        """Return the first of so many SPIs."""
        slot = self._generation & 1
        index = self._next[slot]
        end = index + count
        if end - 1 > INDEX_MASK:
            raise SPIsExhausted
        mark = self._prints[slot]
        if mark is not None and end > (self._marks.spi(mark) or 0):
            self._marks.raise_spi(mark, min(end + _SPI_BLOCK, INDEX_MASK + 1))
        low = INDEX_MASK - _SPI_LOW
        if index <= low < end:
            self._tell(DeviceEventKind.SPIS_LOW, now)
        self._next[slot] = end
        self._allocated[slot] += count
        return slot << 31 | index

    # Rotation

    def rotate(self, now: int = 0) -> int:
        """Put a new random key into the other slot and make it the active one; return the new generation.

        The key that was active goes on receiving, and that before it is gone, with all its associations: tell peers,
        and give them new keys, before the next rotation.
        """
        with self._lock:
            slot = (self._generation + 1) & 1
            self.engine.set_device_key(slot, self._random(crypto.DEVICE_KEY))
            self._forget(slot)
            dead, self._allocated[slot] = self._allocated[slot], 0
            self._next[slot], self._prints[slot] = 1, None
            self._generation += 1
            self._stale += dead
            self._rotated_at = now
            self._tell(DeviceEventKind.ROTATED, now)
            if dead:
                self._tell(DeviceEventKind.STALE, now, dead)
            return self._generation

    def retire(self, now: int = 0) -> None:
        """Empty the slot that is not active, when all peers have changed over: what is left of its associations dies.

        Their packets are then dropped as PSP_NO_DEVICE_KEY; after a rotation, where a new key is in the slot, as
        PSP_AUTH.
        """
        with self._lock:
            slot = (self._generation + 1) & 1
            self.engine.set_device_key(slot, None)
            self._forget(slot)
            dead, self._allocated[slot] = self._allocated[slot], 0
            self._stale += dead
            if dead:
                self._tell(DeviceEventKind.STALE, now, dead)

    def deadline(self) -> int | None:
        """Return when the next rotation is due; None for never."""
        return None if self._rotate_every is None else self._rotated_at + self._rotate_every

    def handle_timeout(self, now: int) -> None:
        """Rotate if that is due, and put the IVs' mark up ahead of time."""
        with self._lock:
            due = self.deadline()
            if due is not None and now >= due:
                self.rotate(now)
        self.ivs.reserve()

    def next_event(self) -> DeviceEvent | None:
        """Return the oldest event not yet fetched."""
        with self._lock:
            return self._events.popleft() if self._events else None

    # Packets

    def encapsulate(self, profile: Profile, packet: bytes, spi: int, key: bytes) -> bytes | Dropped:
        """Protect one packet with the association that came with it, under the device's next IV.

        Drops: the PSP_OUT reasons.   Raises ConfigError if key has not the version's length.
        """
        iv = self.ivs.take(1)
        if iv is None:
            self.engine.count(DropReason.PSP_OUT_IV, 1)
            return Dropped(DropReason.PSP_OUT_IV)
        return self.engine.encapsulate(profile, packet, spi, key, iv)

    def encapsulate_many(
        self, profile: Profile, packets: Packets, spis: NDArray[np.uint32], keys: NDArray[np.uint8]
    ) -> Sent:
        """Protect many packets, each with the association that came with it.

        spis: (n,) uint32.   keys: (n, 16 or 32) uint8, as the profile's version.   The GIL is released.
        Raises ConfigError.
        """
        first = self.ivs.take(len(packets))
        if first is None:
            self.engine.count(DropReason.PSP_OUT_IV, len(packets))
            codes = np.full(len(packets), DropReason.PSP_OUT_IV.code, np.uint8)
            return Sent(Packets.of([b""] * len(packets)), codes)
        ivs = np.arange(first, first + len(packets), dtype=np.uint64)
        return self.engine.encapsulate_many(profile, packets, spis, keys, ivs)

    def decapsulate(self, packet: bytes) -> Opened | Dropped:
        """Open one packet with nothing but the device's keys; then ask the replay rules, if there are any.

        A packet with the S bit leaves a record in `samples`.
        """
        found = self.engine.decapsulate(packet)
        opened = found.opened if isinstance(found, SampledDrop) else found
        if not isinstance(opened, Opened):
            return found
        if opened.sample:
            cookie = None if opened.cookie is None else int.from_bytes(opened.cookie, "big")
            dropped = isinstance(found, SampledDrop)
            self.samples.note(packet, opened.spi, opened.iv, opened.version, cookie, dropped=dropped)
        if self._guard is not None and not self._guard.accept(opened.spi, opened.iv):
            self.engine.count(DropReason.PSP_REPLAY, 1)
            return Dropped(DropReason.PSP_REPLAY)
        return found

    def decapsulate_many(self, packets: Packets) -> Received:
        """Open many packets, as `decapsulate` does one.   The GIL is released."""
        found = self.engine.decapsulate_many(packets)
        for place in np.flatnonzero(found.sampled).tolist():
            flags = int(found.flags[place])
            cookie = int(found.cookies[place]) if flags & 2 else None
            spi, iv = int(found.spis[place]), int(found.ivs[place])
            dropped = bool(flags & 0x40)
            self.samples.note(packets[place], spi, iv, flags >> 2 & 15, cookie, dropped=dropped)
        if self._guard is None or not len(self._guard):
            return found
        codes = self._guard.accept_many(found.spis, found.ivs, found.codes)
        replayed = codes == DropReason.PSP_REPLAY.code
        count = int(replayed.sum())
        if not count:
            return found
        self.engine.count(DropReason.PSP_REPLAY, count)
        kept = [b"" if gone else inner for inner, gone in zip(found.packets, replayed.tolist(), strict=True)]
        return replace(found, packets=Packets.of(kept), codes=codes)

    @property
    def guard(self) -> Guard:
        """The replay rules of those associations that need one; whoever asks for it first makes it."""
        if self._guard is None:
            self._guard = open_guard(self.engine.name)
        return self._guard

    def counters(self) -> dict[str, int]:
        """Return the kernel's PSP statistics of this device, by their names with `_` for `-`."""
        return self.engine.counters() | {"key_rotations": self._generation, "stale_events": self._stale}

    def close(self) -> None:
        """Take the device keys away and settle the marks.   Raises OSError."""
        for slot in (0, 1):
            self.engine.set_device_key(slot, None)
        self.ivs.settle()
        self._marks.close()

    def _inject(self, keys: tuple[bytes, bytes], new: bool) -> None:
        if len(keys) != 2 or keys[0] == keys[1]:
            raise KeyMaterialError("device keys", key="keys", expected="two different ones of 32 octets")
        for slot, key in enumerate(keys):
            mark = fingerprint(key)
            reached = self._marks.spi(mark)
            if reached is None and not new:
                raise KeyMaterialError(
                    "nobody knows which SPIs of these device keys were given away",
                    key="keys",
                    expected="the marks that they were used with, or new_keys=True for keys never used",
                )
            self.engine.set_device_key(slot, key)  # looks at the length
            if reached is None:
                self._marks.raise_spi(mark, 1)
            self._prints[slot], self._next[slot] = mark, reached or 1

    def _forget(self, slot: int) -> None:
        """Drop the replay rules of a device key's associations: its SPIs come again under the next one."""
        if self._guard is not None:
            self._guard.forget_slot(slot)

    def _tell(self, kind: DeviceEventKind, now: int, count: int = 0) -> None:
        self._events.append(DeviceEvent(kind, now, self._generation, count))
