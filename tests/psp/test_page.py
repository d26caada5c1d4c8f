"""The page's examples run, one after another, and print what stands under them."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "psp.md"


@pytest.mark.needs_native
def test_every_example_of_the_page(tmp_path: Path) -> None:
    text = PAGE.read_text().replace("/var/lib/wesper", str(tmp_path))
    blocks = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", text, re.DOTALL)
    names: dict[str, Any] = {}
    for code, output in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == output
    assert len(blocks) >= 5
    assert sum(bool(output) for _, output in blocks) >= 3
    assert (tmp_path / "psp.marks").exists()
