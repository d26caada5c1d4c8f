"""Write the files that are made from declarations: docs pages and the native engine's enum.

With --check: only say whether they are up to date.
"""

from __future__ import annotations

import sys
from pathlib import Path

from wesper.crypto import SUITES
from wesper.errors import ExitCode
from wesper.tunnel.events import EVENTS
from wesper.tunnel.loop import COUNTS
from wesper.verdict import COUNTERS, DropReason, rust_source
from wesper.wire import diagram
from wesper.wire.eesp import EESP, CryptOffsetOption, PayloadInfo, StatelessOption
from wesper.wire.esp import ESP, BEETPseudoHeader, ESPTrailer
from wesper.wire.ipv4 import IPv4
from wesper.wire.ipv6 import IPv6
from wesper.wire.layout import Place, places
from wesper.wire.layouts import LAYOUTS
from wesper.wire.psp import PSP
from wesper.wire.psp_exchange import Accept, Error, Frame, Hello, Listed, Open, Refuse, Token
from wesper.wire.udp import UDP
from wesper.wire.wesp import WESP
from wesper.wire.wespv2 import WESPv2

_ROOT = Path(__file__).parents[1]


def drops() -> str:
    """Return the page of drop reasons and counters."""
    lines = [
        "# Drops and counters",
        "",
        "Every packet that an engine does not deliver is dropped for one of these reasons. `verdict` is its name in",
        "vectors and JSON, `counter` the one it raises, named as in `/proc/net/xfrm_stat` (PSP's as in the kernel's",
        "PSP statistics); a reason without one is no error.",
        "Written from `src/wesper/verdict.py` by `tools/generate.py`.",
        "",
        "| code | reason | verdict | counter | when | source |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.code} | `{r.name}` | {r.verdict} | {r.counter or '–'} | {r.sentence} | {r.source} |" for r in DropReason
    ]
    unused = [c for c in COUNTERS if c not in {r.counter for r in DropReason}]
    lines += ["", f"Counters of the kernel that nothing raises here yet: {', '.join(unused)}.", ""]
    return "\n".join(lines)


def formats() -> str:
    """Return the page of packet diagrams."""
    lines = [
        "# Formats",
        "",
        "Drawn from the declarations in `src/wesper/wire/` by `tools/generate.py`. Names in the tables are those of",
        "`wesper dissect`, and Wireshark's where it has one.",
    ]
    family = (ESP, ESPTrailer, BEETPseudoHeader, WESP, WESPv2, EESP, CryptOffsetOption, PayloadInfo, StatelessOption)
    for header in (*family, PSP, UDP, IPv4, IPv6):
        lines += ["", f"## {header.TITLE}", "", f"Source: {header.SOURCE}.", "", "```text", diagram(header), "```", ""]
        lines += ["| field | bits | name | meaning | source |", "|---|---|---|---|---|"]
        for f in header.FIELDS:
            width = "variable" if f.variable else str(f.bits)
            lines.append(f"| {f.name} | {width} | `{header.NAME}.{f.wire_name}` | {f.meaning} | {f.source} |")
    return "\n".join([*lines, ""])


def suites() -> str:
    """Return the page of cipher suites."""
    lines = [
        "# Suites",
        "",
        "Written from `src/wesper/crypto/suites.py` by `tools/generate.py`. Sizes in octets; the key is without its",
        "salt; ENCR and INTEG are IKEv2's transform numbers.",
        "",
        "| suite | key | salt | IV sent | ICV | auth key | ENCR | INTEG | source |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{s.name}` | {', '.join(map(str, s.key_octets))} | {s.salt_octets} | {s.iv_octets} | {s.icv_octets} "
        f"| {s.auth_key_octets or '–'} | {s.encr} | {s.integ or '–'} | {s.source} |"
        for s in SUITES.values()
    ]
    return "\n".join([*lines, ""])


def operations() -> str:
    """Return the page for operators, with its tables put in."""
    tables: _Tables = {
        "exit codes: by tools/generate.py from src/wesper/errors.py": (
            ("exit code", "when"),
            [(str(code.value), code.sentence) for code in ExitCode],
        ),
        "events: by tools/generate.py from src/wesper/tunnel/events.py": (
            ("event", "says"),
            [(f"`{name}`", sentence) for name, sentence in EVENTS.items()],
        ),
        "counts: by tools/generate.py from src/wesper/tunnel/loop.py": (
            ("count", "says"),
            [(f"`{name}`", sentence) for name, sentence in COUNTS.items()],
        ),
    }
    return _filled("operations", tables)


def hardware() -> str:
    """Return the page of what can be read without a key, with its tables put in."""
    outers = ((4, False), (6, False), (4, True), (6, True))
    fixed: list[tuple[str, ...]] = []
    moving: list[tuple[str, ...]] = []
    for layout in LAYOUTS.values():
        found = [
            places(layout, version, udp) if (layout.udp_port if udp else layout.ip_protocol) is not None else None
            for version, udp in outers
        ]
        known = next(each for each in found if each is not None)
        for number, place in enumerate(known):
            if place.bit is None:
                steps = "not without the SA" if place.steps is None else str(place.steps)
                moving.append((layout.name, f"`{place.name}`", place.why, steps))
                continue
            where = [_octets(each[number]) if each is not None else "–" for each in found]
            name = f"`{place.name}`" + (f", if {place.only_if}" if place.only_if else "")
            fixed.append((layout.name, name, *where))
    tables: _Tables = {
        "fixed: by tools/generate.py from src/wesper/wire/": (
            ("protocol", "field", "IPv4", "IPv6", "IPv4, UDP", "IPv6, UDP"),
            fixed,
        ),
        "moving: by tools/generate.py from src/wesper/wire/": (("protocol", "field", "it stands", "loads"), moving),
    }
    return _filled("hardware", tables)


def _octets(place: Place) -> str:
    assert place.bit is not None
    first, last = place.bit // 8, (place.bit + max(place.field.bits, 1) - 1) // 8
    if place.field.variable:
        return f"{first}–"
    if place.bit % 8 or place.field.bits % 8:
        low, high = place.bit % 8, place.bit % 8 + place.field.bits - 1
        return f"{first}, bit {low}" if low == high else f"{first}, bits {low}–{high}"
    return f"{first}–{last}" if last > first else str(first)


def exchange() -> str:
    """Return the page of the PSP exchange, with its messages drawn."""
    page = (_ROOT / "docs/psp-exchange.md").read_text()
    for header in (Frame, Hello, Open, Accept, Refuse, Listed, Token, Error):
        start = f"<!-- {header.__name__}: by tools/generate.py from src/wesper/wire/psp_exchange.py -->"
        before, _, rest = page.partition(start)
        lines = ["```text", diagram(header), "```", "", "| field | bits | is |", "|---|---|---|"]
        for f in header.FIELDS:
            names = (
                ""
                if f.names is None or f.name == "type"
                else ": " + ", ".join(f"{number} {name}" for number, name in f.names.items())
            )
            lines.append(f"| {f.name} | {'variable' if f.variable else f.bits} | {f.meaning}{names} |")
        page = "\n".join([f"{before}{start}", "", *lines, "", f"<!-- end -->{rest.partition('<!-- end -->')[2]}"])
    return page


_Tables = dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]]


def _filled(name: str, tables: _Tables) -> str:
    page = (_ROOT / f"docs/{name}.md").read_text()
    for title, (columns, rows) in tables.items():
        start, end = f"<!-- {title} -->", "<!-- end -->"
        before, _, rest = page.partition(start)
        lines = [f"| {' | '.join(row)} |" for row in (columns, ("---",) * len(columns), *rows)]
        page = "\n".join([f"{before}{start}", "", *lines, "", f"{end}{rest.partition(end)[2]}"])
    return page


def main(check: bool) -> int:
    """Write or check all files; return the exit code."""
    files = {
        "docs/drops.md": drops(),
        "docs/formats.md": formats(),
        "docs/suites.md": suites(),
        "docs/hardware.md": hardware(),
        "docs/operations.md": operations(),
        "docs/psp-exchange.md": exchange(),
        "crates/wesper-core/src/verdict.rs": rust_source(),
    }
    stale = [name for name, text in files.items() if not (_ROOT / name).exists() or (_ROOT / name).read_text() != text]
    for name in stale:
        if check:
            print(f"{name} is out of date: run .venv/bin/python tools/generate.py", file=sys.stderr)
        else:
            (_ROOT / name).write_text(files[name])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
