"""Set up .venv with wesper in it, editable, the native engine built for release where a Rust toolchain is found.

`build.py` installs what wesper needs to run, `build.py --dev` also what the tests, docs and lints need. Does nothing
when nothing changed. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import rust_toolchain
from rust_toolchain import ROOT, NoToolchain, Toolchain

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "wesper-build.json"


def main() -> int:
    """Bring .venv up to date and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", action="store_true", help="also install what tests, docs and lints need")
    dev: bool = parser.parse_args().dev
    toolchain = rust_toolchain.find()
    missing = list(missing_packages(toolchain))
    if missing:
        for line in missing:
            print(f"build: {line}", file=sys.stderr)
        return 3
    try:
        bring_up_to_date(toolchain, dev)
    except subprocess.CalledProcessError as failure:
        print(f"build: `{' '.join(map(str, failure.cmd))}` failed", file=sys.stderr)
        return failure.returncode
    return 0


def missing_packages(toolchain: Toolchain | NoToolchain) -> Iterator[str]:
    """Yield a line, with the Debian package to install, for each thing that this machine lacks."""
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        yield "Python's venv module is missing: apt-get install python3-venv"
    if isinstance(toolchain, Toolchain):
        if shutil.which(os.environ.get("CC", "cc")) is None:
            yield "a C compiler is missing: apt-get install gcc libc6-dev"
        elif not _compiles("#include <stdlib.h>"):
            yield "the C library's headers are missing: apt-get install libc6-dev"
        elif rust_toolchain.with_ipsec_mb() and not _compiles("#include <intel-ipsec-mb.h>"):
            yield "WESPER_IPSEC_MB is set and its header is missing: apt-get install libipsec-mb-dev"


def bring_up_to_date(toolchain: Toolchain | NoToolchain, dev: bool) -> None:
    """Make .venv, install the pinned packages and wesper: each only if its inputs changed since it was last done."""
    done = _read_stamp()
    if not done:
        print(f"build: making {VENV.relative_to(ROOT)} with Python {sys.version.split()[0]}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)

    for name in ["requirements.lock", *(["requirements-dev.lock"] if dev else [])]:
        digest = _digest([ROOT / name])
        if done.get(name) != digest:
            print(f"build: installing the packages of {name}", flush=True)
            _pip("--require-hashes", "--no-deps", "-r", str(ROOT / name))
            done[name] = digest
            _write_stamp(done)

    native = isinstance(toolchain, Toolchain)
    features = "ipsec-mb" if rust_toolchain.with_ipsec_mb() else ""
    words = (toolchain.version, features) if isinstance(toolchain, Toolchain) else ("reference engine only",)
    inputs = _digest(_sources_of_build(native), *words)
    if done.get("wesper") != inputs or native != any(_extensions()):
        _install_wesper(toolchain)
        done["wesper"] = inputs
        _write_stamp(done)
    if isinstance(toolchain, NoToolchain):
        print(f"build: reference engine only, no native engine: {toolchain.reason}", flush=True)
    else:
        print(f"build: ready, reference and native engine ({toolchain.version}): .venv/bin/wesper", flush=True)


def _install_wesper(toolchain: Toolchain | NoToolchain) -> None:
    options = ["--no-deps", "--no-build-isolation"]
    if isinstance(toolchain, NoToolchain):
        for extension in _extensions():  # of an earlier build, which would no longer follow its sources
            extension.unlink()
        _pip(*options, "--editable", str(ROOT))
        return
    print(f"build: compiling the native engine with {toolchain.version} (minutes the first time)", flush=True)
    environment = toolchain.environment()
    if rust_toolchain.with_ipsec_mb():
        environment["MATURIN_PEP517_ARGS"] = "--features ipsec-mb"
    _pip(*options, "--editable", str(ROOT), env=environment)


def _pip(*arguments: str, env: dict[str, str] | None = None) -> None:
    # PYTHONPATH and the user's site folder would count as installed what the venv itself lacks.
    environment = {**(env or os.environ), "PYTHONNOUSERSITE": "1"}
    environment.pop("PYTHONPATH", None)
    # The build backend calls `maturin` by name: the pinned one, not one that happens to be installed elsewhere.
    environment["PATH"] = f"{PYTHON.parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *arguments]
    subprocess.run(pip, check=True, env=environment, cwd=ROOT)


def _compiles(source: str) -> bool:
    """Tell whether the C compiler accepts a source, without an output file."""
    command = [os.environ.get("CC", "cc"), "-fsyntax-only", "-x", "c", "-"]
    return subprocess.run(command, input=source, text=True, capture_output=True, check=False).returncode == 0


def _extensions() -> Sequence[Path]:
    return list((ROOT / "src" / "wesper").glob("_native*.so"))


def _sources_of_build(native: bool) -> Iterator[Path]:
    """Yield the files whose change asks for a new installation; Python sources are none, they are used in place."""
    yield ROOT / "pyproject.toml"
    yield from (ROOT / "tools" / name for name in ("build_backend.py", "rust_toolchain.py"))
    if native:
        yield from (ROOT / "Cargo.toml", ROOT / "Cargo.lock")
        yield from (path for path in sorted((ROOT / "crates").rglob("*")) if path.is_file())


def _digest(paths: Iterator[Path] | Sequence[Path], *words: str) -> str:
    digest = hashlib.sha256()
    for word in words:
        digest.update(f"{word}\0".encode())
    for path in paths:
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _read_stamp() -> dict[str, str]:
    """Return what was done in .venv; nothing if there is no venv that runs with this Python."""
    try:
        done: dict[str, str] = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    same = done.get("python") == sys.version and done.get("root") == str(ROOT) and os.access(PYTHON, os.X_OK)
    return done if same else {}


def _write_stamp(done: dict[str, str]) -> None:
    STAMP.write_text(json.dumps({**done, "python": sys.version, "root": str(ROOT)}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
