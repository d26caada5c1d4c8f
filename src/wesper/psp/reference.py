"""The reference engine of PSP: for reading."""

from __future__ import annotations

import threading
from collections import Counter
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..crypto import psp as crypto
from ..crypto.psp import DeviceKey
from ..engine import Packets
from ..protocols import psp as protocol
from ..protocols.psp import Opened, Profile
from ..verdict import REASON_BY_CODE, Dropped, DropReason
from . import portable
from .batch import Received, Sent
from .interface import Engine, Options, SampledDrop, check_batch, check_key, no_device_key, parsed_version

_FAILED = frozenset(("rx_auth_fail", "rx_error", "rx_bad"))


class ReferenceEngine(Engine):
    """PSP by the functions of `protocols/psp.py`, one packet after another."""

    name: ClassVar[str] = "reference"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self._slots: list[DeviceKey | None] = [None, None]
        self._lock = threading.Lock()
        self._drops: Counter[int] = Counter()
        self._totals: Counter[str] = Counter()

    def set_device_key(self, slot: int, key: bytes | None) -> None:
        self._slots[slot & 1] = None if key is None else DeviceKey(key)

    def derive_key(self, spi: int, version: int) -> bytes:
        return self._device_key(spi >> 31).derive(spi, crypto.version(version))

    def derive_keys(self, spis: NDArray[np.uint32], version: int) -> NDArray[np.uint8]:
        used = crypto.version(version)
        out = np.empty((len(spis), used.key_octets), np.uint8)
        upper = (spis >> np.uint32(31)).astype(np.bool_)
        for slot, chosen in ((0, ~upper), (1, upper)):
            if chosen.any():
                rows = np.empty((int(chosen.sum()), used.key_octets), np.uint8)
                portable.derive_many(self._device_key(slot), spis[chosen], used, rows)
                out[chosen] = rows
        return out

    def input_blocks(self, spi: int, version: int) -> list[bytes]:
        return crypto.input_blocks(spi, crypto.version(version))

    def seal(self, key: bytes, packet: bytes) -> bytes:
        code = parsed_version(packet, 0)
        check_key(key, code)
        return protocol.seal(crypto.version(code), key, packet)

    def open(self, key: bytes, sealed: bytes) -> bytes | None:
        code = parsed_version(sealed, 16)
        check_key(key, code)
        return protocol.open_sealed(crypto.version(code), key, sealed)

    def encapsulate(self, profile: Profile, packet: bytes, spi: int, key: bytes, iv: int) -> bytes | Dropped:
        check_key(key, profile.version)
        sent = protocol.encapsulate(profile, self.options.hash_key, packet, spi, key, iv)
        if isinstance(sent, protocol.Refused):
            self.count(sent.reason, 1)
            return Dropped(sent.reason, sent.mtu)
        with self._lock:
            self._totals["tx_packets"] += 1
            self._totals["tx_bytes"] += protocol.payload_octets(sent)
        return sent

    def decapsulate(self, packet: bytes) -> Opened | Dropped:
        options = self.options
        opened = protocol.decapsulate(
            lambda slot: self._slots[slot], options.versions, options.port, options.verify_checksum, packet
        )
        reason = opened if isinstance(opened, DropReason) else opened.reason
        with self._lock:
            if reason is not None:
                self._drops[reason.code] += 1
                if reason.counter in _FAILED:
                    self._totals[f"{reason.counter}_bytes"] += len(packet)
            if isinstance(opened, Opened):
                self._totals["rx_packets"] += 1
                self._totals["rx_bytes"] += opened.octets
        if isinstance(opened, DropReason):
            return Dropped(opened)
        if opened.reason is DropReason.PSP_SAMPLED:
            return SampledDrop(opened.reason, opened=opened)
        return opened if opened.reason is None else Dropped(opened.reason)

    def encapsulate_many(
        self,
        profile: Profile,
        packets: Packets,
        spis: NDArray[np.uint32],
        keys: NDArray[np.uint8],
        ivs: NDArray[np.uint64],
    ) -> Sent:
        check_batch(profile, packets, spis, keys, ivs)
        codes = np.zeros(len(packets), np.uint8)
        out = []
        for i, packet in enumerate(packets):
            sent = self.encapsulate(profile, packet, int(spis[i]), keys[i].tobytes(), int(ivs[i]))
            if isinstance(sent, Dropped):
                codes[i], sent = sent.reason.code, b""
            out.append(sent)
        return Sent(Packets.of(out), codes)

    def decapsulate_many(self, packets: Packets) -> Received:
        n = len(packets)
        codes, flags = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
        spis, ivs, cookies = np.zeros(n, np.uint32), np.zeros(n, np.uint64), np.zeros(n, np.uint64)
        out = []
        for i, packet in enumerate(packets):
            verdict = self.decapsulate(packet)
            if isinstance(verdict, Dropped):
                codes[i] = verdict.reason.code
            opened = verdict.opened if isinstance(verdict, SampledDrop) else verdict
            if not isinstance(opened, Opened):
                out.append(b"")
                continue
            spis[i], ivs[i] = opened.spi, opened.iv
            cookies[i] = int.from_bytes(opened.cookie or b"", "big")
            flags[i] = (
                (opened.sample << 7)
                | ((opened.reason is not None) << 6)
                | (opened.version << 2)
                | ((opened.cookie is not None) << 1)
                | 1
            )
            out.append(opened.packet)
        return Received(Packets.of(out), codes, spis, ivs, cookies, flags)

    def count(self, reason: DropReason, packets: int) -> None:
        with self._lock:
            self._drops[reason.code] += packets

    def drops(self) -> dict[DropReason, int]:
        return {REASON_BY_CODE[code]: count for code, count in sorted(self._drops.items())}

    def totals(self) -> dict[str, int]:
        return dict(self._totals)

    def _device_key(self, slot: int) -> DeviceKey:
        found = self._slots[slot]
        if found is None:
            raise no_device_key(slot)
        return found
