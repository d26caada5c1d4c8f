"""Find a Rust toolchain that can build the native engine, or say exactly why there is none.

As a script it prints the toolchain's folder. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SYSTEM = Path("/usr/bin")

HOW_TO_INSTALL = (
    "install one with `apt-get install cargo-web rustc-web` (Debian 12) or with rustup, then run `make build`"
)


@dataclass(frozen=True)
class Toolchain:
    """A cargo and a rustc from one folder.   folder: to be put first in PATH.   version: rustc's own first line."""

    folder: Path
    version: str

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return base with this toolchain first in PATH."""
        # aws-lc-sys compiles with the C compiler alone; without this it takes CMake on some hosts.
        return {
            "AWS_LC_SYS_CMAKE_BUILDER": "0",
            **base,
            "PATH": f"{self.folder}{os.pathsep}{base.get('PATH', os.defpath)}",
        }


@dataclass(frozen=True)
class NoToolchain:
    """Why the native engine can't be built here.   reason: a sentence for people, with what to install."""

    reason: str


def minimum_rust() -> tuple[int, int]:
    """Return (major, minor) of the oldest rustc that the workspace accepts."""
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    major, minor = manifest["workspace"]["package"]["rust-version"].split(".")[:2]
    return int(major), int(minor)


def find() -> Toolchain | NoToolchain:
    """Return the first good toolchain of PATH, cargo's own folder and /usr/bin, or the reason why there is none.

    WESPER_NO_NATIVE=1 asks for none.
    """
    if _is_set("WESPER_NO_NATIVE"):
        return NoToolchain("WESPER_NO_NATIVE is set")
    wanted = minimum_rust()
    refused = []
    for folder in _folders():
        if not (folder / "cargo").exists() or not (folder / "rustc").exists():
            continue
        version = _run_version(folder / "rustc")
        number = re.match(r"rustc (\d+)\.(\d+)", version)
        if number is None:
            refused.append(f"{folder}/rustc does not run ({version or 'no output'})")
        elif (int(number[1]), int(number[2])) < wanted:
            package = " of Debian's package rustc" if folder == SYSTEM else ""
            refused.append(f"{folder}/rustc{package} is {number[1]}.{number[2]}, older than {wanted[0]}.{wanted[1]}")
        else:
            return Toolchain(folder, version)
    return NoToolchain(f"{'; '.join(refused) or 'no Rust toolchain found'}: {HOW_TO_INSTALL}")


def with_ipsec_mb() -> bool:
    """Tell whether the native engine is to have the ipsec-mb provider too: WESPER_IPSEC_MB=1 asks for it."""
    return _is_set("WESPER_IPSEC_MB")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")


def _folders() -> Iterator[Path]:
    cargo_home = os.environ.get("CARGO_HOME") or Path.home() / ".cargo"
    candidates = [*os.environ.get("PATH", os.defpath).split(os.pathsep), f"{cargo_home}/bin", str(SYSTEM)]
    # Resolved, since Debian's /bin is /usr/bin: each is looked at once.
    return iter(dict.fromkeys(Path(folder).resolve() for folder in candidates if folder))


def _run_version(rustc: Path) -> str:
    """Return the first line that `rustc --version` prints, or of its complaint."""
    try:
        done = subprocess.run([rustc, "--version"], capture_output=True, text=True, cwd=ROOT, check=False)
    except OSError as failure:
        return str(failure)
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def main() -> int:
    """Print the folder of the toolchain, or on stderr why there is none, and return the exit code."""
    found = find()
    if isinstance(found, NoToolchain):
        print(found.reason, file=sys.stderr)
        return 3
    print(found.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
