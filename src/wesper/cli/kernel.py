"""`wesper kernel`: real Linux kernels as user-mode Linux, made, listed, booted."""

from __future__ import annotations

import contextlib
import json as json_module
import os
import shutil
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import Parameter

from ..errors import ConfigError
from ..kernel import Guest, Kernel, Process, find, look_up
from ..kernel.build import make
from ..kernel.store import recipe, recipes

_Command = Annotated[str, Parameter(allow_leading_hyphen=True)]
_Json = Annotated[bool, Parameter(negative=(), show_default=False)]
_BEST_FIRST = ("built", "packaged")
_PIPED_SAY_S = 60.0
_CHUNK = 1 << 16


def list_(*, json: _Json = False) -> int:
    """List the kernels: those that are there, and how to make the others.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    rows: list[dict[str, Any]] = []
    for each in recipes().values():
        kernel = look_up(each.name)
        rows.append(
            {
                "name": each.name,
                "what": each.what,
                "ready": kernel is not None,
                "release": kernel.release if kernel else each.pins[0].release,
                "path": str(kernel.binary) if kernel else None,
                "lacks": kernel.lacks if kernel else each.lacks,
                "packages": [f"{pin.package} {pin.version} ({pin.suite})" for pin in each.pins],
            }
        )
    if json:
        print(json_module.dumps({"schema": 1, "kernels": rows}, indent=2))
        return 0
    for row in rows:
        state = row["path"] if row["ready"] else f"not there: `wesper kernel build {row['name']}`"
        print(f"{row['name']}\t{row['release']}\t{state}")
        print(f"\t{row['what']}" + (f"; lacks {row['lacks']}" if row["lacks"] else ""))
    return 0


def build(*name: str, jobs: int | None = None, newest: bool = False) -> int:
    """Get or build kernels into the cache; one that is there is left as it is.

    Parameters
    ----------
    name
        packaged, built; both by default.
    jobs
        How many compilers at once; by default one a CPU.
    newest
        Take Debian's newest kernel source of today instead of the pinned one.
    """
    for each in name:
        recipe(each)
    progress = _Progress()
    for each in name or tuple(recipes()):
        kernel = make(each, progress.say, jobs=jobs, newest=newest)
        progress.end()
        print(f"{kernel.name}\t{kernel.release}\t{kernel.binary}")
    return 0


def boot(kernel: str | None = None, /, *, memory: int = 256) -> int:
    """Boot a kernel and give a shell in it, or, without a terminal, let it run until interrupted.

    This machine's files are there, read-only.

    Parameters
    ----------
    kernel
        packaged or built; by default the best that is there.
    memory
        MiB.
    """
    start = time.monotonic()
    with Guest(_chosen(kernel), memory=memory) as guest:
        print(f"Linux {guest.release}, up after {time.monotonic() - start:.1f} s", file=sys.stderr)
        if sys.stdin.isatty() and sys.stdout.isatty():
            return _on_terminal(guest, [os.environ.get("SHELL", "/bin/sh")])
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(0))
        with contextlib.suppress(KeyboardInterrupt):
            while guest.is_running():
                time.sleep(0.2)
    return 0


def run(*command: _Command, kernel: str | None = None, memory: int = 256) -> int:
    """Boot a kernel, run a command in it, and exit as the command does.

    Parameters
    ----------
    command
        Program and arguments, behind --.
    kernel
        packaged or built; by default the best that is there.
    memory
        MiB.
    """
    if not command:
        raise ConfigError("no command", key="command", expected="-- PROGRAM ARGUMENTS")
    with Guest(_chosen(kernel), memory=memory) as guest:
        if sys.stdin.isatty() and sys.stdout.isatty():
            return _on_terminal(guest, list(command))
        process = guest.spawn(command, output=_pass_on)
        threading.Thread(target=_feed, args=(process,), daemon=True).start()
        return _exit_code(process.wait())


class _Progress:
    """Tells how a build goes: in one line of a terminal, else now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._open = False
        self._told = 0.0

    def say(self, sentence: str, passing: bool) -> None:
        if passing and self._terminal:
            print(f"\r{sentence}\033[K", end="", file=sys.stderr, flush=True)
            self._open = True
        elif not passing or time.monotonic() - self._told > _PIPED_SAY_S:
            self.end()
            self._told = time.monotonic()
            print(f"wesper kernel: {sentence}", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._open:
            print(file=sys.stderr)
            self._open = False


def _chosen(name: str | None) -> Kernel:
    if name is not None:
        return find(name)
    return next((found for each in _BEST_FIRST if (found := look_up(each))), None) or find(_BEST_FIRST[0])


def _on_terminal(guest: Guest, command: list[str]) -> int:
    """Run a command in a guest on this terminal."""
    columns, rows = shutil.get_terminal_size()
    environment = {"TERM": os.environ.get("TERM", "dumb")}
    process = guest.spawn(command, environment=environment, terminal=(rows, columns), output=_pass_on)

    def resize(*_: object) -> None:
        columns, rows = shutil.get_terminal_size()
        threading.Thread(target=process.resize, args=((rows, columns),), daemon=True).start()

    signal.signal(signal.SIGWINCH, resize)
    with _raw_terminal():
        threading.Thread(target=_feed, args=(process,), daemon=True).start()
        return _exit_code(process.wait())


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _feed(process: Process) -> None:
    """Give a command what comes in here, until one of them ends."""
    with contextlib.suppress(Exception):
        while data := os.read(0, _CHUNK):
            process.write(data)
        process.write(None)


def _pass_on(stream: str, data: bytes) -> None:
    target = sys.stdout if stream == "out" else sys.stderr
    target.buffer.write(data)
    target.buffer.flush()


def _exit_code(code: int) -> int:
    return 128 - code if code < 0 else code
