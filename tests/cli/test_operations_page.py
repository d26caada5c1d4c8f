"""What docs/operations.md promises of commands, held to the commands."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from wesper.cli import app
from wesper.cli.man import commands
from wesper.errors import ExitCode

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()


def test_every_exit_code_is_told() -> None:
    for code in ExitCode:
        assert f"| {code.value} | {code.sentence} |" in PAGE


def test_every_json_output_has_a_row_with_its_schema() -> None:
    rows = re.findall(r"^\| (`wesper .*?) \| (\d+) \|", PAGE, re.M)
    told = {tuple(words) for commands_of_row, _ in rows for words in _commands(commands_of_row)}
    with_json = set()
    for words in commands():
        command = app
        for word in words:
            command = command[word]
        if command.default_command and "--json" in {
            name for each in command.assemble_argument_collection() for name in each.names
        }:
            with_json.add(words)
    assert with_json - told == set(), "commands whose --json the page does not tell of"


def _commands(cell: str) -> list[list[str]]:
    """Return the words of the commands that a cell names: the later ones without what they share with the first."""
    first, *others = re.findall(r"`([^`]*)`", cell)
    words = [word for word in first.split()[1:] if re.fullmatch(r"[a-z]+", word)]
    return [words, *([*words[:-1], other.split()[0]] for other in others)]


@pytest.mark.needs_tool("systemd-analyze", package="systemd")
def test_systemd_has_nothing_to_say_of_the_unit(tmp_path: Path) -> None:
    text = (ROOT / "packaging" / "wesper@.service").read_text()
    program = tmp_path / "wesper"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "wesper@office.service"
    unit.write_text(text.replace("/usr/local/bin/wesper", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(text.replace("Restart=on-failure", "Restart=on-monday"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert "on-monday" in done.stderr
