from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from wesper.cli.man import commands, name_of, page
from wesper.errors import ConfigError, ExitCode

EVERY = list(commands())


def test_every_command_has_a_page() -> None:
    assert {(), ("pcap",), ("pcap", "encrypt"), ("dissect",), ("lab", "exec"), ("man",)} <= set(EVERY)
    assert len(EVERY) == len(set(EVERY))


@pytest.mark.parametrize("words", EVERY, ids=name_of)
def test_page_has_the_sections_of_man_pages_in_their_order(words: tuple[str, ...]) -> None:
    sections = re.findall(r"^\.SH (.*)$", page(words), re.M)
    order = ["NAME", "SYNOPSIS", "DESCRIPTION", "ARGUMENTS", "OPTIONS", "COMMANDS", "EXIT STATUS", "SEE ALSO"]
    assert sections == [each for each in order if each in sections]
    assert {"NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS"} <= set(sections)


def test_page_tells_of_every_option_what_help_tells() -> None:
    text = page(("pcap", "encrypt")).replace("\\-", "-")
    assert "\\fB-o\\fR, \\fB--output\\fR \\fISTR\\fR\nThe new capture; - for standard output.\n(needed)" in text
    assert "\\fB--engine\\fR" in text
    assert "(one of reference, native)" in text
    assert "the file's \\fBsequence\\fR" in text, "backticks become bold"
    assert "wesper pcap encrypt\\fR\n\\fB--output\\fR\nSTR\n" in text


def test_page_tells_every_exit_code() -> None:
    text = page(())
    for code in ExitCode:
        assert f"\\fB{code.value}\\fR\n{code.sentence.replace('-', chr(92) + '-')}" in text


def test_no_line_begins_a_request_by_accident() -> None:
    requests = {".TH", ".SH", ".PP", ".TP", ".BR"}
    for words in EVERY:
        assert {line.split()[0] for line in page(words).splitlines() if line.startswith((".", "'"))} <= requests


def test_unknown_command_names_those_that_are_there() -> None:
    with pytest.raises(ConfigError, match=r"no command wesper pcap nonsense \(expected decrypt, encrypt"):
        page(("pcap", "nonsense"))


@pytest.mark.needs_tool("mandoc", package="mandoc")
def test_mandoc_has_nothing_to_say_of_any_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for words in EVERY:
        (tmp_path / f"{name_of(words)}.1").write_text(page(words) + "\n")
    files = sorted(tmp_path.iterdir())
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *files], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
