"""Static SAs in wesper's own form: a TOML file with a `[[sa]]` table for each."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, summarize_address_range
from pathlib import Path
from typing import Literal

import msgspec

from ..crypto import SUITES
from ..engine.interface import split_keys
from ..errors import ConfigError, KeyMaterialError
from ..protocols import PROTOCOLS
from ..sa import OPAQUE, AddressRange, Direction, Inner, Mode, Profile, Selector, UDPEncapsulation
from ..sa.replay import DEFAULT_WINDOW
from ..sa.selectors import Opaque
from .static import Encapsulated, StaticSA, legacy_word
from .strict_toml import read_strict
from .toml_lines import LineIndex

ReadKeyFile = Callable[[Path], bytes]
"""Returns the octets of a `key_file`: key, salt and auth key in a row."""


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class _Pair(_Strict):
    local: str
    remote: str


class _Ports(_Strict):
    local_port: int = 4500
    remote_port: int = 4500
    checksum: bool | None = None


class _Selector(_Strict):
    local: list[str] = []
    remote: list[str] = []
    protocol: int | None = None
    local_ports: int | str | None = None
    remote_ports: int | str | None = None


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
    selectors: list[_Selector] = []


class _File(_Strict):
    sa: list[_Association]


_TABLES: dict[str, type[_Strict]] = {
    "": _File,
    "sa": _Association,
    "sa.inner": _Pair,
    "sa.encapsulation": _Ports,
    "sa.selectors": _Selector,
}
_WORDS = {
    "direction": "out or in",
    "encapsulation": "none, udp, auto or a table of ports",
    "mode": "tunnel, transport, beet or auto",
    "spi": 'a number or "*"',
}
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def read_toml(text: str, path: Path | str, read_key_file: ReadKeyFile | None = None) -> list[StaticSA]:
    """Read SAs from TOML.   path: for messages, and where a `key_file` is relative to.

    read_key_file: None refuses `key_file`.   Raises ConfigError or KeyMaterialError with file, line and key.
    """
    file, lines = read_strict(text, path, _File, tables=_TABLES, expected=_WORDS)
    return [_Reader(f"sa[{place}]", path, lines, read_key_file).sa(given) for place, given in enumerate(file.sa)]


def write_toml(sas: Sequence[StaticSA]) -> str:
    """Return the TOML text of SAs, keys inline."""
    return "\n".join(["# Static SAs with their keys: for your eyes only (chmod 600).", *map(_table, sas)])


class _Reader:
    """Makes one SA of its table.   at: the table's path in the file."""

    def __init__(self, at: str, path: Path | str, lines: LineIndex, read_key_file: ReadKeyFile | None) -> None:
        self._at, self._path, self._lines, self._read_key_file = at, path, lines, read_key_file

    def sa(self, given: _Association) -> StaticSA:
        """Return the SA.   Raises ConfigError or KeyMaterialError with place."""
        self._known(given)
        key, salt, auth_key = self._keys(given)
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
            local=self._ranges("local", [given.local])[0] if given.local else None,
            remote=self._ranges("remote", [given.remote])[0] if given.remote else None,
            inner=self._inner(given.inner),
            encapsulation=self._encapsulation(given.encapsulation),
            esn=given.esn,
            window=given.window,
            sequence=given.sequence,
            selectors=tuple(self._selector(f"selectors[{place}]", each) for place, each in enumerate(given.selectors)),
            path=self._path,
            line=self._lines.line(self._at),
        )
        try:
            sa.check()
        except ConfigError as error:
            raise self._wrong(error.key, error.what, error.expected, type(error)) from None
        return sa

    def _wrong(self, key: str, what: str, expected: str, kind: type[ConfigError] = ConfigError) -> ConfigError:
        key = f"{self._at}.{key}"
        return kind(what, path=self._path, line=self._lines.line(key), key=key, expected=expected)

    def _known(self, given: _Association) -> None:
        if given.protocol not in PROTOCOLS:
            raise self._wrong("protocol", f"no protocol {given.protocol!r}", " or ".join(PROTOCOLS))
        if given.suite in SUITES:
            return
        if legacy_word(given.suite):
            raise self._wrong("suite", f"{given.suite!r} is a legacy suite, which wesper refuses", ", ".join(SUITES))
        near = difflib.get_close_matches(given.suite, SUITES, 1)
        raise self._wrong("suite", f"no suite {given.suite!r}", near[0] if near else ", ".join(SUITES))

    def _keys(self, given: _Association) -> tuple[bytes, bytes, bytes]:
        inline = (given.key, given.salt, given.auth_key)
        if given.key_file is None:
            if given.key is None and SUITES[given.suite].key_octets != (0,):
                raise self._wrong("key", "missing", "key or key_file", KeyMaterialError)
            return self._hex("key", given.key), self._hex("salt", given.salt), self._hex("auth_key", given.auth_key)
        if any(text is not None for text in inline):
            raise self._wrong("key_file", "keys both here and in a file", "one of the two", KeyMaterialError)
        if self._read_key_file is None:
            raise self._wrong("key_file", "a text without a place of its own", "key, salt and auth_key")
        try:
            row = self._read_key_file(Path(self._path).parent / given.key_file)
        except ConfigError as error:
            raise self._wrong("key_file", f"{given.key_file}: {error.what}", error.expected, type(error)) from None
        try:
            key, salt, _ = split_keys(Profile(given.suite, Mode.TRANSPORT), len(row))
        except KeyMaterialError as error:
            what = f"{len(row)} octets for {given.suite}"
            raise self._wrong("key_file", what, f"{error.expected} octets", KeyMaterialError) from None
        return row[:key], row[key : key + salt], row[key + salt :]

    def _hex(self, key: str, text: str | None) -> bytes:
        try:
            return bytes.fromhex((text or "").removeprefix("0x"))
        except ValueError:
            raise self._wrong(key, "not hexadecimal", "pairs of hexadecimal digits", KeyMaterialError) from None

    def _ranges(self, key: str, texts: list[str]) -> tuple[AddressRange, ...]:
        try:
            return tuple(map(AddressRange.parse, texts))
        except ConfigError as error:
            raise self._wrong(key, error.what, error.expected) from None

    def _inner(self, given: _Pair | None) -> Inner | None:
        if given is None:
            return None
        try:
            return Inner(ip_address(given.local), ip_address(given.remote))
        except ValueError:
            raise self._wrong("inner", "not two addresses", "local and remote") from None

    def _encapsulation(self, given: _Ports | str) -> UDPEncapsulation | Encapsulated:
        if isinstance(given, str):
            return UDPEncapsulation() if given == "udp" else Encapsulated(given)
        if not (0 < given.local_port < 65536 and 0 < given.remote_port < 65536):
            raise self._wrong("encapsulation", "a port that UDP has not", "1..65535")
        return UDPEncapsulation(given.local_port, given.remote_port, given.checksum)

    def _selector(self, at: str, given: _Selector) -> Selector:
        if given.protocol is not None and not 0 <= given.protocol <= 255:
            raise self._wrong(f"{at}.protocol", f"protocol {given.protocol}", "0..255")
        return Selector(
            self._ranges(f"{at}.local", given.local),
            self._ranges(f"{at}.remote", given.remote),
            given.protocol,
            self._port_range(f"{at}.local_ports", given.local_ports),
            self._port_range(f"{at}.remote_ports", given.remote_ports),
        )

    def _port_range(self, key: str, value: int | str | None) -> tuple[int, int] | Opaque | None:
        if value is None:
            return None
        if value == "opaque":
            return OPAQUE
        found = _PORTS.fullmatch(str(value))
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < 65536:
            raise self._wrong(key, f"ports {value!r}", 'a port, "first-last" or "opaque"')
        return first, last


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
