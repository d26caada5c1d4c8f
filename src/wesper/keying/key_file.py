"""Key files on disk: who may read them, which form they have, and how they are written."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from ..errors import ConfigError, KeyMaterialError
from .esp_sa import read_esp_sa, write_esp_sa
from .psp import PSPKeys
from .static import StaticSA
from .text_file import read_text
from .toml_file import read_psp_toml, read_toml, write_toml

KeyFormat = Literal["toml", "esp_sa"]
FORMATS: tuple[KeyFormat, ...] = ("toml", "esp_sa")


def load_keys(path: Path | str) -> list[StaticSA]:
    """Read the SAs of a key file, in the form that its content has.

    Raises KeyMaterialError if others than its owner may read it, ConfigError for what is wrong in it, OSError.
    """
    text = _read(Path(path))
    return parse_keys(text, format_of(text), path, key_files=True)


def load_psp_keys(path: Path | str) -> PSPKeys:
    """Read what a key file says of PSP.   Raises as load_keys does."""
    keys = load_all_keys(path)[1]
    if not keys:
        raise ConfigError("nothing of PSP", path=path, expected="[[device]] or [[association]] tables")
    return keys


def load_all_keys(path: Path | str) -> tuple[list[StaticSA], PSPKeys]:
    """Read the SAs of a key file and what it says of PSP; either may be empty.   Raises as load_keys does."""
    text = _read(Path(path))
    if format_of(text) != "toml":
        return parse_keys(text, "esp_sa", path), PSPKeys()
    sas, psp = read_toml(text, path, read_key_row), read_psp_toml(text, path, read_key_row)
    if not sas and not psp:
        raise ConfigError("no SA", path=path, expected="[[sa]], [[association]] or [[device]] tables")
    return sas, psp


def parse_keys(text: str, form: KeyFormat, path: Path | str, *, key_files: bool = False) -> list[StaticSA]:
    """Read SAs from text.   path: for messages.   key_files: follow `key_file`.   Raises ConfigError."""
    read_row = read_key_row if key_files else None
    sas = read_toml(text, path, read_row) if form == "toml" else read_esp_sa(text, path)
    if not sas:
        raise ConfigError("no SA", path=path, expected="[[sa]] tables, or lines of Wireshark's esp_sa")
    return sas


def files_with_keys(path: Path | str) -> list[Path]:
    """Return a valid key file and those that its `key_file` keys name.   Raises as load_keys does."""
    path = Path(path)
    found = [path]

    def note(row: Path) -> bytes:
        found.append(row)
        return read_key_row(row)

    text = _read(path)
    if format_of(text) == "toml":
        read_toml(text, path, note)
        read_psp_toml(text, path, note)
    return found


def format_of(text: str) -> KeyFormat:
    """Return the form of a text by its first statement: a line of esp_sa begins with a quotation mark and a comma
    follows the first string.
    """
    for line in text.split("\n"):
        start = line.strip()
        if start and not start.startswith("#"):
            return "esp_sa" if start.startswith('"') and '",' in start.replace(" ", "") else "toml"
    return "toml"


def save_keys(sas: Sequence[StaticSA], path: Path | str, form: KeyFormat | None = None) -> list[StaticSA]:
    """Write SAs to a file that only its owner may read, whole or not at all.   Returns those that its form can't hold.

    path: `-` for standard output.   form: None: TOML if the name ends in .toml, else esp_sa.
    Raises ConfigError if the form can hold none of them, OSError.
    """
    path = Path(path)
    left_out: list[StaticSA] = []
    if (form or ("toml" if path.suffix == ".toml" else "esp_sa")) == "toml":
        text = write_toml(sas)
    else:
        text, left_out = write_esp_sa(sas)
    if len(left_out) == len(sas):
        suites = ", ".join(sorted({sa.suite for sa in left_out}))
        raise ConfigError(f"Wireshark has no name for {suites}", path=path, expected="TOML")
    if str(path) == "-":
        sys.stdout.write(text)
        return left_out
    save_private(path, [text])
    return left_out


def save_private(path: Path, parts: Iterable[str]) -> None:
    """Write a file that only its owner may read, whole or not at all.   Raises ConfigError, OSError."""
    if path.exists() and not path.is_file():
        raise ConfigError("not a regular file", path=path, expected="a file for the keys")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        try:
            file.writelines(parts)
            file.flush()
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise


def _read(path: Path) -> str:
    """Return the text of a file that only its owner may read."""
    return read_text(path, "a key file", private=True)


def read_key_row(path: Path) -> bytes:
    """Return the octets of a file of one SA's key, salt and auth key in a row, in hexadecimal.

    Of a PSP device: device key 0, or both.
    Raises KeyMaterialError if others than its owner may read it, or it is no such file; OSError.
    """
    text = "".join(_read(path).split())
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise KeyMaterialError("not hexadecimal", path=path, expected="key, salt and auth key in hexadecimal") from None
