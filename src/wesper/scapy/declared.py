"""From a header's declaration to a Scapy layer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from scapy.fields import BitField, StrFixedLenField, StrLenField
from scapy.packet import Packet

from ..wire.arithmetic import formula
from ..wire.format import Field, Header
from ..wire.layout import Part

UNKNOWN_OCTETS = 8
"""Of a field whose length only the SA knows: an IV's in most suites."""


def layer(part: Part) -> type[Packet]:
    """Return a layer class for one header."""
    header = part.header
    defaults = {name: field.default for name, field in header.__dataclass_fields__.items()}  # type: ignore[attr-defined]
    lengths = {f.name: f.length or part.lengths.get(f.name) for f in header.FIELDS if f.variable}
    counted = _counted(header, lengths)
    fields: list[Any] = []
    for f in header.FIELDS:
        if f.variable:
            fields.append(StrLenField(f.wire_name, b"", length_from=_octets(header, f, lengths[f.name], part)))
        elif f.raw:
            fields.append(StrFixedLenField(f.wire_name, defaults[f.name], f.bits // 8))
        else:
            fields.append(_Bits(f, defaults[f.name], counted.get(f.name)))
    return type(
        header.__name__,
        (Packet,),
        {"name": header.TITLE, "fields_desc": fields, "__doc__": f"{header.TITLE} ({header.SOURCE})."},
    )


class _Bits(BitField):
    """An unsigned field.   None: computed from the lengths of other fields."""

    __slots__ = ("_count", "_declared")

    def __init__(self, declared: Field, default: int, count: Callable[[Any], int] | None) -> None:
        super().__init__(declared.wire_name, None if count else default, declared.bits)
        self._declared, self._count = declared, count

    def i2m(self, pkt: Any, x: Any) -> int:
        if x is None and self._count is not None and pkt is not None:
            return self._count(pkt)
        return super().i2m(pkt, x)

    def i2repr(self, pkt: Any, x: Any) -> str:
        return "None" if x is None else self._declared.text(x)


def _octets(header: type[Header], f: Field, compute: Callable[[Any], Any] | None, part: Part) -> Callable[[Any], int]:
    if compute is None:
        return lambda _: part.negotiated.get(f.name, UNKNOWN_OCTETS)
    return lambda packet: max(compute(_values(header, packet)), 0)


def _values(header: type[Header], packet: Any) -> SimpleNamespace:
    """Return a packet's numbers by the declaration's names."""
    numbers = {f.name: packet.getfieldval(f.wire_name) for f in header.FIELDS if not f.variable and not f.raw}
    return SimpleNamespace(**{name: 0 if value is None else value for name, value in numbers.items()})


def _counted(header: type[Header], lengths: dict[str, Callable[[Any], Any] | None]) -> dict[str, Callable[[Any], int]]:
    """Return, for each field that a length depends on, how to find the value that makes it come out."""
    by_name = {f.name: f for f in header.FIELDS}
    found: dict[str, Callable[[Any], int]] = {}
    for name, compute in lengths.items():
        if compute is None:
            continue
        new = [field for field in formula(compute).fields if field in by_name and field not in found]
        if len(new) == 1:
            found[new[0]] = _solver(header, by_name[new[0]], by_name[name].wire_name, compute, dict(found))
    return found


def _solver(
    header: type[Header],
    wanted: Field,
    variable: str,
    compute: Callable[[Any], Any],
    before: dict[str, Callable[[Any], int]],
) -> Callable[[Any], int]:
    def solve(packet: Any) -> int:
        values = _values(header, packet)
        for f in header.FIELDS:
            if f.name in before and packet.getfieldval(f.wire_name) is None:
                setattr(values, f.name, before[f.name](packet))
        size = len(packet.getfieldval(variable))
        for value in range(1 << min(wanted.bits, 16)):
            setattr(values, wanted.name, value)
            if compute(values) == size:
                return value
        raise ValueError(f"{header.NAME}.{variable}: no {wanted.wire_name} says {size} octets")

    return solve
