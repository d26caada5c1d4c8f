"""The README's first example and every file of examples/ run and print something."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_prints(path: Path) -> None:
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert len(path.read_text().splitlines()) < 60


def test_readme_example_runs() -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code is not None
    done = subprocess.run([sys.executable, "-c", code[1]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    protected, replay = done.stdout.splitlines()
    # IPv4, protocol 50, from 192.0.2.1 to 192.0.2.2, SPI 0x1000, sequence number 1.
    assert protected.startswith("4500")
    assert protected[18:20] == "32"
    assert protected[24:56] == "c0000201c00002020000100000000001"
    assert replay == "DropReason.REPLAY"
