"""docs/captures.md: its commands run as they stand there, and print what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "captures.md").read_text()
CAPTURE = Path(__file__).parent / "office.pcapng"
OMITTED = "..."


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[tuple[str, list[str]]]:
    """Commands of a console block with the lines that they print."""
    found: list[tuple[str, list[str]]] = []
    for line in block.rstrip("\n").split("\n"):
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the page takes for granted: its key file, and the capture plain and encrypted."""
    shutil.copy(CAPTURE, tmp_path / "office.pcapng")
    (tmp_path / "keys.toml").write_text(blocks("toml")[0])
    (tmp_path / "keys.toml").chmod(0o600)
    shell("wesper pcap encrypt office.pcapng -o esp.pcapng --keys keys.toml", tmp_path)
    return tmp_path


def shell(command: str, folder: Path) -> list[str]:
    """What a command prints, both streams as they come, without spaces at the ends of lines."""
    scripts = folder / "bin"
    scripts.mkdir(exist_ok=True)
    program = scripts / "wesper"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m wesper "$@"\n')
    program.chmod(0o755)
    env = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return [line.rstrip() for line in done.stdout.rstrip("\n").split("\n") if done.stdout]


def agrees(printed: list[str], shown: list[str]) -> bool:
    """Whether lines are those shown, where `...` stands for any lines."""
    marked = "\n".join(line.rstrip() for line in shown)
    pattern = "(?:.*\n)*".join(map(re.escape, f"{marked}\n".split(f"{OMITTED}\n")))
    return re.fullmatch(pattern, "\n".join(printed) + "\n") is not None


@pytest.mark.needs_tool("tshark", "tshark")
@pytest.mark.needs_native
def test_console_blocks(folder: Path) -> None:
    ran = 0
    for block in blocks("console"):
        for command, shown in commands(block):
            printed = shell(command, folder)
            assert agrees(printed, shown), f"$ {command}\n" + "\n".join(printed)
            ran += 1
    assert ran > 10


def test_python_block(folder: Path) -> None:
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "['eth', 'ip', 'esp', 'ip', 'tcp', 'esp'] "
