"""What a host of PSP connections is: its ports, its identity, whom it knows, and how its packets look."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..crypto.psp import VERSIONS
from ..errors import ConfigError
from ..host.link import IPAddress
from ..host.tun import DeviceKind
from ..wire.psp import PORT
from .table import Limits


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """A peer that this host knows.

    fingerprint: SHA-256 of its certificate, 32 octets; None: its certificate is of the host's authority.
    address: where it is; None: anywhere, and then it has to come to us.   control_port: of its exchange.
    """

    name: str
    fingerprint: bytes | None = None
    address: IPAddress | None = None
    control_port: int = PORT


@dataclass(frozen=True, slots=True)
class HostSettings:
    """A host.

    certificate, key: files, as `wesper psp identity` makes them.   peers: those that it knows.   authority: file of
    certificates; whoever has one from there is known too.
    addresses: of this host that are used; none: all.   port: of UDP; control_port: of TCP, for the exchange.
    version: of PSP, for connections that we ask for.   crypt_offset_octets: a multiple of 4 up to 252; 4 leaves the
    inner ports readable on the way.   limits: of each association.   rotate_seconds: of the device key.
    interface: the name of the streams' interface, "" for no streams.   interface_kind: see host/tun.py.
    engine: "native", "reference", or None for the fastest built.   marks: a file for IVs that outlive the process;
    None: in memory, which is enough, since all keys end with the process.
    Raises ConfigError.
    """

    certificate: Path
    key: Path
    peers: tuple[PeerSettings, ...] = ()
    authority: Path | None = None
    addresses: tuple[IPAddress, ...] = ()
    port: int = PORT
    control_port: int = PORT
    version: int = 0
    crypt_offset_octets: int = 0
    limits: Limits = field(default_factory=Limits)
    rotate_seconds: int = 86_400
    interface: str = "psp0"
    interface_kind: DeviceKind = "auto"
    engine: str | None = None
    marks: Path | None = None

    def __post_init__(self) -> None:
        for key, value, good, expected in (
            ("port", self.port, 0 < self.port < 65536, "1..65535"),
            ("control_port", self.control_port, 0 < self.control_port < 65536, "1..65535"),
            ("version", self.version, self.version in VERSIONS, "0..3"),
            (
                "crypt_offset",
                self.crypt_offset_octets,
                self.crypt_offset_octets in range(0, 256, 4) and (self.version < 2 or not self.crypt_offset_octets),
                "a multiple of 4 up to 252; 0 for versions 2 and 3",
            ),
            ("rotate_seconds", self.rotate_seconds, self.rotate_seconds > 0, "1 or more"),
            ("interface", self.interface, len(self.interface.encode()) < 16, "1..15 characters, or none"),
        ):
            if not good:
                raise ConfigError(str(value), key=key, expected=expected)
