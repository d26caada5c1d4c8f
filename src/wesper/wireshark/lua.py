"""A Wireshark dissector in Lua, out of a protocol's layout.

The layout becomes a Lua table, and `dissector.lua` beside this file does the rest: it shows every field by the name
that it has everywhere in wesper, the part of the payload that is in the clear, and the rest as octets. Keys are
`wesper pcap decrypt`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import Any, Final

from .. import __version__
from ..wire.arithmetic import formula
from ..wire.format import Header
from ..wire.layout import Layout, Part
from ..wire.layouts import LAYOUTS
from ..wire.udp import IPSEC_NAT_T_PORT

_BUILT_IN: Final = frozenset({"esp"})  # Wireshark has its own, which can decrypt
_NEIGHBOURS: Final = {IPSEC_NAT_T_PORT: "udpencap"}  # the built-in dissector of what is nobody else's
_ACRONYMS: Final = frozenset({"icv", "id", "iv", "spi"})
_WORDS: Final = (1, 2, 3, 4, 8)  # octets that a field's value can be taken from


class _Lua(str):
    """Text that is Lua already."""

    __slots__ = ()


def dissectors() -> dict[str, str]:
    """Return the file name and text of every dissector that Wireshark needs."""
    return {
        f"wesper-{layout.name}.lua": dissector(layout) for layout in LAYOUTS.values() if layout.name not in _BUILT_IN
    }


def dissector(layout: Layout) -> str:
    """Return the text of one protocol's dissector.   Raises TypeError if a length in it is no plain arithmetic."""
    run_time = resources.files(__package__).joinpath("dissector.lua").read_text(encoding="utf-8")
    return (
        f"-- {layout.title} ({layout.source}): dissector for Wireshark 4.0 and later.\n"
        f"-- Written by wesper {__version__} from its declaration of the format: wesper wireshark install\n\n"
        f"local layout = {_written(_table(layout))}\n\n{run_time}"
    )


def _table(layout: Layout) -> dict[Any, Any]:
    options = [part.options for part in layout.parts if part.options is not None]
    known = {kind: header for each in options for kind, header in each.known.items()}
    names = {0: "Pad1", 1: "PadN"} | {kind: header.TITLE for kind, header in known.items()}
    for each in options:
        names |= each.names
    table: dict[Any, Any] = {
        "name": layout.name,
        "title": layout.title,
        "ip_protocol": layout.ip_protocol,
        "udp_port": layout.udp_port,
        "marker": layout.marker.hex(),
        "neighbour": _NEIGHBOURS.get(layout.udp_port or 0),
        "icv": layout.icv,
        "clear": None if layout.clear is None else _function(layout.clear),
        "next_header": layout.next_header or None,
        "headers": [_header(part.header, part) for part in layout.parts],
        "payload_header": None if layout.payload_header is None else _header(layout.payload_header),
        "options": {kind: _header(header) for kind, header in known.items()} if options else None,
        "option_names": names if options else None,
    }
    if layout.tell is not None:
        header, name, value = layout.parts[0].header, *layout.tell
        place = next(field for field in _fields(header, None) if field["name"] == name)
        table["tell"] = {key: place[key] for key in ("at", "first", "bits")} | {"value": value}
    return table


def _header(header: type[Header], part: Part | None = None) -> dict[Any, Any]:
    return {"size": header.SIZE} | dict(enumerate(_fields(header, part), 1))


def _fields(header: type[Header], part: Part | None) -> Iterator[dict[str, Any]]:
    """Yield each field: where it begins (`at` octets, then `first` bits), the octets that hold it, its mask in them."""
    bit = 0
    for f in header.FIELDS:
        at, needed = bit // 8, -(-(bit % 8 + f.bits) // 8)
        size = needed if f.raw else next(word for word in _WORDS if word >= needed)
        spare = 8 * size - bit % 8 - f.bits
        lengths = part.lengths if part else {}
        compute = f.length or lengths.get(f.name)
        yield {
            "name": f.name,
            "filter": f"{header.NAME}.{f.wire_name}",
            "label": _label(f.name),
            "about": f"{f.meaning} ({f.source})",
            "bits": f.bits,
            "at": at,
            "first": bit % 8,
            "size": size,
            "mask": None if f.raw or f.bits == 8 * size else _Lua(f"0x{(1 << f.bits) - 1 << spare:x}"),
            "hex": f.form == "hex" or None,
            "raw": f.raw or None,
            "names": f.names,
            "length": None if compute is None else _function(compute),
            "negotiated": part.negotiated.get(f.name) if part else None,
            "options": True if part and part.options and part.options.field == f.name else None,
        }
        bit += f.bits


def _label(name: str) -> str:
    words = name.replace("_", " ").capitalize().split()
    return " ".join(word.upper() if word.lower() in _ACRONYMS else word for word in words)


def _function(compute: Callable[[Any], Any]) -> _Lua:
    return _Lua(f"function(h) return {formula(compute).text} end")


def _written(value: Any, depth: int = 0) -> str:
    """Write a value as Lua; None is left out of a table."""
    if isinstance(value, _Lua):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
    items = value.items() if isinstance(value, Mapping) else enumerate(value, 1)
    inside = [
        f"{key if isinstance(key, str) else f'[{key}]'} = {_written(item, depth + 1)}"
        for key, item in items
        if item is not None
    ]
    if depth > 2:
        return "{ " + ", ".join(inside) + " }"
    margin = "  " * (depth + 1)
    return "{\n" + "".join(f"{margin}{line},\n" for line in inside) + "  " * depth + "}"
