"""PSP's tables of a key file: `[[association]]` and `[[device]]`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, Literal

import msgspec

from ..crypto.psp import DEVICE_KEY, VERSIONS
from ..errors import ConfigError, KeyMaterialError
from ..protocols.ip import IPAddress
from ..protocols.modes import Mode, Outer
from ..protocols.psp import INDEX_MASK, Profile, SourcePort
from ..sa import AddressRange, Direction
from ..wire.psp import PORT
from .psp import PSPAssociation, PSPDevice, PSPKeys
from .tables import ReadKeyFile, SelectorTable, TableReader
from .toml_lines import LineIndex

_LARGEST_IV: Final = (1 << 64) - 1


class AssociationTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An `[[association]]` table."""

    spi: int
    version: int = 0
    name: str = ""
    key: str | None = None
    key_file: str | None = None
    device: str | None = None
    direction: Literal["out", "in"] = "out"
    mode: Literal["transport", "tunnel"] = "transport"
    local: str = ""
    remote: str = ""
    port: int = PORT
    source_port: int | list[int] | Literal["hash"] = "hash"
    rules: Literal["wesper", "google"] = "wesper"
    crypt_offset: int = 0
    cookie: str | None = None
    extension: str = ""
    sample: bool = False
    drop: bool = False
    checksum: bool = False
    mtu: int = 65535
    iv: int = 0
    selectors: list[SelectorTable] = []


class DeviceTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A `[[device]]` table."""

    name: str = ""
    keys: list[str] | None = None
    key_file: str | None = None
    address: str = ""
    port: int = PORT


PSP_WORDS: Final = {
    "rules": "wesper or google",
    "source_port": "hash, a port, or a list of 16 or more",
    "keys": "the device keys 0 and 1 in hexadecimal",
}
_PROFILE_KEYS: Final = {"crypt_offset_words": "crypt_offset", "ports": "source_port"}


def psp_keys(
    associations: Sequence[AssociationTable],
    devices: Sequence[DeviceTable],
    path: Path | str,
    lines: LineIndex,
    read_key_file: ReadKeyFile | None,
) -> PSPKeys:
    """Return what the tables say.   Raises ConfigError or KeyMaterialError with place."""
    found = [
        _DeviceReader(f"device[{place}]", path, lines, read_key_file).device(given)
        for place, given in enumerate(devices)
    ]
    by_name: dict[str, PSPDevice] = {}
    for place, each in enumerate(found):
        if each.name and by_name.setdefault(each.name, each) is not each:
            reader = _DeviceReader(f"device[{place}]", path, lines, None)
            raise reader.wrong("name", f"a second device {each.name!r}", "another name")
    read = [
        _AssociationReader(f"association[{place}]", path, lines, read_key_file).association(given, by_name)
        for place, given in enumerate(associations)
    ]
    return PSPKeys(read, found)


def write_received(associations: Iterable[tuple[PSPAssociation, str]]) -> Iterable[str]:
    """Yield the TOML text of associations to be opened, keys inline, a table at a time.   With each its comment."""
    yield "# PSP associations with their keys: for your eyes only (chmod 600).\n"
    for each, comment in associations:
        lines = ["", "[[association]]" + (f"  # {comment}" if comment else "")]
        if each.name:
            lines.append(f"name = {json.dumps(each.name)}")
        lines += [f"spi = {each.spi:#010x}", f"version = {each.profile.version}"]
        lines += [f'key = "{each.key.hex()}"', f'direction = "{each.direction.value}"']
        if each.profile.port != PORT:
            lines.append(f"port = {each.profile.port}")
        yield "\n".join([*lines, ""])


class _DeviceReader(TableReader):
    """Makes one device of its table."""

    def device(self, given: DeviceTable) -> PSPDevice:
        """Return the device.   Raises ConfigError or KeyMaterialError with place."""
        if not 0 < given.port < 65536:
            raise self.wrong("port", f"port {given.port}", "1..65535")
        return PSPDevice(
            self._keys(given),
            given.name,
            self.ranges("address", [given.address])[0] if given.address else None,
            given.port,
            self._path,
            self._lines.line(self._at),
        )

    def _keys(self, given: DeviceTable) -> tuple[bytes | None, bytes | None]:
        if (given.keys is None) == (given.key_file is None):
            what = "missing" if given.keys is None else "keys both here and in a file"
            raise self.wrong("keys", what, "keys or key_file", KeyMaterialError)
        if given.key_file is not None:
            row = self.key_row(given.key_file)
            if len(row) not in (DEVICE_KEY, 2 * DEVICE_KEY):
                expected = f"{DEVICE_KEY} or {2 * DEVICE_KEY}: device key 0, or both in a row"
                raise self.wrong("key_file", f"{len(row)} octets", expected, KeyMaterialError)
            return row[:DEVICE_KEY], row[DEVICE_KEY:] or None
        keys = [self.hex("keys", text) or None for text in given.keys or []]
        if len(keys) not in (1, 2) or not any(keys) or any(each and len(each) != DEVICE_KEY for each in keys):
            octets = ", ".join(str(len(each or b"")) for each in keys) or "none"
            expected = f'one or two of {DEVICE_KEY} octets; "" for one that is not known'
            raise self.wrong("keys", f"keys of these octets: {octets}", expected, KeyMaterialError)
        return keys[0], keys[1] if len(keys) > 1 else None


class _AssociationReader(TableReader):
    """Makes one association of its table."""

    def association(self, given: AssociationTable, devices: dict[str, PSPDevice]) -> PSPAssociation:
        """Return the association.   Raises ConfigError or KeyMaterialError with place."""
        if not 0 <= given.spi < 1 << 32 or not given.spi & INDEX_MASK:
            raise self.wrong("spi", f"{given.spi:#x}", "1..0xffffffff, and not 0x80000000")
        if given.version not in VERSIONS:
            raise self.wrong("version", str(given.version), "0..3")
        if not 0 <= given.iv <= _LARGEST_IV:
            raise self.wrong("iv", str(given.iv), f"0..{_LARGEST_IV:#x}, the last one used")
        local = self.ranges("local", [given.local])[0] if given.local else None
        remote = self.ranges("remote", [given.remote])[0] if given.remote else None
        return PSPAssociation(
            self._profile(given, local, remote),
            given.spi,
            self._key(given, devices),
            given.name,
            Direction(given.direction),
            local,
            remote,
            given.iv,
            self.selectors(given.selectors),
            self._path,
            self._lines.line(self._at),
        )

    def _key(self, given: AssociationTable, devices: dict[str, PSPDevice]) -> bytes:
        if [given.key, given.key_file, given.device].count(None) != 2:
            what = "missing" if given.key is given.key_file is given.device is None else "given twice"
            raise self.wrong("key", what, "one of key, key_file and device", KeyMaterialError)
        octets = VERSIONS[given.version].key_octets
        if given.device is not None:
            device = devices.get(given.device)
            if device is None:
                near = difflib.get_close_matches(given.device, devices, 1) or list(devices)
                expected = ", ".join(near) or "the name of a [[device]]"
                raise self.wrong("device", f"no device {given.device!r}", expected)
            derived = device.derive(given.spi, given.version)
            if derived is None:
                slot = given.spi >> 31
                raise self.wrong(
                    "device", f"its device key {slot} is not known", "an SPI of the other", KeyMaterialError
                )
            return derived
        name = "key" if given.key_file is None else "key_file"
        key = self.hex("key", given.key) if given.key_file is None else self.key_row(given.key_file)
        if len(key) != octets:
            expected = f"{octets} octets for version {given.version}"
            raise self.wrong(name, f"{len(key)} octets", expected, KeyMaterialError)
        return key

    def _profile(self, given: AssociationTable, local: AddressRange | None, remote: AddressRange | None) -> Profile:
        google = given.rules == "google"
        if google and given.source_port != "hash":
            raise self.wrong("source_port", "google's rules make it of the inner ports", "none")
        source, ports = SourcePort.XOR if google else SourcePort.HASH, tuple[int, ...]()
        if isinstance(given.source_port, list):
            source, ports = SourcePort.TABLE, tuple(given.source_port)
        elif isinstance(given.source_port, int):
            source, ports = SourcePort.FIXED, (given.source_port,)
        outer = None
        mode = Mode(given.mode)
        if mode is Mode.TUNNEL and not google and given.direction == "out":
            outer = Outer(self._one("local", local), self._one("remote", remote))
        try:
            return Profile(
                mode,
                given.version,
                given.crypt_offset,
                None if given.cookie is None else self.hex("cookie", given.cookie),
                self.hex("extension", given.extension),
                outer,
                given.port,
                source,
                ports,
                given.checksum,
                given.sample,
                given.drop,
                mtu=given.mtu,
            )
        except ConfigError as error:
            if error.path is not None:
                raise
            raise self.wrong(_PROFILE_KEYS.get(error.key, error.key), error.what, error.expected) from None

    def _one(self, key: str, found: AddressRange | None) -> IPAddress:
        if found is None or found.first != found.last:
            what = "missing, and a tunnel's outer header needs it" if found is None else "more than one address"
            raise self.wrong(key, what, 'one address, or rules = "google"')
        return IPv4Address(found.first) if found.version == 4 else IPv6Address(found.first)
