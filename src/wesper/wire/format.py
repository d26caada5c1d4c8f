"""Header formats, declared once.

A header is a class whose annotated fields stand in wire order, one line each: width, source, meaning. From that
declaration come the parser, the builder, the octet ranges, the names in JSON output and the packet diagram; later
formats' dissectors and layers take theirs from the same place. Nothing here acts on a packet.

    >>> class Probe(Header, name="probe", title="A probe", source="RFC 0 §1"):
    ...     kind: int = bits(4, "RFC 0 §1.1", "what it is")
    ...     size: int = bits(12, "RFC 0 §1.2", "how long", unit="octets")
    >>> Probe.parse(bytes.fromhex("1004"))
    Probe(kind=1, size=4)
    >>> Probe(kind=2, size=9).build().hex()
    '2009'
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

Buffer = bytes | bytearray | memoryview


class TruncatedHeader(ValueError):
    """Fewer octets than the header's fields need.   Internal to parsers: protocols turn it into a drop reason."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a declaration.

    name: attribute.   wire_name: name in JSON and filters, without the header's prefix (Wireshark's where it has one).
    bits: width; 0 for a field of variable length.   length: octets of a variable field, from the fields before it;
    None where only the SA knows, so that the parser's caller must say.   source: document and section.
    """

    name: str
    wire_name: str
    bits: int
    source: str
    meaning: str
    unit: str = ""
    form: str = "int"
    names: Mapping[int, str] | None = None
    length: Callable[[Any], int] | None = None
    raw: bool = False
    variable: bool = False

    def text(self, value: int | bytes) -> str:
        """Return value as a person reads it: number with its name, address, or hex."""
        if isinstance(value, int):
            shown = f"0x{value:0{(self.bits + 3) // 4}x}" if self.form == "hex" else str(value)
            if self.names is not None:
                return f"{shown} ({self.names.get(value, f'unknown({value})')})"
            return f"{shown} {self.unit}" if self.unit else shown
        if self.form == "address":
            return str(ipaddress.ip_address(bytes(value)))
        if self.form == "mac":
            return bytes(value).hex(":")
        return bytes(value).hex() if value else "(none)"


def bits(
    width: int,
    source: str,
    meaning: str,
    *,
    default: int = 0,
    unit: str = "",
    form: str = "int",
    names: Mapping[int, str] | None = None,
    wire_name: str = "",
) -> Any:
    """Declare an unsigned big-endian field of width bits (1..64).   form: int or hex."""
    return dataclass_field(
        default=default,
        metadata={
            "bits": width,
            "source": source,
            "meaning": meaning,
            "unit": unit,
            "form": form,
            "names": names,
            "wire_name": wire_name,
        },
    )


def octets(
    source: str,
    meaning: str,
    *,
    size: int = 0,
    length: Callable[[Any], int] | None = None,
    form: str = "hex",
    wire_name: str = "",
) -> Any:
    """Declare an octet string: of fixed size, of a length computed from the fields before, or known only to the SA.

    form: hex, address or mac.
    """
    return dataclass_field(
        default=bytes(size),
        metadata={
            "bits": 8 * size,
            "source": source,
            "meaning": meaning,
            "unit": "octets",
            "form": form,
            "length": length,
            "wire_name": wire_name,
            "raw": True,
            "variable": size == 0,
        },
    )


class Header:
    """Base of all header declarations.

    Class attributes made from the declaration: ``NAME``, ``TITLE``, ``SOURCE``, ``FIELDS`` in wire order, ``SIZE``, the
    octets of the leading fixed part.
    """

    NAME: ClassVar[str]
    TITLE: ClassVar[str]
    SOURCE: ClassVar[str]
    FIELDS: ClassVar[tuple[Field, ...]]
    SIZE: ClassVar[int]
    _codec: ClassVar[struct.Struct]
    # One entry a struct item: the names in it with shift and mask; a lone whole item has mask 0.
    _items: ClassVar[tuple[tuple[tuple[str, int, int], ...], ...]]
    _variable: ClassVar[tuple[Field, ...]]

    if TYPE_CHECKING:  # every field has a default: any of them may be given, in wire order or by name

        def __init__(self, *values: int | bytes, **named: int | bytes) -> None: ...

    def __init_subclass__(cls, *, name: str, title: str, source: str) -> None:
        dataclass(slots=False)(cls)
        cls.NAME, cls.TITLE, cls.SOURCE = name, title, source
        cls.FIELDS = tuple(_field(f.name, f.metadata) for f in fields(cast(Any, cls)))
        fixed = [f for f in cls.FIELDS if not f.variable]
        cls._variable = tuple(f for f in cls.FIELDS if f.variable)
        if list(cls.FIELDS) != fixed + list(cls._variable):
            raise TypeError(f"{name}: fields of fixed width come before those of variable length")
        cls._codec, cls._items = _compile(name, fixed)
        cls.SIZE = cls._codec.size

    @classmethod
    def parse(cls, data: Buffer, offset: int = 0, **lengths: int) -> Self:
        """Parse one header that begins at data[offset].

        lengths: octets of those variable fields whose length the octets do not tell.
        Raises TruncatedHeader if data ends before the header does, or a length is negative.
        """
        try:
            values = cls._codec.unpack_from(data, offset)
        except struct.error:
            raise TruncatedHeader(f"{cls.NAME}: {max(len(data) - offset, 0)} octets, {cls.SIZE} needed") from None
        header = object.__new__(cls)
        into = header.__dict__
        for value, parts in zip(values, cls._items, strict=True):
            for attribute, shift, mask in parts:
                into[attribute] = (value >> shift) & mask if mask else value
        at = offset + cls.SIZE
        for f in cls._variable:
            size = lengths[f.name] if f.length is None else f.length(header)
            if size < 0 or at + size > len(data):
                raise TruncatedHeader(f"{cls.NAME}.{f.name}: {size} octets wanted, {max(len(data) - at, 0)} there")
            into[f.name] = bytes(data[at : at + size])
            at += size
        return header

    def build(self) -> bytes:
        """Return the header's octets, as the fields say; computed fields (lengths, checksums) are the caller's."""
        values = []
        into = self.__dict__
        for parts in self._items:
            attribute, shift, mask = parts[0]
            if not mask:
                values.append(into[attribute])
                continue
            word = 0
            for attribute, shift, mask in parts:
                word |= (into[attribute] & mask) << shift
            values.append(word)
        head = self._codec.pack(*values)
        return head + b"".join(into[f.name] for f in self._variable) if self._variable else head

    def __len__(self) -> int:
        return self.SIZE + sum(len(self.__dict__[f.name]) for f in self._variable)

    def walk(self) -> Iterator[tuple[Field, int | bytes, int, int]]:
        """Yield (field, value, first bit, bits) in wire order, counted from the header's start."""
        at = 0
        for f in self.FIELDS:
            value = self.__dict__[f.name]
            width = 8 * len(value) if f.variable else f.bits
            yield f, value, at, width
            at += width


def diagram(declaration: type[Header]) -> str:
    """Return the packet diagram in the RFCs' manner, 32 bits a row."""
    rows = [
        " 0                   1                   2                   3",
        " 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1",
    ]
    rule = "+" + "-+" * 32
    column = 0
    line = "|"
    rows.append(rule)
    for f in declaration.FIELDS:
        if f.variable:
            rows += [f"|{f'{f.name} (variable)':^63}|", rule]
            continue
        left = f.bits
        first = True
        while left:
            width = min(left, 32 - column)
            label = f.name if first else ""
            line += f"{label[: 2 * width - 1]:^{2 * width - 1}}|"
            column, left, first = column + width, left - width, False
            if column == 32:
                rows += [line, rule]
                line, column = "|", 0
    if column:
        rows += [line, "+" + "-+" * column]
    return "\n".join(rows)


def _field(name: str, metadata: Mapping[str, Any]) -> Field:
    if "bits" not in metadata:
        raise TypeError(f"{name}: declare fields with bits() or octets()")
    given = dict(metadata)
    return Field(name=name, **{**given, "wire_name": given["wire_name"] or name})


def _compile(name: str, fixed: list[Field]) -> tuple[struct.Struct, tuple[tuple[tuple[str, int, int], ...], ...]]:
    """Turn fixed fields into a struct and the way back: bit fields share the smallest whole word that they fill."""
    codes = ">"
    items: list[tuple[tuple[str, int, int], ...]] = []
    run: list[Field] = []
    for f in fixed:
        if f.raw and not run:
            codes += f"{f.bits // 8}s"
            items.append(((f.name, 0, 0),))
            continue
        run.append(f)
        width = sum(r.bits for r in run)
        code = {8: "B", 16: "H", 32: "I", 64: "Q"}.get(width)
        if code is None:
            continue
        codes += code
        if len(run) == 1:
            items.append(((f.name, 0, 0),))
        else:
            parts, left = [], width
            for r in run:
                left -= r.bits
                parts.append((r.name, left, (1 << r.bits) - 1))
            items.append(tuple(parts))
        run = []
    if run:
        raise TypeError(f"{name}: {', '.join(r.name for r in run)} do not fill a word of 8, 16, 32 or 64 bits")
    return struct.Struct(codes), tuple(items)
