"""PSP connections without asyncio: the same names as in `wesper.psp`, and sockets for streams.

>>> from wesper.psp import blocking
>>> blocking.connect("192.0.2.1", 7000)  # doctest: +SKIP
<PSP connection 192.0.2.2 port 50001 to 192.0.2.1 port 7000>
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from . import local
from .failures import ConnectionClosed, NoDaemon, PeerUnreachable, TooLarge

if TYPE_CHECKING:
    from .host import Host

SECONDS = 10.0
GRACE_SECONDS = 1.0
"""How much longer than it was told to try a daemon may take to answer."""


class Connection(local.Described):
    """A datagram connection: what one side sends comes out at the other as it was, or not at all."""

    def __init__(self, opened: socket.socket, answer: dict[str, Any]) -> None:
        self._opened, self._channel = opened, local.Channel(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        """Yield datagrams until the peer closes the connection.   Raises ConnectionLost, NoDaemon."""
        while True:
            try:
                yield self.receive()
            except ConnectionClosed:
                return

    def fileno(self) -> int:
        """Return what `select` and its kind may wait for: readable when `receive` has something to say."""
        return self._opened.fileno()

    def send(self, datagram: bytes) -> None:
        """Send one datagram.   Waits where the daemon is behind.   Raises TooLarge, ConnectionFailed."""
        if self._channel.failure is not None:
            raise self._channel.failure
        if len(datagram) > self._channel.most:
            raise TooLarge(len(datagram), self._channel.most)
        self._opened.settimeout(None)
        try:
            self._opened.send(local.DATAGRAM + datagram)
        except OSError:
            while self._channel.failure is None:  # why it ended stands in what came before the end
                self._channel.take(self._opened.recv(local.MAX_MESSAGE))
            raise self._channel.failure from None

    def receive(self, seconds: float | None = None) -> bytes:
        """Return the next datagram.   seconds: how long to wait, None for ever.

        Raises TimeoutError; ConnectionClosed when the peer has closed; ConnectionLost, NoDaemon.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while self._channel.failure is None:
            _await(self._opened, until)
            datagram = self._channel.take(_recv(self._opened))
            if datagram is not None:
                return datagram
        raise self._channel.failure

    def close(self) -> None:
        """End the connection; the peer is told."""
        self._opened.close()


class Listener:
    """Waits for connections.   local: address, "" for all of this host's, and port."""

    def __init__(self, opened: socket.socket, answer: dict[str, Any]) -> None:
        self._opened, self.local = opened, local.place(answer["local"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        """Return what `select` and its kind may wait for."""
        return self._opened.fileno()

    def accept(self, seconds: float | None = None) -> Connection:
        """Return the next connection.   seconds: how long to wait, None for ever.   Raises TimeoutError, NoDaemon."""
        _await(self._opened, None if seconds is None else time.monotonic() + seconds)
        message, came = local.receive(self._opened)
        answer = local.answered(message)
        assert came is not None
        local.accepted(self._opened)
        return Connection(came, answer)

    def close(self) -> None:
        """Take no more connections; those that are there go on."""
        self._opened.close()


def connect(host: str, port: int, *, seconds: float = SECONDS, via: Host | Path | str | None = None) -> Connection:
    """Connect to a port of a host, with datagrams.

    host: name or address.   seconds: how long to try.   via: the daemon's socket, if it is not where it usually is; or
    a Host of this process.
    Raises NoDaemon, PeerUnreachable, PeerRefused, OSError if the name is not known.
    """
    opened, answer, _ = _reach("datagram", host, port, seconds, via)
    return Connection(opened, answer)


def listen(port: int, *, host: str = "", backlog: int = 64, via: Host | Path | str | None = None) -> Listener:
    """Listen for datagram connections.

    port: 0 for any.   host: an address of this host, "" for all.   backlog: connections that wait for `accept`.
    Raises NoDaemon, ConfigError if the port is taken, PermissionNeeded.
    """
    opened, answer, _ = _ask(via, listening("datagram", host, port, backlog))
    return Listener(opened, answer)


def connect_stream(
    host: str, port: int, *, seconds: float = SECONDS, via: Host | Path | str | None = None
) -> socket.socket:
    """Return a TCP socket that is connected to a port of a host, its segments carried as PSP packets.

    Raises as `connect`, and PermissionNeeded where the daemon can have no TUN device.
    """
    until = time.monotonic() + seconds
    opened, answer, stream = _reach("stream", host, port, seconds, via)
    assert stream is not None
    with opened:
        stream.settimeout(max(until - time.monotonic(), 0.1))
        try:
            stream.connect(local.place(answer["peer"]))
        except OSError as error:
            stream.close()
            raise PeerUnreachable(f"{host} port {port}: {error.strerror or error}") from None
    stream.settimeout(None)
    return stream


class StreamListener:
    """A TCP socket that listens, and takes nothing that did not come as PSP packets.   socket: that one."""

    def __init__(self, opened: socket.socket, answer: dict[str, Any], stream: socket.socket) -> None:
        self._opened, self.local, self.socket = opened, local.place(answer["local"]), stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        """Return what `select` and its kind may wait for."""
        return self.socket.fileno()

    def accept(self, seconds: float | None = None) -> tuple[socket.socket, tuple[str, int]]:
        """Return the next connection, and whom it is from.   Raises TimeoutError."""
        self.socket.settimeout(seconds)
        stream, at = self.socket.accept()
        return stream, (plain(at[0]), at[1])

    def close(self) -> None:
        """Take no more connections; those that are there go on."""
        self.socket.close()
        self._opened.close()


def listen_stream(
    port: int, *, host: str = "", backlog: int = 64, via: Host | Path | str | None = None
) -> StreamListener:
    """Listen for streams.   See `listen`.   Raises also PermissionNeeded where the daemon can have no TUN device."""
    opened, answer, stream = _ask(via, listening("stream", host, port, backlog))
    assert stream is not None
    return StreamListener(opened, answer, stream)


def ask(op: str, via: Host | Path | str | None = None, **more: Any) -> dict[str, Any]:
    """Return what the daemon answers to a request: `status`, `list`, `rotate`, `down`.   Raises NoDaemon."""
    opened, answer, _ = _ask(via, {"op": op, **more})
    opened.close()
    return answer


def listed(what: str, most: int, via: Host | Path | str | None = None) -> tuple[list[dict[str, Any]], int]:
    """Return the newest of the daemon's `connections` or `peers`, and how many there are.   Raises NoDaemon.

    most: so many of them. They are asked for page by page, so those that come and go meanwhile may be missing.
    """
    rows: list[dict[str, Any]] = []
    before = None
    while True:
        answer = ask("list", via, what=what, before=before)
        rows += answer["rows"]
        before = answer["before"]
        if before is None or len(rows) >= most:
            return rows[:most], int(answer["all"])


def plain(address: str) -> str:
    """Return an address as people know it: an IPv4 one on a socket of both versions is written as such."""
    return address.removeprefix("::ffff:") if "." in address else address


def listening(kind: str, host: str, port: int, backlog: int) -> dict[str, Any]:
    """Return the request to listen."""
    return {"op": "listen", "kind": kind, "host": host, "port": port, "backlog": backlog}


def _reach(
    kind: str, host: str, port: int, seconds: float, via: Host | Path | str | None
) -> tuple[socket.socket, dict[str, Any], socket.socket | None]:
    """Try the addresses of a name, one after another."""
    failure: PeerUnreachable | None = None
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for address in dict.fromkeys(str(each[4][0]) for each in found):
        try:
            request = {"op": "connect", "kind": kind, "host": address, "port": port, "seconds": seconds}
            return _ask(via, request, seconds + GRACE_SECONDS)
        except PeerUnreachable as error:
            failure = error
    assert failure is not None
    raise failure


def _ask(
    via: Host | Path | str | None, request: dict[str, Any], seconds: float = SECONDS
) -> tuple[socket.socket, dict[str, Any], socket.socket | None]:
    opened = dial(via)
    try:
        opened.settimeout(seconds)
        local.send(opened, request)
        message, came = local.receive(opened)
        opened.settimeout(None)
        return opened, local.answered(message), came
    except TimeoutError:
        opened.close()
        raise NoDaemon("the PSP daemon does not answer") from None
    except OSError:
        opened.close()
        raise NoDaemon("the PSP daemon has gone") from None
    except BaseException:
        opened.close()
        raise


def dial(via: Host | Path | str | None) -> socket.socket:
    """Return a socket to a daemon, or to a Host of this process."""
    if via is None or isinstance(via, (str, Path)):
        return local.dial(local.default_path() if via is None else via)
    return via.dial()


def _recv(opened: socket.socket) -> bytes:
    with contextlib.suppress(OSError):
        return opened.recv(local.MAX_MESSAGE)
    return b""


def _await(opened: socket.socket, until: float | None) -> None:
    poll = select.poll()  # select() knows no descriptor above 1023
    poll.register(opened, select.POLLIN)
    if not poll.poll(None if until is None else max(until - time.monotonic(), 0) * 1000):
        raise TimeoutError("nothing came")
