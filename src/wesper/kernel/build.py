"""Makes the kernels of `pins.toml`: got from Debian, built as user-mode Linux if they must be, put into the cache."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import UnsupportedError, WesperError
from .archive import Archive, ArchiveError
from .store import BINARY, CONFIG, MODULES, Kernel, Pin, Recipe, being_made, describe, folder, look_up, read, recipe

Say = Callable[[str, bool], None]
"""Takes a sentence for the user, and whether the next one may take its place."""
_MACHINES = ("x86_64",)
_TOOLS = {"flex": "flex", "bison": "bison", "bc": "bc", "xz": "xz-utils", "gcc": "gcc", "make": "make"}
_HEADERS = {"libelf.h": "libelf-dev", "stdio.h": "libc6-dev"}
_STEPS = 1800
"""Lines that make says, about."""
_BUILD_OCTETS = 3_000_000_000
_SAY_EVERY_S = 1.0
_LOG_LINES = 15


class BuildFailed(WesperError):
    """A kernel could not be made."""

    exit_code = 4


def make(name: str, say: Say, *, jobs: int | None = None, newest: bool = False) -> Kernel:
    """Return a kernel, made if it is not there.

    jobs: of make; all CPUs by default.   newest: of what Debian has today instead of what is pinned; Debian's
    signature alone says that it is the right one.
    Raises UnsupportedError that names missing packages, BuildFailed, ConfigError.
    """
    made = recipe(name)
    if not newest and (there := look_up(name)) is not None:
        return there
    if platform.machine() not in _MACHINES:
        raise UnsupportedError(
            "user-mode Linux", f"a machine of {' or '.join(_MACHINES)}; this is {platform.machine()}"
        )
    if made.builds:
        _check_tools()
        _check_room()
    pins: Sequence[Pin] = made.pins
    if newest and made.builds:
        pins = [_newest(say)]
    said = []
    for pin in pins:
        try:
            return _make(made, pin, say, jobs or os.cpu_count() or 1)
        except ArchiveError as error:
            said.append(f"{pin.package} {pin.version} ({pin.suite}): {error}")
            say(f"{said[-1]}", False)
    hint = "; `wesper kernel build --newest` takes what Debian has today" if made.builds and not newest else ""
    raise BuildFailed("\n  ".join(("no package for this kernel is to be had:", *said)) + hint)


def _newest(say: Say) -> Pin:
    say("asking Debian for its newest kernel source", False)
    folder().mkdir(parents=True, exist_ok=True)
    place = folder() / f"apt-{os.getpid()}"
    place.mkdir()
    try:
        return Archive(place).newest_source()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _make(made: Recipe, pin: Pin, say: Say, jobs: int) -> Kernel:
    key = made.key(pin)
    with being_made(key, lambda: say(f"{made.name} is being made by another process: waiting for it", False)) as part:
        if part is not None:
            apt, tree = part / "apt", part / "tree"
            for each in (apt, tree):
                each.mkdir()
            say(f"downloading {pin.package} {pin.version} from Debian's {pin.suite}", False)
            package = Archive(apt).fetch(pin, tree)
            say(f"unpacking {package.name}", False)
            _run("unpacking", ["dpkg-deb", "-x", package, tree])
            package.unlink()
            missing: list[str] = []
            if made.builds:
                missing = _build(tree, part, folder() / f"{key}.log", say, jobs)
            else:
                shutil.move(tree / "usr/bin/linux.uml", part / BINARY)
                shutil.move(tree / "usr/lib/uml/modules", part / MODULES)
            for each in (apt, tree):
                shutil.rmtree(each)
            describe(part, made, pin, missing)
            for line in missing:
                say(f"this kernel does not know {line}", False)
            if pin.lacks:
                say(f"{pin.package} is second best: it lacks {pin.lacks}", False)
    kernel = read(folder() / key, made)
    assert kernel is not None
    return kernel


def _build(tree: Path, part: Path, log: Path, say: Say, jobs: int) -> list[str]:
    """Compile the kernel and return the lines of the configuration that it does not know."""
    (archive,) = tree.glob("usr/src/linux-source-*.tar.xz")
    _run("unpacking", ["tar", "--extract", "--no-same-owner", "--file", archive, "--directory", tree])
    archive.unlink()
    (source,) = tree.glob("linux-source-*")
    say("configuring", False)
    steps: list[list[str | Path]] = [
        ["make", "ARCH=um", "defconfig"],
        ["scripts/kconfig/merge_config.sh", "-m", "-O", ".", ".config", CONFIG.resolve()],
        ["make", "ARCH=um", "olddefconfig"],
    ]
    for step in steps:
        _run("configuring", step, cwd=source)
    missing = unknown_lines(CONFIG.read_text(), (source / ".config").read_text())
    _compile(source, log, say, jobs)
    _run("stripping", ["strip", "-o", part / BINARY, source / "linux"])
    log.unlink(missing_ok=True)
    return missing


def unknown_lines(wanted: str, got: str) -> list[str]:
    """Return the lines of a configuration that another one, which came of it, has not."""
    have = set(got.splitlines())
    lost = []
    for line in wanted.splitlines():
        name, _, value = line.partition("=")
        if name.startswith("CONFIG_") and line not in have:
            # What is off is not there, or there as a comment.
            if value == "n" and not any(each.startswith(f"{name}=") for each in have):
                continue
            lost.append(line)
    return lost


def _compile(source: Path, log: Path, say: Say, jobs: int) -> None:
    start, steps, told = time.monotonic(), 0, 0.0
    command = ["nice", "-n", "10", "make", "ARCH=um", f"-j{jobs}", "linux"]
    with log.open("w") as kept:
        process = subprocess.Popen(
            command,
            cwd=source,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        with process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    kept.write(line)
                    steps += 1
                    if time.monotonic() - told > _SAY_EVERY_S:
                        told = time.monotonic()
                        share, minutes = min(99, 100 * steps // _STEPS), (told - start) / 60
                        say(f"compiling: {share} % after {minutes:.1f} minutes", True)
                code = process.wait()
            finally:
                # make in the background does not hear of an interrupt; its session is its own.
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
    if code:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        raise BuildFailed(f"the kernel does not compile; all that make said is in {log}; its end:\n{end}")


def _run(what: str, command: Sequence[str | Path], cwd: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise BuildFailed(f"{what}: {command[0]} failed: {said[-2000:]}")


def _environment() -> dict[str, str]:
    """Return an environment in which a build does not depend on who builds, nor joins the make that called this."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARCH")
    }
    return {**kept, "LC_ALL": "C", "KBUILD_BUILD_USER": "wesper", "KBUILD_BUILD_HOST": "wesper"}


def _check_tools() -> None:
    packages = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if "gcc" not in packages:
        for header, package in _HEADERS.items():
            probe = subprocess.run(
                ["gcc", "-E", "-"], input=f"#include <{header}>\n", capture_output=True, text=True, env=_environment()
            )
            if probe.returncode:
                packages.append(package)
    if packages:
        raise UnsupportedError("building a kernel", f"apt-get install {' '.join(packages)}")


def _check_room() -> None:
    folder().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder()).free
    if free < _BUILD_OCTETS:
        raise BuildFailed(
            f"{folder()} has {free / 1e9:.1f} GB free; a build needs {_BUILD_OCTETS / 1e9:.0f} GB on its way"
        )
