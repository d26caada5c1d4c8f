"""How a process of this host and its PSP daemon talk: messages over a Unix socket that keeps their boundaries.

`RUN_DIR/psp.sock`, SOCK_SEQPACKET, mode 0600: root and the daemon's own user are let in (SO_PEERCRED). A message is
an octet 0 and a datagram of the connection, or one JSON object. The first message of a process is its request:

| `op` | request | answer |
|---|---|---|
| `connect` | `kind`, `host` (an address), `port`, `seconds` | `local`, `peer`, `identity`, `version`, `most` |
| `listen` | `kind`, `host` ("" for all), `port` (0 for any), `backlog` | `local` |
| `status` | | what `wesper psp status --json` prints, without its lists |
| `list` | `what` (`connections`, `peers`), `before` | `rows`, newest first; `all`: how many; `before` for the next |
| `rotate` | | `generation` |
| `down` | | an empty one, when the daemon is about to end |

An answer has `ok`; where that is false, `error` is the name of an exception and `sentence` what it says. `local` and
`peer` are an address and a port. With the answer for kind `stream` comes a TCP socket, bound and still to be connected,
or listening. After `connect` of kind `datagram` the socket is the connection; after `listen` each
message is a connection that has come, with its socket, which the process confirms by `accepted`. Later messages of the
daemon are events: `closed` (with an error, none if the peer closed in order), `most`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from ..errors import WesperError
from ..host.places import default_run_dir
from .failures import ConnectionClosed, NoDaemon, from_json, to_json

MAX_MESSAGE: Final = 1 + 65535
DATAGRAM: Final = b"\0"
QUEUE_OCTETS: Final = 1 << 20
"""What may wait in a socket between daemon and process, counted as the kernel counts; at least its default."""
SOCKET_NAME: Final = "psp.sock"
_MSG_CMSG_CLOEXEC: Final = 0x40000000


def default_path() -> Path:
    """Return where this user's daemon listens: WESPER_PSP, or the run directory."""
    named = os.environ.get("WESPER_PSP")
    return Path(named) if named else default_run_dir() / SOCKET_NAME


def dial(path: Path | str) -> socket.socket:
    """Return a connection to the daemon.   Raises NoDaemon."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        opened.connect(str(path))
    except PermissionError:
        opened.close()
        raise NoDaemon(f"{path} is for another user's processes alone") from None
    except OSError as error:
        opened.close()
        why = error.strerror or str(error)
        raise NoDaemon(f"no PSP daemon at {path}: {why}; `wesper psp up FILE` starts one") from None
    if user_of(opened) not in (0, os.geteuid()):
        opened.close()
        raise NoDaemon(f"{path} is another user's")
    widen(opened)
    return opened


def widen(opened: socket.socket) -> None:
    """Give a socket room for bursts."""
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_OCTETS)


def user_of(opened: socket.socket) -> int:
    """Return who is at the other end of a Unix socket."""
    _, user, _ = struct.unpack("iII", opened.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)


def encode(message: dict[str, Any]) -> bytes:
    """Return an object as a message."""
    return msgspec.json.encode(message)


def decode(message: bytes) -> dict[str, Any] | None:
    """Return the object of a message, None if it is none."""
    try:
        found = msgspec.json.decode(message)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def send(opened: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send an object, and copies of descriptors.   Raises OSError."""
    if descriptors:
        socket.send_fds(opened, [encode(message)], list(descriptors))
    else:
        opened.send(encode(message))


def receive(opened: socket.socket) -> tuple[bytes, socket.socket | None]:
    """Return the next message, b"" at the end, and the socket that came with it.   Raises OSError."""
    message, descriptors, _, _ = socket.recv_fds(opened, MAX_MESSAGE, 1, _MSG_CMSG_CLOEXEC)
    came: socket.socket | None = None
    for each in descriptors:
        if came is None:
            came = socket.socket(fileno=each)
        else:
            os.close(each)
    return message, came


def refusal(error: BaseException) -> dict[str, Any]:
    """Return the answer to a request that can't be granted."""
    return {"ok": False, **to_json(error)}


def accepted(opened: socket.socket) -> None:
    """Let the daemon know that there is room for another connection."""
    with contextlib.suppress(OSError):  # it has ended, or has its hands full: it counts on
        send(opened, {"op": "accepted"})


def answered(message: bytes) -> dict[str, Any]:
    """Return what the daemon has answered.   Raises what the answer says, and NoDaemon if it ended instead."""
    answer = decode(message)
    if answer is None:
        raise NoDaemon("the PSP daemon has gone")
    if not answer.get("ok"):
        raise from_json(answer)
    return answer


class Channel:
    """What a process knows of its connection by the messages that came.

    local, peer: address and port.   identity: the peer's, of its certificate.   version: of PSP.
    most: octets of the largest datagram that fits the path now.
    """

    def __init__(self, answer: dict[str, Any]) -> None:
        self.local = place(answer["local"])
        self.peer = place(answer["peer"])
        self.identity = str(answer["identity"])
        self.version = int(answer["version"])
        self.most = int(answer["most"])
        self.failure: WesperError | None = None

    def take(self, message: bytes) -> bytes | None:
        """Return the datagram of a message; None for an event, which is noted."""
        if message[:1] == DATAGRAM:
            return message[1:]
        event = decode(message) if message else None
        if event is None:
            self.failure = NoDaemon("the PSP daemon has gone")
        elif event.get("event") == "most":
            self.most = int(event["most"])
        elif event.get("event") == "closed":
            peer = f"{self.peer[0]} port {self.peer[1]}"
            self.failure = (
                from_json(event) if "error" in event else ConnectionClosed(f"{peer} has closed the connection")
            )
        return None


class Described:
    """What a connection says of itself, with asyncio and without."""

    _channel: Channel

    def __repr__(self) -> str:
        (host, port), (peer, peer_port) = self.local, self.peer
        return f"<PSP connection {host} port {port} to {peer} port {peer_port}>"

    @property
    def local(self) -> tuple[str, int]:
        """Address and port of this end."""
        return self._channel.local

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the other end."""
        return self._channel.peer

    @property
    def identity(self) -> str:
        """Who the peer is, by its certificate."""
        return self._channel.identity

    @property
    def version(self) -> int:
        """The version of PSP that packets have."""
        return self._channel.version

    @property
    def most(self) -> int:
        """Octets of the largest datagram that fits the path."""
        return self._channel.most


def place(given: Any) -> tuple[str, int]:
    """Return an address and a port of an answer."""
    host, port = given
    return str(host), int(port)
