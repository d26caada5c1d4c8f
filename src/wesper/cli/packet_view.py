"""Packets on a terminal: a table of fields, or a diagram in the RFCs' manner with the values in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..pcap.dissection import Dissection, Layer, Value

PIPED_COLUMNS = 120
_ROW_BITS = 32
_RULE = "+" + "-+" * _ROW_BITS
_RULER = (
    " 0                   1                   2                   3  ",
    " 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1",
)


def console_for_packets() -> Console:
    """Return a console on standard output; where that is no terminal, lines are long enough to stay whole."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_COLUMNS)


def render(
    dissection: Dissection, *, title: str = "", diagram: bool = False, data_octets: int = 64, meanings: bool = False
) -> RenderableType:
    """Return what rich prints for a packet.

    diagram: bit diagrams instead of tables.   data_octets: how many octets of a long field to show.   meanings: a
    column that says what each field is.
    """
    parts: list[RenderableType] = []
    if title:
        parts.append(Text(title, style="bold"))
    for layer in dissection.layers:
        parts.append(_heading(layer))
        if diagram:
            parts.append(Text("\n".join(drawn(layer, data_octets)), style="green" if layer.decrypted else ""))
        else:
            parts.append(_table(layer, data_octets, meanings))
    if dissection.problem:
        parts.append(Text(f"! {dissection.problem}", style="bold red"))
    return Group(*parts)


def drawn(layer: Layer, data_octets: int = 64) -> Iterator[str]:
    """Yield the lines of a layer's bit diagram, 32 bits a row, each field with name and value where there is room."""
    yield from _RULER
    yield _RULE
    run: list[Value] = []
    for value in layer.values:
        if value.bits > 64 and value.field.form != "address":
            yield from _rows(run)
            run = []
            yield from _wide(value, data_octets)
        else:
            run.append(value)
    yield from _rows(run)


def _rows(values: list[Value]) -> Iterator[str]:
    """Yield the rows of fields of fixed width, and the rule below each: none where a field goes on in the next row."""
    owners = [index for index, value in enumerate(values) for _ in range(value.bits)]
    named: set[int] = set()
    for start in range(0, len(owners), _ROW_BITS):
        row, below = owners[start : start + _ROW_BITS], owners[start + _ROW_BITS : start + 2 * _ROW_BITS]
        line, at = "|", 0
        while at < len(row):
            width = row[at:].count(row[at])
            last = row[at] not in below
            label = "" if row[at] in named else _label(values[row[at]], 2 * width - 1, last=last)
            if label:
                named.add(row[at])
            line += f"{label:^{2 * width - 1}}|"
            at += width
        yield line
        ruled = [column >= len(below) or below[column] != owner for column, owner in enumerate(row)]
        yield "+" + "".join(
            ("-" if drawn_here else " ") + ("+" if drawn_here or drawn_next else " ")
            for drawn_here, drawn_next in zip(ruled, [*ruled[1:], True], strict=True)
        )


def _label(value: Value, room: int, *, last: bool) -> str:
    """Return the longest of a field's labels that fits; nothing where a later row may have more room."""
    short = value.name.rpartition(".")[2]
    text = value.text
    number = value.value if isinstance(value.value, int) else value.value.hex()
    labels = (f"{value.name} = {text}", f"{short} = {text}", f"{short} {number}", text, str(number))
    fitting = next((label for label in labels if len(label) <= room), "")
    return fitting or ("" if not last else str(number)[:room])


def _wide(value: Value, data_octets: int) -> Iterator[str]:
    """Yield the rows of an octet string, 4 octets each, not more than data_octets."""
    octets = value.value if isinstance(value.value, bytes) else b""
    room = 2 * _ROW_BITS - 1
    yield f"|{f'{value.name} ({len(octets)} octets)':^{room}}|"
    for at in range(0, min(len(octets), data_octets), 4):
        yield f"|{'  '.join(f'{octet:02x}' for octet in octets[at : at + 4]):^{room}}|"
    if len(octets) > data_octets:
        yield f"~{f'{len(octets) - data_octets} more octets':^{room}}~"
    yield _RULE


def _heading(layer: Layer) -> Text:
    first, last = layer.at, layer.at + max(layer.octets, 1) - 1
    heading = Text(layer.title, style="bold green" if layer.decrypted else "bold cyan")
    where = f"octet {first}" if first == last else f"octets {first}-{last}"
    what = ", ".join(part for part in (layer.source, where, "decrypted" if layer.decrypted else "") if part)
    return heading.append(f"  {what}", style="dim not bold")


def _table(layer: Layer, data_octets: int, meanings: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", style="dim", no_wrap=True, min_width=9)
    table.add_column(style="green" if layer.decrypted else "cyan", no_wrap=True, min_width=22)
    table.add_column(min_width=17 if meanings else 24, overflow="fold")
    table.add_column(style="dim")
    for value in layer.values:
        # A source that the heading names already need not be said again
        source = "" if value.field.source == layer.source else value.field.source
        about = "; ".join(part for part in (value.field.meaning, source) if part) if meanings else source
        table.add_row(value.place, value.name, _value(value, data_octets), about)
    return table


def _value(value: Value, data_octets: int) -> Text:
    octets = value.value
    if isinstance(octets, bytes) and value.field.form == "hex" and len(octets) > 8:
        shown = Text("\n").join(_hex_lines(octets[:data_octets]))
        if len(octets) > data_octets:
            shown.append(f"\n{len(octets) - data_octets} more octets", style="dim")
    else:
        shown = Text(value.text)
    if value.note:
        shown.append(f"  {value.note}", style="bold red" if value.note.startswith(("wrong", "not ")) else "dim")
    return shown


def _hex_lines(octets: bytes) -> Iterable[Text]:
    for at in range(0, len(octets), 8):
        part = octets[at : at + 8]
        printable = "".join(chr(octet) if 32 <= octet < 127 else "." for octet in part)
        yield Text(f"{part.hex(' '):<25}").append(printable, style="dim")
