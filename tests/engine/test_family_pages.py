"""The examples of docs/wespv2.md and docs/eesp.md run, and print what the pages show."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["wespv2.md", "eesp.md"])
@pytest.mark.parametrize("engine", ["reference", pytest.param("native", marks=pytest.mark.needs_native)])
def test_example(page: str, engine: str) -> None:
    found = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert len(found) == 1
    for code, shown in found:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code.replace('"reference"', repr(engine)), page, "exec"), {})
        assert printed.getvalue() == shown
