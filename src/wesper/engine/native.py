"""The native engine: for running. Rust behind the same interface, octet for octet what the reference engine does.

What each packet passes through is the extension's own: `encapsulate`, `dummy` and `decapsulate` are inherited from it,
so that no Python frame stands in between. Here are conversions, once an SA or once a batch. `docs/architecture.md` says
how the two engines are held to each other.

Unlike the interface asks for, calls from two threads are safe: one may protect while another opens, and batches release
the GIL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .. import _native, crypto
from ..errors import ConfigError, KeyMaterialError, UnsupportedError
from ..sa import SA, Direction, Policy, Profile, SAState, SubSAState
from ..sa.model import SPI_FIRST
from ..verdict import REASON_BY_CODE, DropReason
from .batch import Packets, Results
from .interface import Algorithms, Engine, Options, split_keys


class _NativeAlgorithms(Algorithms):
    def associated(self, suite: str, spi: int, sequence: int, esn: bool, iv: bytes) -> bytes:
        return _native.associated(crypto.suite(suite).name, spi, sequence, esn, iv)

    def seal(
        self, suite: str, key: bytes, salt: bytes, auth_key: bytes, iv: bytes, associated: bytes, plaintext: bytes
    ) -> bytes:
        name = crypto.suite(suite).name
        try:
            return _native.seal(name, key, salt, auth_key, iv, associated, plaintext)
        except ValueError as error:
            raise KeyMaterialError(str(error)) from None

    def open(
        self, suite: str, key: bytes, salt: bytes, auth_key: bytes, iv: bytes, associated: bytes, sealed: bytes
    ) -> bytes | None:
        name = crypto.suite(suite).name
        try:
            return _native.open(name, key, salt, auth_key, iv, associated, sealed)
        except ValueError as error:
            raise KeyMaterialError(str(error)) from None

    def cbc(self, key: bytes, iv: bytes, data: bytes, *, decrypt: bool = False) -> bytes:
        return _native.cbc(key, iv, data, decrypt=decrypt)

    def sub_sa_key(
        self, kdf: str, root_key: bytes, session_id: int, key_octets: int, salt_octets: int
    ) -> tuple[bytes, bytes]:
        try:
            material = _native.sub_sa_key(kdf, root_key, session_id, key_octets + salt_octets)
        except ValueError as error:
            raise KeyMaterialError(str(error)) from None
        return material[:key_octets], material[key_octets:]

    def stateless_key(self, master: bytes, spi: int, device_id: int, epoch: int) -> tuple[bytes, bytes]:
        try:
            material = _native.stateless_key(master, spi, device_id, epoch)
        except ValueError as error:
            raise KeyMaterialError(str(error)) from None
        return material[:32], material[32:]

    def hmac(self, suite: str, auth_key: bytes, data: bytes) -> bytes:
        return _native.hmac(crypto.suite(suite).name, auth_key, data)


class NativeEngine(_native.Engine, Engine):
    """The fast engine.

    provider: who does the AEADs, one of `_native.providers()`; None: the default one.
    """

    name: ClassVar[str] = "native"
    _profiles: dict[Profile, _native.Profile]
    _by_address: dict[int, Profile]
    _sweep_at: int

    def __new__(cls, options: Options | None = None, *, provider: str | None = None) -> Self:
        options = options or Options()
        if provider is not None and provider not in _native.providers():
            raise UnsupportedError(f"AEAD provider {provider!r}", f"one of {', '.join(_native.providers())}")
        self = super().__new__(
            cls,
            options.iv_key,
            sorted(options.udp_ports),
            options.audit,
            options.events,
            options.resync_failures,
            options.resync_tries,
            options.shards,
            provider,
        )
        self.options = options
        self.algorithms = _NativeAlgorithms()
        self._profiles, self._by_address, self._sweep_at = {}, {}, 256
        return self

    # SAs

    def install(self, sa: SA, now: int = 0) -> int:
        outbound = sa.direction is Direction.OUT
        profile = self._native_profile(sa.profile)
        return self._install(
            profile, outbound, sa.spi, sa.key, sa.salt, sa.auth_key, sa.sequence, sa.multicast, sa.iv, now
        )

    def install_many(
        self, profile: Profile, direction: Direction, spis: NDArray[np.uint32], keys: NDArray[np.uint8], now: int = 0
    ) -> NDArray[np.uint64]:
        if spis.ndim != 1 or keys.ndim != 2 or len(spis) != len(keys):
            raise ConfigError("arrays that do not go together", key="keys", expected="one row a SPI")
        split_keys(profile, keys.shape[1])
        reserved = spis[spis < SPI_FIRST]
        if len(reserved):
            raise ConfigError(f"SPI {int(reserved[0]):#x}", key="spi", expected="0x100..0xffffffff")
        outbound = direction is Direction.OUT
        rows = np.ascontiguousarray(keys, np.uint8).reshape(-1)
        spis = np.ascontiguousarray(spis, np.uint32)
        ids = self._install_many(self._native_profile(profile), outbound, spis, rows, now)
        return _ids(ids)

    def remove(self, sa: int) -> None:
        if not self._remove(sa):
            raise self._no_such_sa(sa)

    def state(self, sa: int) -> SAState:
        found = self._state(sa)
        if found is None:
            raise self._no_such_sa(sa)
        return SAState(*found)

    def sub_sa_state(self, sa: int, sub_sa: int) -> SubSAState:
        found = self._sub_sa_state(sa, sub_sa) if 0 <= sub_sa <= 0xFFFF else (None,)
        if found is None:
            raise self._no_such_sa(sa)
        if found[0] is None:
            raise self._no_such_sub_sa(sub_sa)
        return SubSAState(*found[0])

    def find(self, spis: NDArray[np.uint32]) -> NDArray[np.uint64]:
        return _ids(self._find(np.ascontiguousarray(spis, np.uint32)))

    def infer(self, sa: int, low: int) -> int | None:
        found = self._infer(sa, low)
        if found is None:
            raise self._no_such_sa(sa)
        return found[0]

    def inner_mtu(self, sa: int, now: int = 0) -> int:
        found = self._inner_mtu(sa, now)
        if found is None:
            raise self._no_such_sa(sa)
        return found

    def set_mtu(self, sa: int, mtu: int, now: int) -> None:
        if not self._set_mtu(sa, min(mtu, 65535), now):
            raise self._no_such_sa(sa)

    # Packets: single ones go straight to the extension.

    def encapsulate_many(
        self, sas: NDArray[np.uint64] | int, packets: Packets, now: int, marks: NDArray[np.uint32] | int = 0
    ) -> Results:
        if not isinstance(sas, int):
            if len(sas) != len(packets):
                raise ConfigError(f"{len(sas)} SA ids for {len(packets)} packets", key="sas", expected="one a packet")
            sas = np.ascontiguousarray(sas, np.uint64)
        if not isinstance(marks, int):
            if len(marks) != len(packets):
                raise ConfigError(
                    f"{len(marks)} marks for {len(packets)} packets", key="marks", expected="one a packet"
                )
            marks = np.ascontiguousarray(marks, np.uint32)
        data, offsets = _contiguous(packets)
        return self._encapsulate_many(sas, marks, data, offsets, now)

    def decapsulate_many(self, packets: Packets, now: int) -> Results:
        data, offsets = _contiguous(packets)
        return self._decapsulate_many(data, offsets, now)

    # Policy, counters

    def set_policies(self, outbound: Sequence[Policy], inbound: Sequence[Policy] = ()) -> None:
        self._set_policies(outbound, inbound)
        self._policies = (tuple(outbound), tuple(inbound))

    def drops(self) -> dict[DropReason, int]:
        return {REASON_BY_CODE[code]: count for code, count in self._drops()}

    def _count(self, reason: DropReason) -> None:
        self._count_code(reason.code)

    def _profile(self, sa: int) -> Profile | None:
        address = self._profile_address(sa)
        return None if address is None else self._by_address[address]

    def _set_profile(self, sa: int, profile: Profile) -> None:
        self._set_native_profile(sa, self._native_profile(profile))

    def _native_profile(self, profile: Profile) -> _native.Profile:
        """Equal profiles share one on the native side, however many SAs have them."""
        known = self._profiles.get(profile)
        if known is None:
            if len(self._profiles) >= self._sweep_at:
                self._forget_unused_profiles()
            known = self._profiles[profile] = _native.Profile(profile)
            self._by_address[known.address] = profile
        return known

    def _forget_unused_profiles(self) -> None:
        for profile, known in list(self._profiles.items()):
            if not known.is_used():
                del self._profiles[profile], self._by_address[known.address]
        self._sweep_at = max(2 * len(self._profiles), 256)


def _contiguous(packets: Packets) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    data, offsets = packets.data, packets.offsets
    if not data.flags.c_contiguous:
        data = np.ascontiguousarray(data)
    if not offsets.flags.c_contiguous:
        offsets = np.ascontiguousarray(offsets)
    return data, offsets


def _ids(memory: _native.Array) -> NDArray[np.uint64]:
    buffer: Any = memory  # NumPy's stubs name the types that have buffers, one by one
    return np.frombuffer(buffer, np.uint64)
