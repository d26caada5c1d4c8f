"""The examples of docs/hardware.md run, one after another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "hardware.md"


def test_every_example_of_the_page() -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for code in blocks:
        exec(compile(code, PAGE.name, "exec"), names)
    assert len(blocks) == 3
    for worker in names["workers"]:
        worker.close()
    assert names["engine"].drops() == {}
