"""TOML files read into msgspec structs, with file, line and key of what is wrong and what would be right."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from ..errors import ConfigError
from .toml_lines import LineIndex

S = TypeVar("S", bound=msgspec.Struct)
_MESSAGE = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<at>.*)`)?$", re.DOTALL)
_FIELD = re.compile(r"Object (?P<kind>contains unknown|missing required) field `(?P<name>.*)`", re.DOTALL)

_PLAIN = {
    "Illegal character '\\n'": ("a string is not closed on its line", "a quotation mark behind it"),
    "Unterminated string": ("a string is not closed", "a quotation mark behind it"),
    'Expected "\'"': ("a string is not closed", "a quotation mark behind it"),
    "Unclosed array": ("a list is not closed", "a ] behind it"),
    "Unclosed inline table": ("a table in braces is not closed", "a } on the same line"),
    "Invalid value": ("no value", "text in quotation marks, a number, true, false or a list"),
    "Expected '=' after a key": ("a key without =", "key = value"),
    "Expected newline": ("more behind the value", "one key = value a line"),
    "Cannot overwrite": ("a key stands twice", "one"),
    "Cannot declare": ("a table stands twice", "one"),
    "Duplicate inline table key": ("a key stands twice in braces", "one"),
}
"""What tomllib says, by its beginning, in plain words: what is wrong, and what would be right."""


def read_strict(
    text: str,
    path: Path | str,
    kind: type[S],
    *,
    tables: Mapping[str, type[msgspec.Struct]],
    expected: Mapping[str, str],
) -> tuple[S, LineIndex]:
    """Read TOML into a struct and return it with the lines of its keys.

    tables: the struct at each path without indexes, "" the file's.   expected: what is right, by a key's last part;
    for a missing key also by its path.
    Raises ConfigError.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _no_toml(str(error), text, path) from None
    except RecursionError:
        raise ConfigError("nested too deeply", path=path) from None
    lines = LineIndex(text)
    try:
        return msgspec.convert(data, kind), lines
    except msgspec.ValidationError as error:
        raise _explained(str(error), path, lines, tables, expected) from None


def _no_toml(message: str, text: str, path: Path | str) -> ConfigError:
    """Return what is wrong with a text that is no TOML, in plain words."""
    said, _, place = message.partition(" (at ")
    at = re.match(r"line (\d+)", place)
    line = int(at[1]) if at else text.rstrip("\n").count("\n") + 1
    if said.startswith(("Cannot overwrite", "Cannot declare")):
        twice = LineIndex(text).twice
        if twice is not None:
            key, first, line = twice
            return ConfigError(f"stands twice, first in line {first}", path=path, line=line, key=key, expected="one")
    what, right = next((words for start, words in _PLAIN.items() if said.startswith(start)), (said, "TOML"))
    return ConfigError(what, path=path, line=line, expected=right)


def _explained(
    message: str,
    path: Path | str,
    lines: LineIndex,
    tables: Mapping[str, type[msgspec.Struct]],
    expected: Mapping[str, str],
) -> ConfigError:
    found = _MESSAGE.match(message)
    what, at = (found["what"], found["at"] or "") if found else (message, "")
    at = at.replace("[...]", "")
    named = _FIELD.match(what)
    if named is None:
        what, _, got = what.replace("`", "").partition(", got ")
        words = expected.get(re.sub(r"\[\d+\]$", "", at).rpartition(".")[2], what.removeprefix("Expected "))
        return ConfigError(f"not {got}" if got else what, path=path, line=lines.line(at), key=at, expected=words)
    key = f"{at}.{named['name']}" if at else named["name"]
    if named["kind"] == "missing required":
        words = expected.get(re.sub(r"\[\d+\]", "", key)) or expected.get(named["name"], "")
        return ConfigError("missing", path=path, line=lines.line(at), key=key, expected=words)
    known = tables[re.sub(r"\[\d+\]", "", at)].__struct_fields__
    near = difflib.get_close_matches(named["name"], known, 1)
    return ConfigError(
        "unknown key", path=path, line=lines.line(key), key=key, expected=near[0] if near else ", ".join(known)
    )
