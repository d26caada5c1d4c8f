"""Run the demo and the tests of labs and tunnels once more as an ordinary user: nobody, without groups, with a home of
its own. To be called by root; closes with `N passed, M failed`.

An ordinary user may be let into neither the working copy nor the Python that made .venv, so all of it is laid into a
temporary folder first: the tracked files, the native engine, the packages, and an interpreter that everybody may run.
Standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from check import Count, count_pytest
from rust_toolchain import ROOT

NOBODY = 65534
LIVE = "tests/kernel/test_live.py::test_ping_and_tcp_both_ways"
TESTS = (
    "tests/lab",
    "tests/tunnel",
    "tests/kernel/test_guest.py",
    "tests/kernel/test_lab.py",
    f"{LIVE}[built-native-aes-gcm-16-tunnel-4in4-udp]",
    f"{LIVE}[built-reference-aes-gcm-8-tunnel-4in6-raw]",
)
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
MINUTES = 10


def main() -> int:
    """Run everything and return 0 if nothing failed."""
    if os.geteuid() != 0:
        print("ordinary_user: only root can become another user", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory(prefix="wesper-user-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            python = lay_out(folder)
        except FileNotFoundError as failure:
            print(f"ordinary_user: {failure}", file=sys.stderr)
            return 3
        home = folder / "home"
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
        lay_kernels(home)
        tests = [test for test in TESTS if (ROOT / test.partition("::")[0]).exists()]
        junit = home / "junit.xml"
        options = ["--quiet", "--numprocesses=3", "-p", "no:cacheprovider", f"--junit-xml={junit}"]
        code = run(folder, [python, "-m", "pytest", *options, *tests])
        demo = run(folder, [python, "-m", "wesper", "demo", "-o", str(home / "demo")])
        total = count_pytest(code, junit)
    total += Count(passed=int(demo == 0), failed=int(demo != 0))
    # What needs root is not for this user; every other skip has failed already.
    print(Count(total.passed, total.failed))
    return 0 if total.passed and not total.failed else 1


def lay_out(folder: Path) -> str:
    """Lay the project and a virtual environment into a folder and return its interpreter.

    Raises FileNotFoundError if no interpreter of this version is open to everybody.
    """
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    extensions = (str(path.relative_to(ROOT)) for path in (ROOT / "src" / "wesper").glob("_native*.so"))
    for each in [*filter(None, tracked.split("\0")), *extensions]:
        source, target = ROOT / each, folder / "wesper" / each
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    subprocess.run([open_interpreter(), "-m", "venv", "--without-pip", folder / "venv"], check=True)
    packages = Path("lib") / VERSION / "site-packages"
    ours = folder / "venv" / packages
    # The project itself is on PYTHONPATH: an editable install points back into the working copy.
    skip = shutil.ignore_patterns("*.pth", "__pycache__")
    shutil.copytree(ROOT / ".venv" / packages, ours, dirs_exist_ok=True, ignore=skip, copy_function=link)
    return str(folder / "venv" / "bin" / "python")


def lay_kernels(home: Path) -> None:
    """Lay the kernels of `wesper kernel build`, if there are any, where a user with this home looks for them."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wesper" / "kernels"
    if cache.is_dir():
        target = home / ".cache" / "wesper" / "kernels"
        skip = shutil.ignore_patterns("*.lock", "*.log", "*.part-*")
        shutil.copytree(cache, target, ignore=skip, copy_function=link)


def open_interpreter() -> str:
    """Return an interpreter of this version that an ordinary user can run."""
    for each in (os.path.realpath(sys.executable), f"/usr/bin/{VERSION}", f"/usr/local/bin/{VERSION}"):
        probe = [each, "-c", "import venv"]
        try:
            done = subprocess.run(probe, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, cwd="/")
        except OSError:
            continue
        if done.returncode == 0:
            return each
    raise FileNotFoundError(f"no {VERSION} that an ordinary user can run: apt-get install python3 python3-venv")


def link(source: str, target: str) -> None:
    """Link a file into place, or copy it where links do not reach."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def run(folder: Path, command: list[str]) -> int:
    """Run a command as nobody in the copied tree and return its exit code."""
    environment = {
        "CI": os.environ.get("CI", ""),
        "HOME": str(folder / "home"),
        "LANG": "C.UTF-8",
        "PATH": f"{folder / 'venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(folder / "wesper" / "src"),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "home" / "hypothesis"),
    }
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    try:
        return subprocess.run(
            [*user, *command], cwd=folder / "wesper", env=environment, stdin=subprocess.DEVNULL, timeout=MINUTES * 60
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"ordinary_user: `{' '.join(command)}` took more than {MINUTES} minutes", file=sys.stderr)
        return 124


if __name__ == "__main__":
    sys.exit(main())
