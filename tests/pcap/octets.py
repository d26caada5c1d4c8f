"""Capture files made octet by octet in either byte order, independent of the writers under test."""

from __future__ import annotations

from struct import pack
from typing import Literal

Order = Literal["<", ">"]


def pcap_header(
    order: Order = "<", *, magic: int = 0xA1B2C3D4, version: tuple[int, int] = (2, 4), link: int = 101
) -> bytes:
    return pack(order + "IHHiIII", magic, *version, 0, 0, 65535, link)


def pcap_record(order: Order, seconds: int, fraction: int, data: bytes, original: int | None = None) -> bytes:
    return pack(order + "IIII", seconds, fraction, len(data), len(data) if original is None else original) + data


def block(order: Order, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = pack(order + "I", len(body) + 12)
    return pack(order + "I", kind) + length + body + length


def option(order: Order, code: int, value: bytes) -> bytes:
    return pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: Order = "<", *, version: tuple[int, int] = (1, 0), options: bytes = b"") -> bytes:
    return block(order, 0x0A0D0D0A, pack(order + "IHHq", 0x1A2B3C4D, *version, -1) + options)


def interface(order: Order = "<", *, link: int = 101, snap: int = 0, options: bytes = b"") -> bytes:
    return block(order, 1, pack(order + "HHI", link, 0, snap) + options)


def packet(
    order: Order, units: int, data: bytes, *, number: int = 0, original: int | None = None, options: bytes = b""
) -> bytes:
    fixed = pack(
        order + "IIIII", number, units >> 32, units & 0xFFFFFFFF, len(data), len(data) if original is None else original
    )
    return block(order, 6, fixed + data + bytes(-len(data) % 4) + options)


def simple_packet(order: Order, original: int, data: bytes) -> bytes:
    return block(order, 3, pack(order + "I", original) + data)


def obsolete_packet(order: Order, units: int, data: bytes, *, number: int = 0, options: bytes = b"") -> bytes:
    fixed = pack(order + "HHIIII", number, 7, units >> 32, units & 0xFFFFFFFF, len(data), len(data))
    return block(order, 2, fixed + data + bytes(-len(data) % 4) + options)
