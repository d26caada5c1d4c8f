"""Any text as a key file in TOML: SAs or one ConfigError, and what was read can be written and read again."""

from __future__ import annotations

import sys

from wesper.errors import ConfigError
from wesper.keying import read_toml, write_toml


def one_input(octets: bytes) -> None:
    """Run one input; an exception is a finding."""
    text = octets.decode("utf-8", "replace")
    try:
        sas = read_toml(text, "keys.toml")
    except ConfigError as error:
        check_line(error.line, text)
        return
    if sas:
        assert read_toml(write_toml(sas), "keys.toml") == sas


def check_line(line: int | None, text: str) -> None:
    assert line is None or 0 < line <= text.count("\n") + 1


def main() -> None:
    """Fuzz until libFuzzer's arguments say stop."""
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
