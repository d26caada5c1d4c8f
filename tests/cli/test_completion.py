from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from wesper.cli import app
from wesper.cli.man import commands

SHELLS = ("bash", "zsh", "fish")


def script(shell: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    app(["completion", shell], exit_on_error=False, result_action="return_value")
    path = folder / f"wesper.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command_and_its_options(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = script(shell, tmp_path, capsys).read_text()
    for words in commands():
        assert not words or words[-1] in text
    assert "protected-only" in text
    assert "reference" in text, "choices are completed too"


@pytest.mark.parametrize("shell", [pytest.param(each, marks=pytest.mark.needs_tool(each)) for each in SHELLS])
def test_the_shell_itself_finds_no_fault(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([shell, "-n", script(shell, tmp_path, capsys)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.needs_tool("zsh")
@pytest.mark.parametrize("way", ["sourced", "in a folder of fpath"])
def test_zsh_offers_what_can_come_next(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("zsh", tmp_path, capsys)
    path.rename(tmp_path / "_wesper")
    fpath = f"fpath=({tmp_path} $fpath); " if way != "sourced" else ""
    source = f"source {tmp_path}/_wesper; " if way == "sourced" else ""
    # A terminal of its own, where the key that lists what fits is pressed.
    ready = f"stty rows 40 columns 120; {fpath}autoload -U compinit; compinit -u -D; {source}PS1=READY"
    asks = f"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell {shlex.quote(ready)}
zpty -w -n shell $'wesper pcap \\t'
for turn in {{1..100}}; do
  zpty -r -t shell line && print -r -- "$line"
  sleep 0.05
  [[ $line == *keys* ]] && break
done
zpty -d shell
"""
    environment = {**os.environ, "TERM": "vt100", "HOME": str(tmp_path)}
    done = subprocess.run(["zsh", "-f", "-c", asks], capture_output=True, text=True, check=False, env=environment)
    for offered in ("decrypt  -- Open the", "encrypt  -- Protect the", "info     -- Say what", "keys     -- Convert a"):
        assert offered in done.stdout


@pytest.mark.needs_tool("bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("wesper pc", {"pcap"}),
        ("wesper pcap ", {"encrypt", "decrypt", "info", "keys"}),
        ("wesper pcap encrypt --eng", {"--engine"}),
        ("wesper pcap encrypt --engine ", {"reference", "native"}),
    ],
)
def test_bash_offers_what_can_come_next(
    typed: str, offered: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = typed.split(" ")
    asks = (
        f"source {script('bash', tmp_path, capsys)}; COMP_WORDS=({' '.join(words[:-1])} '{words[-1]}'); "
        f"COMP_CWORD={len(words) - 1}; _wesper; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "--norc", "-c", asks], capture_output=True, text=True, check=True)
    assert offered <= {line.strip() for line in done.stdout.splitlines()}
