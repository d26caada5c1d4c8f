"""Options as IPv6 has them: type, length, data; Pad1 and PadN (RFC 8200 §4.2).

WESPv2 and EESP share the form. What type bits, order and alignment mean is each protocol's own business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..errors import ConfigError

PAD1: Final = 0
PADN: Final = 1


@dataclass(frozen=True, slots=True)
class Option:
    """One option.   type: all 8 bits, 2..255.   data: 0..253 octets."""

    type: int
    data: bytes = b""

    def __post_init__(self) -> None:
        if not PADN < self.type <= 255:
            raise ConfigError(f"option type {self.type}", key="options", expected="2..255; padding comes by itself")
        if len(self.data) > 253:
            raise ConfigError(f"option data of {len(self.data)} octets", key="options", expected="at most 253 octets")

    def build(self) -> bytes:
        """Return type, length and data."""
        return bytes((self.type, len(self.data))) + self.data


@dataclass(frozen=True, slots=True)
class Found:
    """An option that was received.   at: octets from the beginning of the options to its type."""

    type: int
    data: bytes
    at: int


def walk(area: bytes) -> list[Found] | None:
    """Return all options in order, padding left out; None if they do not fill the area exactly."""
    found, at = [], 0
    while at < len(area):
        kind = area[at]
        if kind == PAD1:
            at += 1
            continue
        if at + 2 > len(area) or at + 2 + area[at + 1] > len(area):
            return None
        end = at + 2 + area[at + 1]
        if kind != PADN:
            found.append(Found(kind, area[at + 2 : end], at))
        at = end
    return found


def build(options: Iterable[Option], unit: int, rest: int = 0) -> bytes:
    """Return the options in this order and the least padding that makes their length `rest` modulo `unit`."""
    area = b"".join(option.build() for option in options)
    missing = (rest - len(area)) % unit
    if missing == 0:
        return area
    return area + (bytes((PAD1,)) if missing == 1 else bytes((PADN, missing - 2)) + bytes(missing - 2))
