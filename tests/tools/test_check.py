"""The closing line counts what ran, and nothing that failed can look like a pass."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import check
from check import Check, Count

CARGO = """
running 3 tests
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
"""


def test_cargo_sums_its_binaries() -> None:
    assert check.count_cargo(101, CARGO) == Count(6, 1, 1)


def test_cargo_that_does_not_compile_is_a_failure() -> None:
    assert check.count_cargo(101, "error: could not compile `wesper-core`") == Count(0, 1, 0)


def test_cargo_without_tests_is_a_failure() -> None:
    assert check.count_cargo(0, "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured") == Count(0, 1, 0)


def test_pytest_report_is_read(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    report.write_text(
        '<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10"/></testsuites>'
    )
    assert check.count_pytest(1, report) == Count(4, 3, 3)


@pytest.mark.parametrize("code", [0, 2, 5])
def test_pytest_without_report_is_a_failure(tmp_path: Path, code: int) -> None:
    assert check.count_pytest(code, tmp_path / "none.xml") == Count(0, 1, 0)


def test_closing_line_is_read() -> None:
    assert check.count_closing(0, "2 passed, 0 failed in between\n5 passed, 0 failed\n") == Count(5, 0)
    assert check.count_closing(1, "5 passed, 2 failed\n") == Count(5, 2)


@pytest.mark.parametrize(("code", "output"), [(1, "5 passed, 0 failed"), (0, "0 passed, 0 failed"), (0, "nothing")])
def test_closing_line_that_can_not_be_is_a_failure(code: int, output: str) -> None:
    assert check.count_closing(code, output).failed == 1


def test_closing_line() -> None:
    assert str(Count(3, 0)) == "3 passed, 0 failed"
    assert str(Count(3, 1) + Count(1, 0, 2)) == "4 passed, 1 failed, 2 skipped"


def test_failing_command_shows_its_output(capsys: pytest.CaptureFixture[str]) -> None:
    command = (sys.executable, "-c", "print('what went wrong'); raise SystemExit(1)")
    assert check.run(Check("x", command), check.environment(), verbose=False) == Count(failed=1)
    assert "what went wrong" in capsys.readouterr().out


@pytest.mark.parametrize(("ci", "expected"), [(False, Count(skipped=1)), (True, Count(failed=1))])
def test_missing_tool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ci: bool, expected: Count
) -> None:
    monkeypatch.setattr(check, "CI", ci)
    missing = Check("x", (sys.executable, "-c", ""), needs=(("no-such-program",), "`apt-get install it`"))
    assert check.run(missing, check.environment(), verbose=False) == expected
    assert "apt-get install it" in capsys.readouterr().out
