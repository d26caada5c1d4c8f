"""Where things stand in a TOML text: what tomllib forgets and error messages need."""

from __future__ import annotations

import re

_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*")
_PART = re.compile(_KEY)
_LAST = re.compile(r"(?:^|\.)[^.\[\]]+$|\[\d+\]$")


class LineIndex:
    """Lines of the tables and keys of a TOML text.   Paths look like `sa[0].inner.local`."""

    def __init__(self, text: str) -> None:
        self._lines: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self.twice: tuple[str, int, int] | None = None
        """The first key or table that stands twice, its first line and the second: then the text is not valid."""
        table, inside = "", ""  # inside: what has to close before the next statement, innermost last
        for number, line in enumerate(text.split("\n"), 1):
            if not inside:
                stripped = line.lstrip()
                if stripped.startswith("["):
                    array = stripped.startswith("[[")
                    found = _DOTTED.match(stripped, 2 if array else 1)
                    if found:
                        table = self._enter(found[1], array)
                        self._note(table, number)
                        self._lines.setdefault(table.removesuffix("[0]"), number)
                    continue
                found = _DOTTED.match(line)
                if found and line[found.end() : found.end() + 1] == "=":
                    path = table
                    for part in _parts(found[1]):
                        if path != table:
                            self._lines.setdefault(path, number)
                        path = f"{path}.{part}" if path else part
                    self._note(path, number)
                    line = line[found.end() + 1 :]
            inside = _still_open(line, inside)

    def line(self, path: str) -> int | None:
        """Return the line of a path, or of the nearest thing around it."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = _LAST.sub("", path, count=1)
        return None

    def has(self, path: str) -> bool:
        """Tell whether the text itself has a path."""
        return path in self._lines

    def _note(self, path: str, number: int) -> None:
        first = self._lines.setdefault(path, number)
        if first != number and self.twice is None:
            self.twice = path, first, number

    def _enter(self, dotted: str, array: bool) -> str:
        path = ""
        parts = _parts(dotted)
        for place, part in enumerate(parts):
            path = f"{path}.{part}" if path else part
            if array and place == len(parts) - 1:
                self._counts[path] = self._counts.get(path, -1) + 1
            if path in self._counts:
                path += f"[{self._counts[path]}]"
        return path


def _parts(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in _PART.findall(dotted)]


def _still_open(line: str, inside: str) -> str:
    """Return what is open behind a line: brackets, and t or T within a literal or basic multi-line string."""
    at = 0
    while at < len(line):
        mark, three = line[at], line[at : at + 3]
        if inside.endswith(("t", "T")):
            if mark == "\\" and inside[-1] == "T":
                at += 2
                continue
            if three == ("'''" if inside[-1] == "t" else '"""'):
                inside, at = inside[:-1], at + 3
                continue
        elif three in ("'''", '"""'):
            inside, at = inside + ("t" if mark == "'" else "T"), at + 3
            continue
        elif mark in "\"'":
            at += 1
            while at < len(line) and line[at] != mark:
                at += 2 if line[at] == "\\" and mark == '"' else 1
        elif mark == "#":
            break
        elif mark in "[{":
            inside += mark
        elif mark in "]}" and inside:
            inside = inside[:-1]
        at += 1
    return inside
