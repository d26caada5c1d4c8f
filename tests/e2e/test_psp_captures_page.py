"""docs/psp-captures.md: its commands run as they stand there, and print what it says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from .test_captures_page import CAPTURE, ROOT, agrees, commands, shell

PAGE = (ROOT / "docs" / "psp-captures.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.needs_native
def test_console_blocks(tmp_path: Path) -> None:
    shutil.copy(CAPTURE, tmp_path / "office.pcapng")
    (tmp_path / "psp.toml").write_text(blocks("toml")[0])
    (tmp_path / "psp.toml").chmod(0o600)
    ran = 0
    for block in blocks("console"):
        for command, shown in commands(block):
            printed = shell(command, tmp_path)
            assert agrees(printed, shown), f"$ {command}\n" + "\n".join(printed)
            ran += 1
    assert ran == 8
