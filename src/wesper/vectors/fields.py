"""Strict reading of a case: every key is asked for, and what nobody asked for is an error.

Values are looked at when they are asked for, so that a case's code decides when its expected values are read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from ipaddress import ip_address
from typing import Any

from ..protocols.ip import IPAddress

# Allowed in every entry, and never compared.
INFORMATIVE = frozenset(
    ("name", "id", "title", "description", "desc", "source", "basis", "note", "cite", "meaning", "why")
)

_HEX = re.compile(r"[0-9A-Fa-f]*")
_NUMBER = re.compile(r"0x[0-9A-Fa-f]+")
_TYPES = {dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "a whole number"}


class FieldError(Exception):
    """A field is unknown, missing, of the wrong type or out of range.   Its text never holds key material."""


class Fields:
    """The fields of one JSON object.

    path: dotted name of the object in its entry, "" for the entry itself.   informative: keys that are allowed and
    not compared.   secrets: key material that was read, by dotted name; an object in it shares it.
    A key whose value is null counts as absent.
    """

    def __init__(self, value: object, path: str = "", informative: Collection[str] = ()) -> None:
        if not isinstance(value, dict):
            raise FieldError(f"{path or 'the entry'} is {_type_name(value)}, not an object")
        self.path, self.secrets = path, dict[str, bytes]()
        self._values: dict[str, Any] = value
        self._unread = {key for key in value if key not in informative}
        self._inside: list[Fields] = []

    def has(self, key: str) -> bool:
        """Whether key is there.   A null is read by asking."""
        if self._values.get(key) is None:
            self._unread.discard(key)
            return False
        return True

    def flag(self, key: str) -> bool:
        """Return true or false."""
        return bool(self._read(key, bool))

    def integer(self, key: str, low: int, high: int) -> int:
        """Return a whole number written as such, low..high."""
        value: int = self._read(key, int)
        if not low <= value <= high:
            raise FieldError(f"{self.name(key)} is {value}, not within {low}..{high}")
        return value

    def number(self, key: str, bits: int, low: int = 0) -> int:
        """Return an unsigned integer written as "0x..."."""
        return self._number(self.name(key), self._read(key, str), bits, low)

    def numbers(self, key: str, bits: int, low: int = 0) -> list[int]:
        """Return a list of unsigned integers written as "0x..."."""
        numbers = []
        for index, value in enumerate(self._read(key, list)):
            name = f"{self.name(key)}[{index}]"
            if not isinstance(value, str):
                raise FieldError(f"{name} is {_type_name(value)}, not a string")
            numbers.append(self._number(name, value, bits, low))
        return numbers

    def word(self, key: str, words: Collection[str]) -> str:
        """Return a code word, one of words."""
        value: str = self._read(key, str)
        if value not in words:
            raise FieldError(f"{self.name(key)} is {value[:40]!r}, not one of {', '.join(words)}")
        return value

    def text(self, key: str) -> str:
        """Return a string."""
        return str(self._read(key, str))

    def octets(self, key: str, *, secret: bool = False) -> bytes:
        """Return the octets of a hex string.   secret: it is key material."""
        octets = self._octets(self.name(key), self._read(key, str))
        if secret:
            self.secrets[self.name(key)] = octets
        return octets

    def octets_list(self, key: str, *, secret: bool = False) -> list[bytes]:
        """Return a list of octet strings.   secret: they are key material."""
        found = []
        for index, value in enumerate(self._read(key, list)):
            name = f"{self.name(key)}[{index}]"
            if not isinstance(value, str):
                raise FieldError(f"{name} is {_type_name(value)}, not a string")
            found.append(self._octets(name, value))
            if secret:
                self.secrets[name] = found[-1]
        return found

    def address(self, key: str, version: int | None = None) -> IPAddress:
        """Return an IP address, of this version if one is given."""
        value: str = self._read(key, str)
        try:
            address = ip_address(value)
        except ValueError:
            address = None
        if address is None or version not in (None, address.version) or "%" in value:
            raise FieldError(
                f"{self.name(key)} is {value!r}, not an IP{'' if version is None else f'v{version}'} address"
            )
        return address

    def object(self, key: str) -> Fields:
        """Return the fields of an object inside."""
        inside = Fields(self._read(key, dict), self.name(key))
        inside.secrets = self.secrets
        self._inside.append(inside)
        return inside

    def objects(self, key: str) -> Iterator[Fields]:
        """Yield the fields of each object of a list."""
        for index, value in enumerate(self._read(key, list)):
            inside = Fields(value, f"{self.name(key)}[{index}]")
            inside.secrets = self.secrets
            self._inside.append(inside)
            yield inside

    def is_word(self, key: str, word: str) -> bool:
        """Whether key holds this word; anything else is left to be read."""
        if self._values.get(key) != word:
            return False
        self._unread.discard(key)
        return True

    def name(self, key: str) -> str:
        """Return the dotted name of a key in this object."""
        return f"{self.path}.{key}" if self.path else key

    def unknown(self) -> list[str]:
        """Return the dotted names of all keys that nobody asked for, here and in the objects inside."""
        names = [self.name(key) for key in self._values if key in self._unread]
        return names + [name for inside in self._inside for name in inside.unknown()]

    def _read(self, key: str, kind: type) -> Any:
        self._unread.discard(key)
        value = self._values.get(key)
        if value is None:
            raise FieldError(f"missing field {self.name(key)}")
        if type(value) is not kind:  # True is an int to isinstance
            raise FieldError(f"{self.name(key)} is {_type_name(value)}, not {_TYPES[kind]}")
        return value

    def _octets(self, name: str, value: str) -> bytes:
        good = _HEX.match(value)
        if good is None or good.end() < len(value):
            raise FieldError(f"{name} is not hex: digit {0 if good is None else good.end()} is none")
        if len(value) % 2:
            raise FieldError(f"{name} is not hex: {len(value)} digits make no whole octets")
        return bytes.fromhex(value)

    def _number(self, name: str, value: str, bits: int, low: int) -> int:
        if not _NUMBER.fullmatch(value):
            raise FieldError(f"{name} is {value[:40]!r}, not a number like 0x1f")
        number = int(value, 16)
        if not low <= number < 1 << bits:
            raise FieldError(f"{name} is {value[:40]}, not within {low:#x}..{(1 << bits) - 1:#x}")
        return number


def _type_name(value: object) -> str:
    return "null" if value is None else _TYPES.get(type(value), "a number with a fraction")
