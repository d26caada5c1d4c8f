"""The PSP daemon of a host: a `Host`, and the Unix socket by which processes find it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO

from ..errors import ConfigError, UnsupportedError
from ..host import background
from ..host.places import make_own
from . import local
from .host import Host
from .host_file import HostFile

EVENTS: Final[dict[str, str]] = {
    "started": "processes can connect and listen",
    "stopped": "the daemon has taken away what it made",
    "rotated": "a new device key is active; peers get new associations",
    "stale": "associations of the key before the last are dead",
    "streams_lost": "the interface of the streams is gone; the next stream makes it again",
    "refused": "control connections or processes were not let in, why and how many so far; once a minute and reason",
}
"""Every event, and what it says."""

_PAUSE_S: Final = 0.1


def serve(file: HostFile, say: Callable[[str], None]) -> None:
    """Run a daemon in this process until it is told to end.   Events go to standard error.

    Raises WesperError, OSError.
    """

    def ready() -> None:
        say(f"{file.socket}: processes can connect and listen")
        background.notify(f"READY=1\nMAINPID={os.getpid()}")

    try:
        asyncio.run(_run(file, sys.stderr, ready))
    finally:
        background.notify("STOPPING=1")


def start(file: HostFile) -> int:
    """Start a daemon behind this process; return its process id when it serves.   Raises NotStarted, OSError."""
    _make_own(file.socket.parent)
    return background.start(file.log, lambda log, _, ready: asyncio.run(_run(file, log, ready)), lambda _: None)


async def _run(file: HostFile, log: TextIO, ready: Callable[[], None]) -> None:
    tell = _teller(log)
    _allow_descriptors()
    async with contextlib.AsyncExitStack() as stack:
        listener = _listener(file.socket)
        stack.callback(_remove, file.socket)
        stack.callback(listener.close)
        host = await stack.enter_async_context(Host(file.settings, tell=tell))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, host.end)
        _attend(listener, host)
        stack.callback(loop.remove_reader, listener)
        tell("started", pid=os.getpid(), port=file.settings.port)
        ready()
        await host.ended.wait()
    tell("stopped")


def _teller(log: TextIO) -> Callable[..., None]:
    def tell(event: str, **fields: Any) -> None:
        assert event in EVENTS, event
        with contextlib.suppress(OSError, ValueError):  # a full disk is no reason to end
            log.write(json.dumps({"time_ns": time.time_ns(), "event": event, **fields}) + "\n")
            log.flush()

    return tell


def _allow_descriptors() -> None:
    """Take as many descriptors as this user may have: each datagram connection of a process is one."""
    with contextlib.suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _admit(listener: socket.socket, host: Host) -> None:
    """Let a process in: one of root, or of this user."""
    try:
        opened, _ = listener.accept()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # it stays in the queue, and would be there again at once
            host.refuse("no_descriptor")
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(_PAUSE_S, _attend, listener, host)
        return
    if local.user_of(opened) in (0, os.geteuid()):
        host.adopt(opened)
    else:
        host.refuse("another_user")
        opened.close()


def _attend(listener: socket.socket, host: Host) -> None:
    if listener.fileno() >= 0:
        asyncio.get_running_loop().add_reader(listener, _admit, listener, host)


def _listener(path: Path) -> socket.socket:
    """Return the socket for processes.   Raises ConfigError if another daemon has it, OSError."""
    _make_own(path.parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        try:
            listener.bind(str(path))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG or "too long" in str(error):
                raise UnsupportedError(f"a socket at {path}", "a path of at most 107 octets") from None
            if error.errno != errno.EADDRINUSE:
                raise
            if _answers(path):
                raise ConfigError(
                    "a daemon runs already", path=path, key="host.socket", expected="another path"
                ) from None
            path.unlink()  # of a daemon that was killed
            listener.bind(str(path))
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
        return True


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _make_own(folder: Path) -> None:
    try:
        make_own(folder, "socket")
    except ConfigError as error:
        raise ConfigError(error.what, key="host.socket", expected=error.expected) from None
