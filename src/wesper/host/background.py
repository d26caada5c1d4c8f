"""A daemon behind the process that starts it: forked, its own session, heard until it says that it is ready."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TextIO

from ..errors import ExitCode, WesperError

Say = Callable[[str], None]
Serve = Callable[[TextIO, Say, Callable[[], None]], None]
"""Gets the log, what to say, and what to call when it is ready; returns when the daemon has ended."""


class NotStarted(WesperError):
    """The daemon did not come up, and this is what it said."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.exit_code = code


def start(log: Path, serve: Serve, say: Say) -> int:
    """Start a daemon behind this process, and return its process id when it is ready.

    log: gets its events, mode 0600.   say: gets a sentence for each thing done.   Raises NotStarted.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _behind(log, serve, writing)
    os.close(writing)
    with open(reading, encoding="utf-8") as lines:
        for line in lines:
            told = json.loads(line)
            if "did" in told:
                say(told["did"])
            elif "error" in told:
                os.waitpid(process, 0)
                raise NotStarted(told["error"], told["code"])
            else:
                return process
    os.waitpid(process, 0)
    raise NotStarted(f"the daemon ended at once; see {log}", ExitCode.IO_TROUBLE)


def open_log(path: Path) -> TextIO:
    """Open a log to add to."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return open(descriptor, "w", encoding="utf-8")


def notify(text: str) -> None:
    """Tell the service manager, if one has started this process (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def _behind(path: Path, serve: Serve, writing: int) -> NoReturn:
    code = 1  # an error of our own
    is_ready = False

    def tell(**told: object) -> None:
        with contextlib.suppress(OSError):  # nobody waits any more
            os.write(writing, json.dumps(told).encode() + b"\n")

    try:
        os.setsid()
        with open_log(path) as log, open(os.devnull, "rb") as nothing:

            def ready() -> None:
                nonlocal is_ready
                is_ready = True
                os.dup2(nothing.fileno(), 0)
                for stream in (1, 2):
                    os.dup2(log.fileno(), stream)
                tell(ready=True)
                os.close(writing)

            try:
                serve(log, lambda sentence: tell(did=sentence), ready)
                code = 0
            except (OSError, WesperError) as error:  # once it is ready, told as an event
                code = error.exit_code if isinstance(error, WesperError) else ExitCode.IO_TROUBLE
                if not is_ready:
                    tell(error=_sentence(error), code=int(code))
            except Exception:
                traceback.print_exc(file=log)
    finally:
        os._exit(code)


def _sentence(error: OSError | WesperError) -> str:
    if isinstance(error, WesperError):
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
