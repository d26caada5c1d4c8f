"""Static SAs in wesper's own form: a TOML file with a `[[sa]]` table for each; PSP has tables of its own beside it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, summarize_address_range
from pathlib import Path
from typing import Literal

import msgspec

from ..crypto import SUITES
from ..engine.interface import split_keys
from ..errors import ConfigError, KeyMaterialError
from ..protocols import PROTOCOLS, Format
from ..sa import AddressRange, Direction, Inner, Mode, Profile, UDPEncapsulation
from ..sa.replay import DEFAULT_WINDOW
from ..sa.selectors import Opaque
from .family_toml import (
    FAMILY_WORDS,
    EESPTable,
    OptionTable,
    StatelessTable,
    SubSAsTable,
    WESPv2Table,
    read_format,
    write_format,
)
from .psp import PSPKeys
from .psp_toml import PSP_WORDS, AssociationTable, DeviceTable, psp_keys
from .static import Encapsulated, StaticSA, legacy_word
from .strict_toml import read_strict
from .tables import ReadKeyFile, SelectorTable, TableReader


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class _Pair(_Strict):
    local: str
    remote: str


class _Ports(_Strict):
    local_port: int = 4500
    remote_port: int = 4500
    checksum: bool | None = None


class _Association(_Strict):
    spi: int | Literal["*"]
    suite: str
    name: str = ""
    protocol: str = "esp"
    direction: Literal["out", "in"] = "out"
    mode: Literal["tunnel", "transport", "beet", "auto"] = "tunnel"
    local: str = ""
    remote: str = ""
    key: str | None = None
    salt: str | None = None
    auth_key: str | None = None
    key_file: str | None = None
    inner: _Pair | None = None
    encapsulation: _Ports | Literal["none", "udp", "auto"] = "none"
    esn: bool = True
    window: int = DEFAULT_WINDOW
    sequence: int = 0
    selectors: list[SelectorTable] = []
    wespv2: WESPv2Table | None = None
    eesp: EESPTable | None = None


class _File(_Strict):
    sa: list[_Association] = []
    association: list[AssociationTable] = []
    device: list[DeviceTable] = []


_TABLES: dict[str, type[msgspec.Struct]] = {
    "": _File,
    "association": AssociationTable,
    "association.selectors": SelectorTable,
    "device": DeviceTable,
    "sa": _Association,
    "sa.inner": _Pair,
    "sa.encapsulation": _Ports,
    "sa.selectors": SelectorTable,
    "sa.wespv2": WESPv2Table,
    "sa.wespv2.options": OptionTable,
    "sa.eesp": EESPTable,
    "sa.eesp.options": OptionTable,
    "sa.eesp.stateless": StatelessTable,
    "sa.eesp.sub_sas": SubSAsTable,
}
_WORDS = {
    **PSP_WORDS,
    **FAMILY_WORDS,
    "direction": "out or in",
    "encapsulation": "none, udp, auto or a table of ports",
    "mode": "tunnel, transport, beet or auto",
    "spi": 'a number or "*"',
}


def read_toml(text: str, path: Path | str, read_key_file: ReadKeyFile | None = None) -> list[StaticSA]:
    """Read SAs from TOML.   path: for messages, and where a `key_file` is relative to.

    read_key_file: None refuses `key_file`.   Raises ConfigError or KeyMaterialError with file, line and key.
    """
    file, lines = read_strict(text, path, _File, tables=_TABLES, expected=_WORDS)
    return [_Reader(f"sa[{place}]", path, lines, read_key_file).sa(given) for place, given in enumerate(file.sa)]


def read_psp_toml(text: str, path: Path | str, read_key_file: ReadKeyFile | None = None) -> PSPKeys:
    """Read what TOML says of PSP; arguments and errors as of `read_toml`."""
    file, lines = read_strict(text, path, _File, tables=_TABLES, expected=_WORDS)
    return psp_keys(file.association, file.device, path, lines, read_key_file)


def write_toml(sas: Sequence[StaticSA]) -> str:
    """Return the TOML text of SAs, keys inline."""
    return "\n".join(["# Static SAs with their keys: for your eyes only (chmod 600).", *map(_table, sas)])


class _Reader(TableReader):
    """Makes one SA of its table."""

    def sa(self, given: _Association) -> StaticSA:
        """Return the SA.   Raises ConfigError or KeyMaterialError with place."""
        self._known(given)
        settings = self._format(given)
        key, salt, auth_key = self._keys(given, settings)
        sa = StaticSA(
            suite=given.suite,
            spi=None if given.spi == "*" else int(given.spi),
            key=key,
            salt=salt,
            auth_key=auth_key,
            name=given.name,
            protocol=given.protocol,
            direction=Direction(given.direction),
            mode=None if given.mode == "auto" else Mode(given.mode),
            local=self.ranges("local", [given.local])[0] if given.local else None,
            remote=self.ranges("remote", [given.remote])[0] if given.remote else None,
            inner=self._inner(given.inner),
            encapsulation=self._encapsulation(given.encapsulation),
            esn=given.esn,
            window=given.window,
            sequence=given.sequence,
            selectors=self.selectors(given.selectors),
            format=settings,
            path=self._path,
            line=self._lines.line(self._at),
        )
        try:
            sa.check()
        except ConfigError as error:
            raise self.wrong(error.key, error.what, error.expected, type(error)) from None
        return sa

    def _format(self, given: _Association) -> Format | None:
        """Return the protocol's own settings, None: its default ones."""
        for name, table in (("wespv2", given.wespv2), ("eesp", given.eesp)):
            if table is None:
                continue
            if given.protocol != name:
                raise self.wrong(name, f"settings of {name} with protocol {given.protocol!r}", f"protocol = {name!r}")
            try:
                return read_format(table)
            except ConfigError as error:
                raise self.wrong(f"{name}.{error.key}", error.what, error.expected, type(error)) from None
        return None

    def _known(self, given: _Association) -> None:
        if given.protocol not in PROTOCOLS:
            raise self.wrong("protocol", f"no protocol {given.protocol!r}", " or ".join(PROTOCOLS))
        if given.suite in SUITES:
            return
        if legacy_word(given.suite):
            raise self.wrong("suite", f"{given.suite!r} is a legacy suite, which wesper refuses", ", ".join(SUITES))
        near = difflib.get_close_matches(given.suite, SUITES, 1)
        raise self.wrong("suite", f"no suite {given.suite!r}", near[0] if near else ", ".join(SUITES))

    def _keys(self, given: _Association, settings: Format | None) -> tuple[bytes, bytes, bytes]:
        inline = (given.key, given.salt, given.auth_key)
        if given.key_file is None:
            if given.key is None and SUITES[given.suite].key_octets != (0,):
                raise self.wrong("key", "missing", "key or key_file", KeyMaterialError)
            return self.hex("key", given.key), self.hex("salt", given.salt), self.hex("auth_key", given.auth_key)
        if any(text is not None for text in inline):
            raise self.wrong("key_file", "keys both here and in a file", "one of the two", KeyMaterialError)
        row = self.key_row(given.key_file)
        try:
            profile = Profile(
                given.suite,
                Mode.TRANSPORT,
                protocol=given.protocol,
                esn=given.esn,
                window=given.window,
                format=settings,
            )
            key, salt, _ = split_keys(profile, len(row))
        except KeyMaterialError as error:
            what = f"{len(row)} octets for {given.suite}"
            raise self.wrong("key_file", what, f"{error.expected} octets", KeyMaterialError) from None
        except ConfigError as error:
            raise self.wrong(error.key, error.what, error.expected) from None
        return row[:key], row[key : key + salt], row[key + salt :]

    def _inner(self, given: _Pair | None) -> Inner | None:
        if given is None:
            return None
        try:
            return Inner(ip_address(given.local), ip_address(given.remote))
        except ValueError:
            raise self.wrong("inner", "not two addresses", "local and remote") from None

    def _encapsulation(self, given: _Ports | str) -> UDPEncapsulation | Encapsulated:
        if isinstance(given, str):
            return UDPEncapsulation() if given == "udp" else Encapsulated(given)
        if not (0 < given.local_port < 65536 and 0 < given.remote_port < 65536):
            raise self.wrong("encapsulation", "a port that UDP has not", "1..65535")
        return UDPEncapsulation(given.local_port, given.remote_port, given.checksum)


def _table(sa: StaticSA) -> str:
    values: list[tuple[str, str]] = []
    if sa.name:
        values.append(("name", _text(sa.name)))
    values.append(("spi", '"*"' if sa.spi is None else f"{sa.spi:#010x}"))
    if sa.protocol != "esp":
        values.append(("protocol", _text(sa.protocol)))
    values += [("suite", _text(sa.suite)), ("direction", _text(sa.direction.value))]
    values.append(("mode", _text("auto" if sa.mode is None else sa.mode.value)))
    values += [(key, _text(_range(ends))) for key, ends in (("local", sa.local), ("remote", sa.remote)) if ends]
    if sa.inner is not None:
        values.append(("inner", f'{{ local = "{sa.inner.local}", remote = "{sa.inner.remote}" }}'))
    around = sa.encapsulation
    if isinstance(around, UDPEncapsulation):
        checksum = "" if around.checksum is None else f", checksum = {str(around.checksum).lower()}"
        ports = f"local_port = {around.local_port}, remote_port = {around.remote_port}"
        values.append(("encapsulation", f"{{ {ports}{checksum} }}"))
    elif around is Encapsulated.AS_SEEN:
        values.append(("encapsulation", '"auto"'))
    values.append(("esn", str(sa.esn).lower()))
    if sa.window != DEFAULT_WINDOW:
        values.append(("window", str(sa.window)))
    if sa.sequence:
        values.append(("sequence", str(sa.sequence)))
    secrets = (("key", sa.key), ("salt", sa.salt), ("auth_key", sa.auth_key))
    values += [(key, f'"{octets.hex()}"') for key, octets in secrets if octets]
    lines = ["", "[[sa]]", *(f"{key} = {value}" for key, value in values)]
    lines += [] if sa.format is None else write_format(sa.format)
    for selector in sa.selectors:
        lines += ["", "[[sa.selectors]]"]
        for key, ranges in (("local", selector.local), ("remote", selector.remote)):
            if ranges:
                lines.append(f"{key} = [{', '.join(_text(_range(each)) for each in ranges)}]")
        if selector.protocol is not None:
            lines.append(f"protocol = {selector.protocol}")
        for key, wanted in (("local_ports", selector.local_ports), ("remote_ports", selector.remote_ports)):
            if wanted is not None:
                lines.append(f'{key} = "{"opaque" if isinstance(wanted, Opaque) else f"{wanted[0]}-{wanted[1]}"}"')
    return "\n".join([*lines, ""])


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _range(found: AddressRange) -> str:
    kind = IPv4Address if found.version == 4 else IPv6Address
    first, last = kind(found.first), kind(found.last)
    networks = list(summarize_address_range(first, last))
    if len(networks) == 1:
        return str(first) if first == last else str(networks[0])
    return f"{first}-{last}"
