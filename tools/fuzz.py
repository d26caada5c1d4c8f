"""Run each fuzz target for some seconds, Rust and Python, and close with `N passed, M failed`.

A target is `fuzz/fuzz_targets/NAME.rs` (libFuzzer, a [[bin]] of fuzz/Cargo.toml) or `fuzz/python/NAME.py` (atheris);
its committed inputs are in `fuzz/corpus/NAME/`. What a run finds new goes to build/fuzz/NAME/, what crashes to
fuzz/artifacts/NAME/. cargo-fuzz runs the Rust targets too, but isn't needed: this passes the same flags to rustc.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import rust_toolchain
from rust_toolchain import ROOT, NoToolchain, Toolchain

FUZZ = ROOT / "fuzz"

# What cargo-fuzz sets: edge counters, a table of their places, and comparisons that the fuzzer learns from.
COVERAGE = (
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Ccodegen-units=1",
)


@dataclass(frozen=True)
class Target:
    """A fuzz target.   command: what runs it, libFuzzer's arguments to be added."""

    name: str
    command: Sequence[str | Path]


def build_rust_targets(toolchain: Toolchain, *, quick: bool) -> list[Target]:
    """Compile all Rust targets with coverage counters and return them. Raises CalledProcessError.

    quick: optimised little, in a third of the time.
    """
    names = sorted(path.stem for path in (FUZZ / "fuzz_targets").glob("*.rs"))
    if not names:
        return []
    env = toolchain.environment()
    rustc = toolchain.folder / "rustc"
    library = Path(subprocess.check_output([rustc, "--print", "target-libdir"], text=True).strip())
    host = subprocess.check_output([rustc, "-vV"], text=True).partition("host: ")[2].split()[0]
    # Debian's toolchain comes without the address sanitizer's runtime; counters and panics still work there.
    sanitizer = ["-Zsanitizer=address"] if any(library.glob("librustc*_rt.asan.a")) else []
    if not sanitizer:
        print("fuzz: this toolchain has no address sanitizer: running without", flush=True)
    env |= {
        "RUSTC_BOOTSTRAP": "1",  # -Z flags on a stable compiler
        "RUSTFLAGS": " ".join([*COVERAGE, *sanitizer]),
        # A named target keeps build scripts and procedural macros free of the flags.
        "CARGO_BUILD_TARGET": host,
        "CARGO_TARGET_DIR": str(FUZZ / "target"),
    }
    if quick:
        env["CARGO_PROFILE_RELEASE_OPT_LEVEL"] = "1"
    command = ["cargo", "build", "--release", "--quiet", "--locked", "--bins", "--manifest-path", "fuzz/Cargo.toml"]
    subprocess.run(command, env=env, cwd=ROOT, check=True)
    return [Target(name, [FUZZ / "target" / host / "release" / name]) for name in names]


def python_targets() -> list[Target]:
    """Return all Python targets."""
    files = sorted((FUZZ / "python").glob("[!_]*.py"))
    return [Target(path.stem, [ROOT / ".venv/bin/python", path]) for path in files]


def run(target: Target, seconds: int) -> bool:
    """Run one target and tell whether it survived; print its last counters, or all it said before it died."""
    found, artifacts, corpus = ROOT / "build/fuzz" / target.name, FUZZ / "artifacts" / target.name, FUZZ / "corpus"
    for folder in (found, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    command = [*target.command, f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048"]
    command += [f"-artifact_prefix={artifacts}/", found]  # new inputs go to the first folder
    if (corpus / target.name).is_dir():
        command.append(corpus / target.name)
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    output = done.stdout.decode(errors="replace")
    runs = re.findall(r"^Done (\d+) runs", output, re.M)
    survived = done.returncode == 0 and bool(runs) and int(runs[-1]) > 0
    print(f"{target.name:<24} {'ok' if survived else 'FAILED'}   {runs[-1] if runs else 'no'} runs", flush=True)
    if not survived:
        print(output, f"to see it again: {' '.join(map(str, target.command))} {artifacts}/FILE", sep="\n", flush=True)
    return survived


def main() -> int:
    """Run the targets asked for and return 0 if all survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="targets to run; default all")
    parser.add_argument("--seconds", type=int, default=30, help="how long each target runs")
    parser.add_argument("--quick", action="store_true", help="compile the Rust targets quickly: for seconds, not hours")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many run at the same time")
    arguments = parser.parse_args()
    toolchain = rust_toolchain.find()
    failed = 0
    targets = python_targets()
    if isinstance(toolchain, NoToolchain):
        print(f"fuzz: Python targets only: {toolchain.reason}", flush=True)
    else:
        try:
            targets += build_rust_targets(toolchain, quick=arguments.quick)
        except subprocess.CalledProcessError as failure:
            print(f"fuzz: the Rust targets don't build ({failure})", flush=True)
            failed += 1
    chosen = [target for target in targets if not arguments.names or target.name in arguments.names]
    if not chosen:
        parser.error(f"no such target; there are {', '.join(target.name for target in targets) or 'none'}")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        survived = list(pool.map(lambda target: run(target, arguments.seconds), chosen))
    failed += survived.count(False)
    print(f"{survived.count(True)} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
