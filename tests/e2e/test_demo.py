"""`wesper demo` from end to end, as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wesper.engine import native_is_built
from wesper.errors import UnsupportedError
from wesper.lab.traffic import MARKER


def test_demo_protects_opens_compares_and_times(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "wesper", "demo", "-o", str(folder)], capture_output=True, text=True, timeout=120
    )
    if done.returncode == UnsupportedError.exit_code:
        pytest.skip(f"no user namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    for engine in ("reference", "native") if native_is_built() else ("reference",):
        assert any(engine in line and "0 differ" in line for line in done.stdout.splitlines())
    assert "the marker is in 0 of them" in done.stdout
    assert MARKER in (folder / "plain.pcapng").read_bytes()
    assert MARKER not in (folder / "esp.pcapng").read_bytes()
    assert MARKER in (folder / "opened-reference.pcapng").read_bytes()
    assert (folder / "keys.toml").stat().st_mode & 0o077 == 0
