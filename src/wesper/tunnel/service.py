"""How a daemon starts: in front of whoever started it, or behind, and what a service manager is told."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from ..host import background
from ..host.places import make_own
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
            stream = stack.enter_context(background.open_log(Path(log_path(file))))
        daemon = Daemon(file, EventLog(stream, file.log_format), say)
        daemon.start()
        background.notify(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={file.name} carries packets")
        try:
            daemon.run()
        finally:
            background.notify("STOPPING=1")


def start(file: TunnelFile, say: Callable[[str], None]) -> int:
    """Start a daemon behind this process, and return its process id when it carries packets.

    Raises NotStarted with what it said if it did not come up.
    """
    make_own(file.run_dir, "run_dir")  # the log lies in it

    def serve_behind(log: TextIO, say: Callable[[str], None], ready: Callable[[], None]) -> None:
        daemon = Daemon(file, EventLog(log, file.log_format), say)
        daemon.start()
        ready()
        daemon.run()

    return background.start(Path(log_path(file)), serve_behind, say)


def log_path(file: TunnelFile) -> str:
    """Return where a daemon in the background tells its events."""
    return str(file.log_file or file.run_dir / f"{file.name}.log")
