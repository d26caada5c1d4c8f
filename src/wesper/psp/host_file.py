"""The file of a PSP daemon: who this host is, whom it knows, and how its packets look."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from ..errors import ConfigError
from ..host.link import IPAddress
from ..keying.strict_toml import read_strict
from ..keying.text_file import read_text
from ..keying.toml_lines import LineIndex
from .identity import parse_fingerprint
from .local import default_path
from .settings import HostSettings, PeerSettings
from .table import Limits


class _Limits(msgspec.Struct, forbid_unknown_fields=True):
    packets: int | None = None
    octets: int | None = None
    seconds: int | None = None


class _Host(msgspec.Struct, forbid_unknown_fields=True):
    certificate: str
    key: str
    authority: str = ""
    addresses: list[str] = []
    port: int = 1000
    control_port: int = 1000
    version: int = 0
    crypt_offset: int = 0
    rotate_seconds: int = 86_400
    interface: str = "psp0"
    interface_kind: Literal["auto", "tun", "veth"] = "auto"
    engine: Literal["auto", "native", "reference"] = "auto"
    socket: str = ""
    log: str = ""
    limits: _Limits = msgspec.field(default_factory=_Limits)


class _Peer(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    fingerprint: str = ""
    address: str = ""
    control_port: int = 1000


class _File(msgspec.Struct, forbid_unknown_fields=True):
    host: _Host
    peer: list[_Peer] = []


_TABLES: Final[dict[str, type[msgspec.Struct]]] = {"": _File, "host": _Host, "host.limits": _Limits, "peer": _Peer}
_EXPECTED: Final = {
    "certificate": "a file, as `wesper psp identity` makes it",
    "key": "a file, as `wesper psp identity` makes it",
    "addresses": "a list of this host's addresses",
    "host": "a [host] table with certificate and key",
    "name": "what the peer is called here",
}


@dataclass(frozen=True, slots=True)
class HostFile:
    """What a file says.   socket: where processes find the daemon.   log: of its events in the background."""

    settings: HostSettings
    socket: Path
    log: Path


def load_host(path: Path) -> HostFile:
    """Read a daemon's file; names of files in it are from its folder.   Raises ConfigError, OSError."""
    text = read_text(path, "a PSP host's TOML file")
    file, lines = read_strict(text, path, _File, tables=_TABLES, expected=_EXPECTED)
    place = _Place(path, lines)
    host = file.host
    peers = tuple(_peer(place, f"peer[{number}]", each) for number, each in enumerate(file.peer))
    for key, values in (("name", [each.name for each in peers]), ("fingerprint", [each.fingerprint for each in peers])):
        twice = next((i for i, value in enumerate(values) if value is not None and value in values[:i]), None)
        if twice is not None:
            raise place.error(f"peer[{twice}].{key}", "stands twice", "one peer each")
    try:
        limits = Limits(host.limits.packets, host.limits.octets, host.limits.seconds)
        settings = HostSettings(
            certificate=place.file("host.certificate", host.certificate),
            key=place.private("host.key", host.key),
            peers=peers,
            authority=place.file("host.authority", host.authority) if host.authority else None,
            addresses=tuple(
                place.address(f"host.addresses[{number}]", each) for number, each in enumerate(host.addresses)
            ),
            port=host.port,
            control_port=host.control_port,
            version=host.version,
            crypt_offset_octets=host.crypt_offset,
            limits=limits,
            rotate_seconds=host.rotate_seconds,
            interface=host.interface,
            interface_kind=host.interface_kind,
            engine=None if host.engine == "auto" else host.engine,
        )
    except ConfigError as error:
        if error.path is not None:
            raise
        key = f"host.{'limits.' if error.key in ('packets', 'octets', 'seconds') else ''}{error.key}"
        raise place.error(key, error.what, error.expected) from None
    if not peers and settings.authority is None:
        raise place.error("peer", "nobody is known", "[[peer]] tables, or an authority in [host]")
    for number, each in enumerate(peers):
        if each.fingerprint is None and settings.authority is None:
            raise place.error(f"peer[{number}].fingerprint", "missing", "the peer's fingerprint, or an authority")
    socket = path.parent / host.socket if host.socket else default_path()
    return HostFile(settings, socket, path.parent / host.log if host.log else socket.with_suffix(".log"))


class _Place:
    """A file's path and the lines of its keys, for what is wrong in it."""

    def __init__(self, path: Path, lines: LineIndex) -> None:
        self._path, self._lines = path, lines

    def error(self, key: str, what: str, expected: str) -> ConfigError:
        return ConfigError(what, path=self._path, line=self._lines.line(key), key=key, expected=expected)

    def address(self, key: str, text: str) -> IPAddress:
        try:
            return ip_address(text)
        except ValueError:
            raise self.error(key, f"{text!r} is no address", "an IPv4 or IPv6 address") from None

    def private(self, key: str, name: str) -> Path:
        """Return a file that only its owner may read.   Raises KeyMaterialError."""
        path = self.file(key, name)
        read_text(path, "a private key in PEM", private=True)
        return path

    def file(self, key: str, name: str) -> Path:
        path = self._path.parent / name
        if not path.is_file():
            raise self.error(key, f"{path} is no file", _EXPECTED.get(key.rpartition(".")[2], "a file in PEM"))
        return path


def _peer(place: _Place, key: str, peer: _Peer) -> PeerSettings:
    if not peer.name or not peer.name.isprintable():
        raise place.error(f"{key}.name", f"name {peer.name!r}", "what the peer is called here")
    if not 0 < peer.control_port < 65536:
        raise place.error(f"{key}.control_port", str(peer.control_port), "1..65535")
    fingerprint: bytes | None = None
    if peer.fingerprint:
        try:
            fingerprint = parse_fingerprint(peer.fingerprint)
        except ConfigError as error:
            raise place.error(f"{key}.fingerprint", error.what, error.expected) from None
    address: Any = place.address(f"{key}.address", peer.address) if peer.address else None
    return PeerSettings(peer.name, fingerprint, address, peer.control_port)
