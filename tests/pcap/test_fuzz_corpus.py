"""The committed inputs of the fuzz targets, without a fuzzer: each must still pass."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"
TARGETS = ("capture", "dissect", "ip_offset", "keys_esp_sa", "keys_toml")
INPUTS = [path for target in TARGETS for path in sorted((FUZZ / "corpus" / target).iterdir())]


def one_input(target: str) -> Callable[[bytes], None]:
    spec = importlib.util.spec_from_file_location(f"fuzz_{target}", FUZZ / "python" / f"{target}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run: Callable[[bytes], None] = module.one_input
    return run


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_input(path: Path) -> None:
    one_input(path.parent.name)(path.read_bytes())
