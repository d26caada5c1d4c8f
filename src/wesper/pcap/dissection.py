"""A packet taken apart: layers of fields, each with name, value, place and source, as `wesper.wire` declares them.

What is cut or contradicts itself is shown as far as it goes, with one line that says what is wrong. With keys, the
inside of what is protected too: ciphertext is as long as its plaintext, so inner fields stand where their ciphertext
stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ..wire.format import Field, Header


@dataclass(frozen=True, slots=True)
class Value:
    """A field of a packet.   bit: where it begins, from the packet's first octet.   note: what follows from it."""

    field: Field
    name: str
    value: int | bytes
    bit: int
    bits: int
    note: str = ""

    @property
    def text(self) -> str:
        """The value as a person reads it."""
        return self.field.text(self.value)

    @property
    def place(self) -> str:
        """The octets, or the bits of an octet: `12-15`, `9`, `6:0-2`."""
        first, last = self.bit // 8, (self.bit + max(self.bits, 1) - 1) // 8
        if self.bit % 8 or self.bits % 8:
            end = f":{(self.bit + self.bits - 1) % 8}" if last > first else f"-{(self.bit + self.bits - 1) % 8}"
            start = f"{first}:{self.bit % 8}"
            return f"{start}-{last}{end}" if last > first else (start + end if self.bits > 1 else start)
        return str(first) if first == last or not self.bits else f"{first}-{last}"

    def as_json(self) -> dict[str, Any]:
        """Return it with stable names."""
        return {
            "name": self.name,
            "value": self.value if isinstance(self.value, int) else self.value.hex(),
            "text": self.text,
            "octet": self.bit // 8,
            "bit": self.bit % 8,
            "bits": self.bits,
            "source": self.field.source,
            "meaning": self.field.meaning,
            "note": self.note,
        }


@dataclass(slots=True)
class Layer:
    """A header, or data.   name: prefix of its fields' names.   declaration: None where there is none.

    decrypted: it, or its end, was ciphertext in the packet.
    """

    name: str
    title: str
    source: str
    at: int
    values: list[Value] = field(default_factory=list)
    octets: int = 0
    declaration: type[Header] | None = None
    decrypted: bool = False

    def value(self, attribute: str) -> Any:
        """Return the value of a field by its attribute's name, None if the packet ends before it."""
        return next((v.value for v in self.values if v.field.name == attribute), None)

    def as_json(self) -> dict[str, Any]:
        """Return it with stable names."""
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "octet": self.at,
            "octets": self.octets,
            "decrypted": self.decrypted,
            "fields": [value.as_json() for value in self.values],
        }


@dataclass(slots=True)
class Dissection:
    """A packet's layers, outermost first.   problem: what is wrong with it, "" if nothing is."""

    packet: bytes
    layers: list[Layer] = field(default_factory=list)
    problem: str = ""

    def fail(self, problem: str) -> None:
        """Note what is wrong; the first thing counts."""
        self.problem = self.problem or problem

    def values(self) -> Iterator[Value]:
        """Yield all fields in order."""
        for layer in self.layers:
            yield from layer.values

    def layer(self, name: str) -> Layer | None:
        """Return the first layer of that name."""
        return next((layer for layer in self.layers if layer.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """Return it with stable names."""
        return {
            "octets": len(self.packet),
            "layers": [layer.as_json() for layer in self.layers],
            "problem": self.problem or None,
        }


def read_layer(
    declaration: type[Header],
    data: bytes,
    at: int,
    end: int,
    *,
    name: str = "",
    title: str = "",
    lengths: Mapping[str, int] | None = None,
    shift: int = 0,
) -> tuple[Layer, str]:
    """Read the fields of a header that stand whole in data[at:end], and say what is missing, "" if nothing is.

    lengths: of fields whose length the octets do not tell.   shift: where data[0] stands in the packet.
    """
    name = name or declaration.NAME
    layer = Layer(name, title or declaration.TITLE, declaration.SOURCE, shift + at, declaration=declaration)
    bit, last = 8 * at, 8 * end
    known = SimpleNamespace()
    problem = ""
    for each in declaration.FIELDS:
        bits = each.bits
        if each.variable:
            bits = 8 * ((lengths or {}).get(each.name, 0) if each.length is None else each.length(known))
            if bits < 0:
                problem = f"{name}: the header's length is less than the header"
                break
        if bit + bits > last:
            problem = (
                f"{name}: the packet ends in {name}.{each.wire_name} ({(last - bit) // 8} of {(bits + 7) // 8} octets)"
            )
            break
        value = _bits(data, bit, bits)
        if each.raw:
            value = data[bit // 8 : (bit + bits) // 8]
        setattr(known, each.name, value)
        if bits:
            layer.values.append(Value(each, f"{name}.{each.wire_name}", value, bit + 8 * shift, bits))
        bit += bits
    layer.octets = (bit + 7) // 8 - at
    return layer, problem


def data_layer(data: bytes, at: int, source: str, *, title: str = "Data", name: str = "data") -> Layer:
    """Return a layer of octets that nothing here looks into."""
    what = Field("data", "data", 0, source, "octets that no header here describes", form="hex", raw=True, variable=True)
    layer = Layer(name, title, source, at, octets=len(data))
    if data:
        layer.values.append(Value(what, f"{name}.data" if name != "data" else "data", data, 8 * at, 8 * len(data)))
    return layer


def added(layer: Layer, what: Field, value: bytes, at: int) -> None:
    """Add a field that no declaration holds, because its length is not the header's to tell."""
    if value:
        layer.values.append(Value(what, f"{layer.name}.{what.wire_name}", value, 8 * at, 8 * len(value)))


def noted(layer: Layer, attribute: str, note: str) -> None:
    """Put a note beside a field."""
    layer.values = [
        Value(v.field, v.name, v.value, v.bit, v.bits, note) if v.field.name == attribute else v for v in layer.values
    ]


def _bits(data: bytes, bit: int, bits: int) -> Any:
    first, last = bit // 8, (bit + bits + 7) // 8
    return int.from_bytes(data[first:last], "big") >> (8 * last - bit - bits) & ((1 << bits) - 1)
