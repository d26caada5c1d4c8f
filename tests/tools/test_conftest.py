"""CI=true: a skip is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parent.parent / "conftest.py"

BY_MARK = """
import pytest
@pytest.mark.needs_tool("no-such-program", package="no-such-package")
def test(): pass
"""
BY_CALL = """
import pytest
def test(): pytest.skip("because")
"""
BY_IMPORT = """
import pytest
pytest.importorskip("no_such_module")
def test(): pass
"""
XFAIL = """
import pytest
@pytest.mark.xfail
def test(): assert False
"""


def run_pytest(folder: Path, test: str, ci: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "test_it.py").write_text(test)
    env = {**os.environ, "CI": ci, "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("test", [BY_MARK, BY_CALL, BY_IMPORT])
def test_skip_fails_under_ci_alone(tmp_path: Path, test: str) -> None:
    outside = run_pytest(tmp_path, test, ci="")
    assert "1 skipped" in outside.stdout
    inside = run_pytest(tmp_path, test, ci="true")
    assert inside.returncode != 0
    assert "CI=true forbids" in inside.stdout


def test_missing_tool_names_its_package(tmp_path: Path) -> None:
    assert "apt-get install no-such-package" in run_pytest(tmp_path, BY_MARK, ci="").stdout


def test_expected_failure_is_no_skip(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, XFAIL, ci="true")
    assert done.returncode == 0
    assert "1 xfailed" in done.stdout


NEEDS_TUN = """
import os, pytest
os.access = lambda *_: False
os.geteuid = lambda: USER
@pytest.mark.needs_tun
def test(): pass
"""


@pytest.mark.parametrize(("user", "outcome"), [("0", "1 error"), ("1000", "1 skipped")])
def test_a_device_kept_for_root_may_be_missed_by_an_ordinary_user_alone(
    tmp_path: Path, user: str, outcome: str
) -> None:
    assert outcome in run_pytest(tmp_path, NEEDS_TUN.replace("USER", user), ci="true").stdout
