"""How a running daemon is asked: JSON lines over a Unix socket in the run directory, `RUN_DIR/NAME.sock`.

A request is one object with `op`; the answer is one object with `ok`. What fails has `ok` false, `error` (a sentence)
and `code` (what the command line exits with). A connection may ask again and again. Only root and the daemon's own user
are let in (SO_PEERCRED).

| op | request | answer |
|---|---|---|
| `status` | | all that `wesper status --json` prints |
| `counters` | | `loop`: COUNTS of loop.py; `drops`: the engine's by reason; `counters`: by the names of xfrm_stat |
| `reload` | `path` (of the same file if left out), `dry_run` | `did`: what has changed, or would, in words |
| `down` | `drain_seconds` | answered when the daemon is about to end; then the connection ends |
| `events` | `follow` | `events`: the last ones; with `follow` each further one as a line of its own |
| `tap`, `keys` | | see watching.py |

A handler is a function in HANDLERS: it gets the daemon, the connection and the request, and returns the answer, or None
if it has answered or will (`Connection.send`). What it raises of WesperError and OSError becomes an answer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigError, ExitCode, WesperError
from ..host.places import default_run_dir
from .watching import keys, tap

if TYPE_CHECKING:
    from .daemon import Daemon

SCHEMA: Final = 1
MAX_REQUEST: Final = 1 << 16
MAX_CONNECTIONS: Final = 32
MAX_BACKLOG: Final = 8 << 20
"""Octets that may wait for somebody who does not read; then the connection is closed."""

Handler = Callable[["Daemon", "Connection", dict[str, Any]], "dict[str, Any] | None"]


class DaemonGone(WesperError):
    """No daemon answers."""

    exit_code = ExitCode.IO_TROUBLE


class Refused(WesperError):
    """The daemon said no."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.exit_code = code


class Connection:
    """Somebody who asks."""

    def __init__(self, opened: socket.socket) -> None:
        self.opened = opened
        opened.setblocking(False)
        self._read, self._unsent = b"", bytearray()
        self.is_open = True

    def send(self, answer: dict[str, Any]) -> bool:
        """Send one object; returns whether the connection is still open.   Never waits."""
        if self.is_open:
            self._unsent += json.dumps(answer).encode() + b"\n"
            if len(self._unsent) > MAX_BACKLOG:
                self.close()
            else:
                self.flush()
        return self.is_open

    def flush(self) -> None:
        """Send what waits, as far as the other side takes it."""
        try:
            while self._unsent:
                del self._unsent[: self.opened.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self.close()

    @property
    def unsent(self) -> int:
        """Octets that are still to be sent."""
        return len(self._unsent)

    def requests(self) -> Iterator[dict[str, Any]]:
        """Yield the requests that have come."""
        try:
            octets = self.opened.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            octets = b""
        if not octets:
            self.close()
            return
        *lines, self._read = (self._read + octets).split(b"\n")
        if len(self._read) > MAX_REQUEST:
            self.close()
            return
        for line in lines:
            if not self.is_open:  # it did not read what the last one was answered
                return
            try:
                request = json.loads(line)
            except (ValueError, RecursionError):
                request = None
            if isinstance(request, dict):
                yield request
            else:
                self.send({"ok": False, "error": "a request is one JSON object a line", "code": int(ExitCode.USAGE)})

    def close(self) -> None:
        """End it; the server then forgets it."""
        self.is_open = False
        self._unsent.clear()
        with contextlib.suppress(OSError):
            self.opened.shutdown(socket.SHUT_RDWR)


class ControlServer:
    """Listens in the run directory, for the daemon's own loop."""

    def __init__(self, daemon: Daemon, path: Path, selector: selectors.BaseSelector) -> None:
        self._daemon, self.path, self._selector = daemon, path, selector
        self._connections: set[Connection] = set()
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # of a daemon that was killed: the lock says that it is gone
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            self._listener.bind(str(path))
        except OSError as error:
            self._listener.close()
            if error.errno == errno.ENAMETOOLONG or "too long" in str(error):
                raise ConfigError(
                    f"{path} is too long for a socket", key="interface.run_dir", expected="a shorter path"
                ) from None
            raise
        finally:
            os.umask(before)
        self._listener.listen(MAX_CONNECTIONS)
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        """Stop listening, and let everybody go."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._listener)
        self._listener.close()
        for each in list(self._connections):
            each.opened.setblocking(True)
            each.opened.settimeout(0.5)
            each.flush()
            self._forget(each)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def tend(self) -> None:
        """Go on with answers that did not fit."""
        for each in list(self._connections):
            if each.unsent:
                each.flush()
            if not each.is_open:
                self._forget(each)

    def _accept(self) -> None:
        try:
            opened, _ = self._listener.accept()
        except OSError:
            return
        if _user_of(opened) not in (0, os.geteuid()) or len(self._connections) >= MAX_CONNECTIONS:
            opened.close()
            return
        connection = Connection(opened)
        self._connections.add(connection)
        self._selector.register(opened, selectors.EVENT_READ, lambda: self._serve(connection))

    def _serve(self, connection: Connection) -> None:
        for request in connection.requests():
            handler = HANDLERS.get(str(request.get("op")))
            try:
                if handler is None:
                    raise ConfigError(f"no op {request.get('op')!r}", key="op", expected=", ".join(HANDLERS))
                answer = handler(self._daemon, connection, request)
            except WesperError as error:
                answer = {"ok": False, "error": str(error), "code": int(error.exit_code)}
            except OSError as error:
                answer = {"ok": False, "error": str(error), "code": int(ExitCode.IO_TROUBLE)}
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # of a request that makes no sense
                answer = {"ok": False, "error": f"{request.get('op')}: {error}", "code": int(ExitCode.USAGE)}
            if answer is not None:
                connection.send({"ok": True, **answer})
        if not connection.is_open:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.opened)
        connection.close()
        connection.opened.close()
        self._connections.discard(connection)


class ControlClient:
    """A connection to a daemon."""

    def __init__(self, path: Path) -> None:
        self._opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._name = path.name.removesuffix(".sock")
        try:
            self._opened.connect(str(path))
        except OSError as error:
            self._opened.close()
            raise DaemonGone(f"{self._name} is not running: {path}: {error.strerror or error}") from None
        if os.geteuid() and _user_of(self._opened) not in (0, os.geteuid()):
            self._opened.close()
            raise DaemonGone(f"{path} is another user's")
        self._lines = self._opened.makefile("rb")

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._opened.close()

    def ask(self, op: str, **request: Any) -> dict[str, Any]:
        """Return the answer to a request.   Raises Refused, DaemonGone."""
        try:
            self._opened.sendall(json.dumps({"op": op, **request}).encode() + b"\n")
        except OSError as error:
            raise DaemonGone(f"{self._name} has gone: {error.strerror}") from None
        answer = next(self.lines(), None)
        if answer is None:
            raise DaemonGone(f"{self._name} closed the connection: only root and its own user may ask")
        if not answer.get("ok"):
            raise Refused(str(answer.get("error")), int(answer.get("code", ExitCode.IO_TROUBLE)))
        return answer

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the objects that come, until the daemon closes the connection."""
        while True:
            try:
                line = self._lines.readline()
            except OSError:
                return
            if not line:
                return
            found = json.loads(line)
            if isinstance(found, dict):
                yield found


def running(run_dir: Path | None = None) -> list[str]:
    """Return the names of daemons that answer in a run directory."""
    found = []
    for path in sorted((run_dir or default_run_dir()).glob("*.sock")):
        with contextlib.suppress(OSError, DaemonGone):
            if stat.S_ISSOCK(path.stat().st_mode):
                ControlClient(path).close()
                found.append(path.name.removesuffix(".sock"))
    return found


def _user_of(opened: socket.socket) -> int:
    _, user, _ = struct.unpack("iII", opened.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)


def _status(daemon: Daemon, _: Connection, request: dict[str, Any]) -> dict[str, Any]:
    return daemon.status()


def _counters(daemon: Daemon, _: Connection, request: dict[str, Any]) -> dict[str, Any]:
    return daemon.counters()


def _reload(daemon: Daemon, _: Connection, request: dict[str, Any]) -> dict[str, Any]:
    path = request.get("path")
    dry_run = request.get("dry_run") is True
    return {"did": daemon.reload(Path(path) if isinstance(path, str) else None, dry_run=dry_run)}


def _down(daemon: Daemon, connection: Connection, request: dict[str, Any]) -> None:
    seconds = request.get("drain_seconds")
    daemon.end(min(max(float(seconds), 0.0), 60.0) if isinstance(seconds, (int, float)) else None)
    connection.send({"ok": True})


def _events(daemon: Daemon, connection: Connection, request: dict[str, Any]) -> dict[str, Any]:
    if request.get("follow"):
        daemon.events.listeners.append(lambda told: connection.send(told))
    return {"events": list(daemon.events.last)}


HANDLERS: dict[str, Handler] = {
    "status": _status,
    "counters": _counters,
    "reload": _reload,
    "down": _down,
    "events": _events,
    "tap": tap,
    "keys": keys,
}
