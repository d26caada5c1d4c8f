"""What the tables of a key file have in common: hexadecimal keys, address ranges, selectors, each with its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..errors import ConfigError, KeyMaterialError
from ..sa import OPAQUE, AddressRange, Selector
from ..sa.selectors import Opaque
from .toml_lines import LineIndex

ReadKeyFile = Callable[[Path], bytes]
"""Returns the octets of a `key_file`."""
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


class SelectorTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A `[[….selectors]]` table."""

    local: list[str] = []
    remote: list[str] = []
    protocol: int | None = None
    local_ports: int | str | None = None
    remote_ports: int | str | None = None


class TableReader:
    """Reads one table.   at: the table's path in the file."""

    def __init__(self, at: str, path: Path | str, lines: LineIndex, read_key_file: ReadKeyFile | None) -> None:
        self._at, self._path, self._lines, self._read_key_file = at, path, lines, read_key_file

    def wrong(self, key: str, what: str, expected: str, kind: type[ConfigError] = ConfigError) -> ConfigError:
        """Return an error with file, line and key."""
        key = f"{self._at}.{key}"
        return kind(what, path=self._path, line=self._lines.line(key), key=key, expected=expected)

    def hex(self, key: str, text: str | None) -> bytes:
        """Return octets.   Raises KeyMaterialError, which does not show them."""
        try:
            return bytes.fromhex((text or "").removeprefix("0x"))
        except ValueError:
            raise self.wrong(key, "not hexadecimal", "pairs of hexadecimal digits", KeyMaterialError) from None

    def key_row(self, given: str) -> bytes:
        """Return the octets of a `key_file`.   Raises ConfigError or KeyMaterialError."""
        if self._read_key_file is None:
            raise self.wrong("key_file", "a text without a place of its own", "keys in the text itself")
        try:
            return self._read_key_file(Path(self._path).parent / given)
        except ConfigError as error:
            raise self.wrong("key_file", f"{given}: {error.what}", error.expected, type(error)) from None

    def ranges(self, key: str, texts: list[str]) -> tuple[AddressRange, ...]:
        """Return address ranges.   Raises ConfigError."""
        try:
            return tuple(map(AddressRange.parse, texts))
        except ConfigError as error:
            raise self.wrong(key, error.what, error.expected) from None

    def selector(self, at: str, given: SelectorTable) -> Selector:
        """Return a selector.   at: its path in the table.   Raises ConfigError."""
        if given.protocol is not None and not 0 <= given.protocol <= 255:
            raise self.wrong(f"{at}.protocol", f"protocol {given.protocol}", "0..255")
        return Selector(
            self.ranges(f"{at}.local", given.local),
            self.ranges(f"{at}.remote", given.remote),
            given.protocol,
            self._port_range(f"{at}.local_ports", given.local_ports),
            self._port_range(f"{at}.remote_ports", given.remote_ports),
        )

    def selectors(self, given: list[SelectorTable]) -> tuple[Selector, ...]:
        """Return a table's selectors.   Raises ConfigError."""
        return tuple(self.selector(f"selectors[{place}]", each) for place, each in enumerate(given))

    def _port_range(self, key: str, value: int | str | None) -> tuple[int, int] | Opaque | None:
        if value is None:
            return None
        if value == "opaque":
            return OPAQUE
        found = _PORTS.fullmatch(str(value))
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < 65536:
            raise self.wrong(key, f"ports {value!r}", 'a port, "first-last" or "opaque"')
        return first, last
