"""Run every check of the project and close with one line: `N passed, M failed`, and `, K skipped` where some were.

`check.py NAME...` runs only those, `--list` names them all. Each test of pytest and cargo counts as one, any other
check counts as one. A failure stops nothing that comes after it. A check whose tool is missing is skipped with the
package to install; with CI=true it fails.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import rust_toolchain
from rust_toolchain import ROOT, NoToolchain

BIN = ROOT / ".venv" / "bin"
CI = os.environ.get("CI") == "true"


@dataclass(frozen=True)
class Count:
    """Tests of one check."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed" + (f", {self.skipped} skipped" if self.skipped else "")


@dataclass(frozen=True)
class Check:
    """One command.   count: makes the tests' number of its exit code and output; None: the check is one test.

    rust: it needs the Rust toolchain.   only_ci: it takes long; run if CI=true, or if asked for by name.
    needs: a command that must succeed for the check to make sense, and what to install if it doesn't.
    """

    name: str
    command: Sequence[str | Path]
    count: Callable[[int, str], Count] | None = None
    rust: bool = False
    only_ci: bool = False
    needs: tuple[Sequence[str | Path], str] | None = None


def checks(junit: Path) -> list[Check]:
    """Return all checks, the quick ones first.   junit: where pytest writes its report."""
    workspace = ["--workspace", "--locked"]
    if rust_toolchain.with_ipsec_mb():
        workspace += ["--features", "wesper-core/ipsec-mb"]
    clippy = ["cargo", "clippy", *workspace, "--all-targets", "--quiet", "--", "-D", "warnings"]
    cargo_test = ["cargo", "test", *workspace, "--exclude", "wesper-py"]
    engine = "reference" if isinstance(rust_toolchain.find(), NoToolchain) else "both"
    root = os.geteuid() == 0
    docs = (BIN / "sphinx-build", "--quiet", "--fail-on-warning", "--keep-going", "--jobs", "2", "docs", "build/docs")
    vectors = sorted((ROOT / "vectors").glob("*.json"))
    return [
        Check("ruff-format", (BIN / "ruff", "format", "--check", ".")),
        Check("ruff", (BIN / "ruff", "check", ".")),
        Check("mypy", (BIN / "mypy",)),
        Check("generated", (BIN / "python", "tools/generate.py", "--check")),
        Check(
            "rustfmt",
            ("cargo", "fmt", "--all", "--check"),
            rust=True,
            needs=(("cargo", "fmt", "--version"), "`apt-get install rustfmt-web` or `rustup component add rustfmt`"),
        ),
        Check(
            "clippy",
            clippy,
            rust=True,
            needs=(
                ("cargo", "clippy", "--version"),
                "`apt-get install rust-web-clippy` or `rustup component add clippy`",
            ),
        ),
        Check(
            "deny",
            ("cargo", "deny", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"),
            rust=True,
            needs=(("cargo", "deny", "--version"), "`cargo install --locked cargo-deny`"),
        ),
        # The fuzz targets are a workspace of their own: what depends on what there changes with the crates here.
        Check("fuzz-lock", ("cargo", "tree", "--locked", "--depth=0", "--manifest-path=fuzz/Cargo.toml"), rust=True),
        Check("cargo-test", cargo_test, count=count_cargo, rust=True),
        # One more than the two cores that this is for: tests of tunnels and kernels wait more than they work.
        Check(
            "pytest",
            (BIN / "pytest", "--quiet", "--numprocesses", "3", f"--junit-xml={junit}"),
            count=lambda code, _: count_pytest(code, junit),
        ),
        Check("vectors", (BIN / "wesper", "vectors", "run", "--engine", engine, *vectors)),
        Check("docs", docs),
        # Root's turn alone: an ordinary user's pytest has been that of an ordinary user.
        *([Check("ordinary-user", (BIN / "python", "tools/ordinary_user.py"), count_closing, only_ci=True)] * root),
        Check("fuzz", (BIN / "python", "tools/fuzz.py", "--quick", "--seconds", "8"), only_ci=True),
    ]


def count_cargo(code: int, output: str) -> Count:
    """Return the sum over all test binaries; at least one failure if cargo failed."""
    total = Count()
    for passed, failed, ignored in re.findall(r"^test result: .* (\d+) passed; (\d+) failed; (\d+) ig", output, re.M):
        total += Count(int(passed), int(failed), int(ignored))
    return _at_least_one_failure(total, failed=code != 0 or not total.passed)


def count_pytest(code: int, junit: Path) -> Count:
    """Return what pytest's report says; at least one failure if pytest failed or ran nothing."""
    total = Count()
    try:
        suites = list(ET.parse(junit).getroot().iter("testsuite"))
    except (OSError, ET.ParseError):
        suites = []
    for suite in suites:
        tests, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        total += Count(tests - failed - skipped, failed, skipped)
    return _at_least_one_failure(total, failed=code != 0 or not total.passed)


def count_closing(code: int, output: str) -> Count:
    """Return what a closing line `N passed, M failed` says; at least one failure if there is none or it is not zero."""
    found = re.search(r"^(\d+) passed, (\d+) failed$", output.strip().rpartition("\n")[2])
    total = Count(int(found[1]), int(found[2])) if found else Count()
    return _at_least_one_failure(total, failed=code != 0 or not total.passed)


def _at_least_one_failure(total: Count, failed: bool) -> Count:
    return total + Count(failed=1) if failed and not total.failed else total


def environment() -> dict[str, str]:
    """Return what all checks run with: the virtual environment, and the toolchain that built the native engine."""
    found = rust_toolchain.find()
    base = dict(os.environ) if isinstance(found, NoToolchain) else found.environment()
    base["PATH"] = os.pathsep.join([str(BIN), base["PATH"]])
    base["PYO3_PYTHON"] = str(BIN / "python")
    base["CARGO_TERM_COLOR"] = "never"
    return base


def run(check: Check, env: dict[str, str], verbose: bool) -> Count:
    """Run one check, print a line for it and, if it failed, all that it said."""
    print(f"{check.name:<14} ", end="\n" if verbose else "", flush=True)
    missing = _what_is_missing(check, env)
    if missing:
        print(f"{'FAILED' if CI else 'skipped'}: {missing}", flush=True)
        return Count(failed=1) if CI else Count(skipped=1)
    start = time.monotonic()
    try:
        done = subprocess.run(
            [str(word) for word in check.command],
            cwd=ROOT,
            env=env,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=None if verbose and check.count is None else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        code, output = done.returncode, done.stdout or ""
    except OSError as failure:
        code, output = 127, str(failure)
    one = Count(passed=int(code == 0), failed=int(code != 0))
    count = one if check.count is None else check.count(code, output)
    said = f"{'FAILED' if count.failed else 'ok':<8} {time.monotonic() - start:6.1f} s"
    print(said + ("" if check.count is None else f"   {count}"), flush=True)
    if count.failed or verbose:
        print(output, flush=True)
    return count


def _what_is_missing(check: Check, env: dict[str, str]) -> str:
    if check.rust:
        found = rust_toolchain.find()
        if isinstance(found, NoToolchain):
            return found.reason
    if check.needs is not None:
        probe, package = check.needs
        try:
            works = subprocess.run(probe, cwd=ROOT, env=env, capture_output=True, check=False).returncode == 0
        except OSError:
            works = False
        if not works:
            return f"`{' '.join(map(str, probe))}` does not run: {package}"
    return ""


def main() -> int:
    """Run what was asked for and return 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="checks to run; default all")
    parser.add_argument("--list", action="store_true", help="name all checks and their commands")
    parser.add_argument("--verbose", action="store_true", help="show what each check says also if it passed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        every = checks(Path(folder) / "junit.xml")
        if arguments.list:
            for check in every:
                words = (os.path.relpath(word, ROOT) if isinstance(word, Path) else word for word in check.command)
                print(f"{check.name:<14} {' '.join(words)}")
            return 0
        unknown = set(arguments.names) - {check.name for check in every}
        if unknown:
            parser.error(f"no such check: {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in every)}")
        env = environment()
        total = Count()
        for check in every:
            if check.name in arguments.names if arguments.names else CI or not check.only_ci:
                total += run(check, env, arguments.verbose)
    print(total)
    return 0 if total.passed and not total.failed else 1


if __name__ == "__main__":
    sys.exit(main())
