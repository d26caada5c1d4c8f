"""How a daemon starts: in front of whoever started it, or behind, and what a service manager is told."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, TextIO

from ..errors import ExitCode, WesperError
from ..host.places import make_own
from .control import Refused
from .daemon import Daemon
from .events import EventLog
from .file import TunnelFile


def serve(file: TunnelFile, say: Callable[[str], None]) -> None:
    """Run a daemon in this process until it ends.   say: gets a sentence for each thing done.

    Raises WesperError, OSError.
    """
    with contextlib.ExitStack() as stack:
        stream: TextIO = sys.stderr
        if file.log_file is not None:
            stream = stack.enter_context(_open_log(file))
        daemon = Daemon(file, EventLog(stream, file.log_format), say)
        daemon.start()
        notify(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={file.name} carries packets")
        try:
            daemon.run()
        finally:
            notify("STOPPING=1")


def start(file: TunnelFile, say: Callable[[str], None]) -> int:
    """Start a daemon behind this process, and return its process id when it carries packets.

    Raises Refused with what it said if it did not come up.
    """
    make_own(file.run_dir, "run_dir")  # the log lies in it
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _behind(file, writing)
    os.close(writing)
    with open(reading, encoding="utf-8") as lines:
        for line in lines:
            told = json.loads(line)
            if "did" in told:
                say(told["did"])
            elif "error" in told:
                os.waitpid(process, 0)
                raise Refused(told["error"], told["code"])
            else:
                return process
    os.waitpid(process, 0)
    raise Refused(f"the daemon ended at once; see {log_path(file)}", ExitCode.IO_TROUBLE)


def log_path(file: TunnelFile) -> str:
    """Return where a daemon in the background tells its events."""
    return str(file.log_file or file.run_dir / f"{file.name}.log")


def notify(text: str) -> None:
    """Tell the service manager, if one has started this process (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def _behind(file: TunnelFile, writing: int) -> NoReturn:
    code = 1  # an error of our own

    def tell(**told: object) -> None:
        with contextlib.suppress(OSError):  # nobody waits any more
            os.write(writing, json.dumps(told).encode() + b"\n")

    try:
        os.setsid()
        with _open_log(file) as log, open(os.devnull, "rb") as nothing:
            daemon = Daemon(file, EventLog(log, file.log_format), lambda sentence: tell(did=sentence))
            try:
                daemon.start()
            except WesperError as error:
                tell(error=str(error), code=int(error.exit_code))
                os._exit(error.exit_code)
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                tell(error=f"{where}{error.strerror}", code=int(ExitCode.IO_TROUBLE))
                os._exit(ExitCode.IO_TROUBLE)
            os.dup2(nothing.fileno(), 0)
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            tell(ready=True)
            os.close(writing)
            try:
                daemon.run()
                code = 0
            except (OSError, WesperError) as error:  # told as an event
                code = error.exit_code if isinstance(error, WesperError) else ExitCode.IO_TROUBLE
            except Exception:
                traceback.print_exc(file=log)
    finally:
        os._exit(code)


def _open_log(file: TunnelFile) -> TextIO:
    descriptor = os.open(log_path(file), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return open(descriptor, "w", encoding="utf-8")
