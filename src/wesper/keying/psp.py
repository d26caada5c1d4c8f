"""PSP's keys in a key file: associations, and device keys that all associations of a receiver come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..crypto.psp import DeviceKey
from ..crypto.psp import version as psp_version
from ..errors import ConfigError
from ..protocols.ip import IPAddress
from ..protocols.psp import Profile
from ..sa import AddressRange, Direction, Selector
from ..wire.psp import PORT, VERSION_NAMES


@dataclass(frozen=True, slots=True, repr=False)
class PSPDevice:
    """A receiver: with its device keys every packet for it opens.   Keys never show in its repr.

    keys: by slot, each 32 octets, None where it is not known.   address: whose packets; None: anybody's.
    port: UDP destination.   path, line: where the file says so, for messages.
    """

    keys: tuple[bytes | None, bytes | None]
    name: str = ""
    address: AddressRange | None = None
    port: int = PORT
    path: Path | str | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"PSPDevice(name={self.name!r}, port={self.port})"

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name or "a PSP device"

    def receives(self, destination: IPAddress, port: int) -> bool:
        """Whether a packet to there is for it."""
        here = self.address is None or self.address.holds(destination.version, int(destination))
        return here and port == self.port

    def derive(self, spi: int, version: int) -> bytes | None:
        """Return the key of an SPI, None if the device key that it points to is not known."""
        key = self.keys[spi >> 31]
        return None if key is None else DeviceKey(key).derive(spi, psp_version(version))


@dataclass(frozen=True, slots=True, repr=False)
class PSPAssociation:
    """One association.   Its key never shows in its repr.

    profile: how its packets look; of one that is only opened, version and port matter.
    direction: OUT: packets go from local to remote.   local, remote: outer addresses; None: any.
    iv: the last one used before the packets to come.   selectors: what it is for, where it sends.
    path, line: where the file says so, for messages.
    """

    profile: Profile
    spi: int
    key: bytes
    name: str = ""
    direction: Direction = Direction.OUT
    local: AddressRange | None = None
    remote: AddressRange | None = None
    iv: int = 0
    selectors: tuple[Selector, ...] = ()
    path: Path | str | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        named = f"name={self.name!r}, " if self.name else ""
        return f"PSPAssociation({named}spi={self.spi:#010x}, version={self.profile.version})"

    @property
    def title(self) -> str:
        """What people call it: its name, or its SPI."""
        return self.name or f"SPI {self.spi:#010x}"

    @property
    def suite(self) -> str:
        """The version's name."""
        return VERSION_NAMES[self.profile.version]

    def carries(self, spi: int, version: int, source: IPAddress, destination: IPAddress, port: int) -> bool:
        """Whether a packet with this header and these outer addresses is one of this association's."""
        ends = (self.local, self.remote) if self.direction is Direction.OUT else (self.remote, self.local)
        return (spi, version, port) == (self.spi, self.profile.version, self.profile.port) and all(
            wanted is None or wanted.holds(found.version, int(found))
            for wanted, found in zip(ends, (source, destination), strict=True)
        )

    def at_fault(self, error: ConfigError) -> ConfigError:
        """Return the same error with this association's place."""
        named = f"{self.title}: {error.what}" if self.name else error.what
        return type(error)(named, path=self.path, line=self.line, key=error.key, expected=error.expected)


@dataclass(frozen=True, slots=True)
class PSPKeys:
    """What a key file says of PSP."""

    associations: Sequence[PSPAssociation] = ()
    devices: Sequence[PSPDevice] = ()

    def __bool__(self) -> bool:
        return bool(self.associations or self.devices)

    @property
    def ports(self) -> frozenset[int]:
        """UDP destination ports that are PSP's."""
        return frozenset(each.profile.port for each in self.associations) | frozenset(d.port for d in self.devices)
