"""The native engine of PSP: for running. Rust behind the same interface, octet for octet what the reference does."""

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import _native
from ..crypto import psp as crypto
from ..engine import Packets
from ..errors import KeyMaterialError, UnsupportedError
from ..protocols.psp import Opened, Profile
from ..verdict import REASON_BY_CODE, Dropped, DropReason
from .batch import Received, Sent
from .guard import MOST, Guard, GuardState, Replay, ReplayRule
from .interface import Engine, Options, SampledDrop, check_batch, check_key, no_device_key, parsed_version

_Number = TypeVar("_Number", np.uint8, np.uint32, np.uint64)
FAILED = frozenset(("rx_auth_fail", "rx_error", "rx_bad"))
_PROFILES = 1024


class NativeEngine(Engine):
    """The fast engine.   provider: who does the AEAD, one of `_native.providers()`; None: the default one."""

    name: ClassVar[str] = "native"

    def __init__(self, options: Options | None = None, *, provider: str | None = None) -> None:
        self.options = options or Options()
        if provider is not None and provider not in _native.providers():
            raise UnsupportedError(f"AEAD provider {provider!r}", f"one of {', '.join(_native.providers())}")
        self.core = _native.PspEngine(
            self.options.port,
            sorted(self.options.versions),
            self.options.verify_checksum,
            self.options.hash_key,
            provider,
        )
        self._profiles: dict[Profile, _native.PspProfile] = {}

    def set_device_key(self, slot: int, key: bytes | None) -> None:
        if key is not None and len(key) != crypto.DEVICE_KEY:
            raise KeyMaterialError(f"{len(key)} octets for a PSP device key", expected=f"{crypto.DEVICE_KEY} octets")
        self.core.set_device_key(slot & 1, key)

    def derive_key(self, spi: int, version: int) -> bytes:
        key = self.core.derive_key(spi, crypto.version(version).code)
        if key is None:
            raise no_device_key(spi >> 31)
        return key

    def derive_keys(self, spis: NDArray[np.uint32], version: int) -> NDArray[np.uint8]:
        out = np.empty((len(spis), crypto.version(version).key_octets), np.uint8)
        missing = self.core.derive_keys(np.ascontiguousarray(spis, np.uint32), version, out.reshape(-1))
        if missing is not None:
            raise no_device_key(missing)
        return out

    def input_blocks(self, spi: int, version: int) -> list[bytes]:
        return _native.psp_input_blocks(spi, crypto.version(version).code)

    def seal(self, key: bytes, packet: bytes) -> bytes:
        check_key(key, parsed_version(packet, 0))
        sealed = self.core.seal(key, packet)
        assert sealed is not None  # what it refuses has been refused
        return sealed

    def open(self, key: bytes, sealed: bytes) -> bytes | None:
        check_key(key, parsed_version(sealed, 16))
        opened = self.core.open(key, sealed)
        assert opened is not None  # what it refuses has been refused
        return opened[0]

    def encapsulate(self, profile: Profile, packet: bytes, spi: int, key: bytes, iv: int) -> bytes | Dropped:
        check_key(key, profile.version)
        code, mtu, made = self.core.encapsulate(self._ready(profile), packet, spi, key, iv)
        return Dropped(REASON_BY_CODE[code], mtu) if code else made

    def decapsulate(self, packet: bytes) -> Opened | Dropped:
        code, inner, spi, iv, flags, cookie, extension, octets = self.core.decapsulate(packet)
        reason = REASON_BY_CODE[code] if code else None
        if reason is not None and reason is not DropReason.PSP_SAMPLED:
            return Dropped(reason)
        version, sample = (flags >> 2) & 15, flags >= 0x80
        opened = Opened(inner, spi, iv, version, cookie if flags & 2 else None, extension, sample, octets, reason)
        return opened if reason is None else SampledDrop(reason, opened=opened)

    def encapsulate_many(
        self,
        profile: Profile,
        packets: Packets,
        spis: NDArray[np.uint32],
        keys: NDArray[np.uint8],
        ivs: NDArray[np.uint64],
    ) -> Sent:
        check_batch(profile, packets, spis, keys, ivs)
        data, offsets = np.ascontiguousarray(packets.data), np.ascontiguousarray(packets.offsets)
        rows = np.ascontiguousarray(keys).reshape(-1)
        spis, ivs = np.ascontiguousarray(spis), np.ascontiguousarray(ivs)
        return sent(self.core.encapsulate_many(self._ready(profile), data, offsets, spis, rows, ivs))

    def decapsulate_many(self, packets: Packets) -> Received:
        data, offsets = np.ascontiguousarray(packets.data), np.ascontiguousarray(packets.offsets)
        out, places, codes, spis, ivs, cookies, flags = self.core.decapsulate_many(data, offsets)
        return Received(
            _packets(out, places),
            array(codes, np.uint8),
            array(spis, np.uint32),
            array(ivs, np.uint64),
            array(cookies, np.uint64),
            array(flags, np.uint8),
        )

    def count(self, reason: DropReason, packets: int) -> None:
        self.core.count(reason.code, packets)

    def drops(self) -> dict[DropReason, int]:
        return {REASON_BY_CODE[code]: count for code, count, _ in self.core.drops()}

    def totals(self) -> dict[str, int]:
        received, rx_bytes, transmitted, tx_bytes = self.core.totals()
        totals = {"rx_packets": received, "rx_bytes": rx_bytes, "tx_packets": transmitted, "tx_bytes": tx_bytes}
        for code, _, octets in self.core.drops():
            counter = REASON_BY_CODE[code].counter
            if counter in FAILED:
                totals[f"{counter}_bytes"] = totals.get(f"{counter}_bytes", 0) + octets
        return totals

    def _ready(self, profile: Profile) -> _native.PspProfile:
        """Equal profiles share one on the native side."""
        known = self._profiles.get(profile)
        if known is None:
            if len(self._profiles) >= _PROFILES:
                self._profiles.clear()
            known = self._profiles[profile] = _native.PspProfile(profile)
        return known


def derive_keys(
    device_key: bytes, spis: NDArray[np.uint32], version: crypto.Version, out: NDArray[np.uint8], threads: int
) -> None:
    """Write the keys of many SPIs, one a row.   out: (n, key octets) uint8, contiguous."""
    _native.psp_derive_keys(device_key, spis, version.code, out.reshape(-1), threads)


def derive_key(device_key: bytes, spi: int, version: crypto.Version) -> bytes:
    """Return the key of one SPI."""
    return _native.psp_derive_key(device_key, spi, version.code)


def sent(made: tuple[_native.Array, _native.Array, _native.Array]) -> Sent:
    """Return a batch that was encapsulated.   made: data, offsets, codes."""
    data, offsets, codes = made
    return Sent(_packets(data, offsets), array(codes, np.uint8))


def _packets(data: _native.Array, offsets: _native.Array) -> Packets:
    """Wrap packets without a copy; what the engine says of them needs no second look."""
    packets = object.__new__(Packets)
    object.__setattr__(packets, "data", array(data, np.uint8))
    object.__setattr__(packets, "offsets", array(offsets, np.uint64))
    return packets


def array(memory: _native.Array, kind: type[_Number]) -> NDArray[_Number]:
    """Return a result's memory as an array, without a copy."""
    buffer: Any = memory  # NumPy's stubs name the types that have buffers, one by one
    return np.frombuffer(buffer, kind)


_RULES: Final = (Replay.TIME_WINDOW, Replay.EXACT)


class NativeGuard(Guard):
    """For running."""

    name: ClassVar[str] = "native"

    def __init__(self, most: int = MOST) -> None:
        super().__init__(most)
        self._guard = _native.PspGuard(most)

    def _watch(self, spi: int, rule: ReplayRule, newest: int) -> bool:
        if rule.kind is Replay.EXACT:
            return self._guard.watch_exact(spi, rule.window, newest)
        return self._guard.watch_time(spi, rule.margin_ns, newest)

    def forget(self, spi: int) -> None:
        self._guard.forget(spi)

    def forget_slot(self, slot: int) -> None:
        self._guard.forget_slot(slot & 1)

    def state(self, spi: int) -> GuardState | None:
        found = self._guard.state(spi)
        return None if found is None else GuardState(_RULES[found[0]], *found[1:])

    def accept(self, spi: int, iv: int) -> bool:
        return self._guard.accept(spi, iv)

    def accept_many(
        self, spis: NDArray[np.uint32], ivs: NDArray[np.uint64], codes: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        given = np.ascontiguousarray(spis), np.ascontiguousarray(ivs), np.ascontiguousarray(codes)
        return array(self._guard.accept_many(*given), np.uint8)

    def __len__(self) -> int:
        return len(self._guard)
