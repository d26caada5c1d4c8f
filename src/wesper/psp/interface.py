"""One interface over both engines: device keys, derivation, packets. SPIs, IVs and rotation are the device's business.

Nothing is kept for an association: the receiver has two device keys, the sender gets SPI, key and IV with each packet.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..crypto.psp import VERSIONS, version
from ..engine import Packets
from ..errors import ConfigError
from ..protocols.psp import Opened, Profile
from ..verdict import PSP_COUNTERS, Dropped, DropReason
from ..wire.psp import PORT
from .batch import Received, Sent


@dataclass(frozen=True, slots=True)
class Options:
    """What an engine is made with.

    port: UDP port that is PSP's.   versions: those that are accepted.   verify_checksum: UDP's, where it is not 0.
    hash_key: 16 octets, of source ports and flow labels; None: random.   Raises ConfigError.
    """

    port: int = PORT
    versions: frozenset[int] = frozenset(VERSIONS)
    verify_checksum: bool = True
    hash_key: bytes = field(default_factory=lambda: os.urandom(16), repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.port <= 65535:
            raise ConfigError(f"port {self.port}", key="port", expected="1..65535")
        if not self.versions or not self.versions <= VERSIONS.keys():
            raise ConfigError(f"versions {sorted(self.versions)}", key="versions", expected="some of 0..3")
        if len(self.hash_key) != 16:
            raise ConfigError(f"{len(self.hash_key)} octets", key="hash_key", expected="16 octets")


@dataclass(frozen=True, slots=True)
class SampledDrop(Dropped):
    """A packet that its sender wants sampled and thrown away.   opened: for the sampler."""

    opened: Opened | None = None


class Engine(ABC):
    """PSP's packets, statelessly.   Calls from several threads are safe."""

    name: ClassVar[str]
    options: Options

    @abstractmethod
    def set_device_key(self, slot: int, key: bytes | None) -> None:
        """Put a device key of 32 octets into slot 0 or 1, or empty it.   It can't be read again.

        Raises KeyMaterialError.
        """

    @abstractmethod
    def derive_key(self, spi: int, version: int) -> bytes:
        """Return the key of an SPI of this device, 16 or 32 octets.   Raises ConfigError if there is no device key."""

    @abstractmethod
    def derive_keys(self, spis: NDArray[np.uint32], version: int) -> NDArray[np.uint8]:
        """Return the keys of many SPIs of this device, one a row.   Raises ConfigError as derive_key does."""

    @abstractmethod
    def input_blocks(self, spi: int, version: int) -> list[bytes]:
        """Return what the derivation's PRF takes, one block for each 16 octets of key: for known answers."""

    @abstractmethod
    def seal(self, key: bytes, packet: bytes) -> bytes:
        """Return a PSP packet protected, IP and UDP left aside: for known answers.

        packet: PSP header, extension and payload in clear.   Raises ConfigError for what no header can be.
        """

    @abstractmethod
    def open(self, key: bytes, sealed: bytes) -> bytes | None:
        """Return a PSP packet in clear, None if the ICV does not fit.   Raises ConfigError as seal does."""

    @abstractmethod
    def encapsulate(self, profile: Profile, packet: bytes, spi: int, key: bytes, iv: int) -> bytes | Dropped:
        """Protect one IP packet.   iv: never used with this key; whoever gives it sees to that.

        Drops: the PSP_OUT reasons.   Raises ConfigError if key has not the version's length.
        """

    @abstractmethod
    def decapsulate(self, packet: bytes) -> Opened | Dropped:
        """Open one packet.   Drops: NOT_FOR_US and the PSP reasons; PSP_SAMPLED as SampledDrop."""

    @abstractmethod
    def encapsulate_many(
        self,
        profile: Profile,
        packets: Packets,
        spis: NDArray[np.uint32],
        keys: NDArray[np.uint8],
        ivs: NDArray[np.uint64],
    ) -> Sent:
        """Protect many packets.   spis, ivs: (n,).   keys: (n, 16 or 32), as the version's.   Raises ConfigError."""

    @abstractmethod
    def decapsulate_many(self, packets: Packets) -> Received:
        """Open many packets."""

    @abstractmethod
    def count(self, reason: DropReason, packets: int) -> None:
        """Count packets that were dropped before they came here."""

    @abstractmethod
    def drops(self) -> dict[DropReason, int]:
        """Return how often each reason has dropped a packet; only those that have."""

    @abstractmethod
    def totals(self) -> dict[str, int]:
        """Return those of PSP_COUNTERS that no drop reason raises: packets and octets."""

    def counters(self) -> dict[str, int]:
        """Return all of PSP_COUNTERS.   Rotations are counted by the device."""
        counts = dict.fromkeys(PSP_COUNTERS, 0) | self.totals()
        for reason, count in self.drops().items():
            if reason.counter:
                counts[reason.counter] += count
        return counts


def check_batch(
    profile: Profile, packets: Packets, spis: NDArray[np.uint32], keys: NDArray[np.uint8], ivs: NDArray[np.uint64]
) -> None:
    """Raise ConfigError if a batch does not fit together."""
    n, octets = len(packets), version(profile.version).key_octets
    for key, array, shape, dtype in (
        ("spis", spis, (n,), np.uint32),
        ("keys", keys, (n, octets), np.uint8),
        ("ivs", ivs, (n,), np.uint64),
    ):
        if array.shape != shape or array.dtype != dtype:
            shown = f"{array.dtype} {array.shape}"
            raise ConfigError(shown, key=key, expected=f"{np.dtype(dtype)} {shape}, one a packet")


def no_device_key(slot: int) -> ConfigError:
    """Return the complaint about an SPI whose device key is not there."""
    return ConfigError(f"no device key in slot {slot}", key="spi", expected="one whose top bit points to a device key")


def parsed_version(packet: bytes, icv: int) -> int:
    """Return the version of a PSP packet that may be sealed or opened.   Raises ConfigError."""
    code = (packet[3] >> 2) & 15 if len(packet) >= 16 + icv else -1
    if code not in VERSIONS or (not VERSIONS[code].gmac and 16 + 4 * (packet[2] & 63) + icv > len(packet)):
        raise ConfigError("no PSP packet", key="packet", expected="header of version 0..3, Crypt Offset within it")
    return code


def check_key(key: bytes, code: int) -> None:
    """Raise ConfigError if a key has not the version's length."""
    octets = version(code).key_octets
    if len(key) != octets:
        raise ConfigError(f"{len(key)} octets", key="key", expected=f"{octets} octets")
