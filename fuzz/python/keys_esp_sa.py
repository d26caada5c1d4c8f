"""Any text as lines of Wireshark's esp_sa: SAs or one ConfigError, and what was read can be written and read again."""

from __future__ import annotations

import sys
from dataclasses import replace

from wesper.errors import ConfigError
from wesper.keying import read_esp_sa, write_esp_sa


def one_input(octets: bytes) -> None:
    """Run one input; an exception is a finding."""
    text = octets.decode("utf-8", "replace")
    try:
        sas = read_esp_sa(text, "esp_sa")
    except ConfigError as error:
        check_line(error.line, text)
        return
    for sa in sas:
        written, left_out = write_esp_sa([sa])
        assert not left_out
        again = read_esp_sa(written, "esp_sa")
        if sa.source is not None and sa.destination is not None:
            assert again == [sa]
        else:
            assert replace(again[0], local=sa.local, remote=sa.remote) == sa


def check_line(line: int | None, text: str) -> None:
    assert line is not None
    assert 0 < line <= text.count("\n") + 1


def main() -> None:
    """Fuzz until libFuzzer's arguments say stop."""
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
