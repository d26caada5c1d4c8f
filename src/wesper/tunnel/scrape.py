"""Metrics over HTTP, for scrapers: a listener that a daemon's loop looks after, and answers to requests.

Just what a scraper needs: GET and HEAD of /metrics, one request a connection. Whatever else comes costs bounded memory
and time, and gets a status that says so.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Final

from ..errors import ConfigError, WesperError
from .openmetrics import CONTENT_TYPE

MAX_REQUEST: Final = 8192
MAX_CONNECTIONS: Final = 16
PATIENCE_NS: Final = 5_000_000_000
"""How long a connection may take to say what it wants."""

_SEND_BUFFER: Final = 4 << 20


class ScrapeFailed(WesperError):
    """Nothing can listen where the configuration says."""

    exit_code = 4


def answer(request: bytes, collect: Callable[[], bytes]) -> bytes | None:
    """Return the response to a request, None if more of it has to come.   collect: makes what /metrics shows.

    Source: RFC 9112 §3, RFC 9110 §15.
    """
    head, end, _ = request.partition(b"\r\n\r\n")
    if not end:
        return None if len(request) < MAX_REQUEST else _response("431 Request Header Fields Too Large")
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return _response("400 Bad Request")
    method, target, _ = words
    if target.split(b"?")[0] != b"/metrics":
        return _response("404 Not Found")
    if method not in (b"GET", b"HEAD"):
        return _response("405 Method Not Allowed", extra="Allow: GET, HEAD\r\n")
    return _response("200 OK", collect(), CONTENT_TYPE, with_body=method == b"GET")


def parse_listen(text: str) -> tuple[str, int]:
    """Return address and port of `127.0.0.1:9464` or `[::1]:9464`.   Raises ConfigError."""
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
        if (
            port.isascii()
            and port.isdigit()
            and int(port) <= 0xFFFF
            and (address.version == 4) is not host.startswith("[")
        ):
            return str(address), int(port)
    except ValueError:
        pass
    raise ConfigError(f"{text!r} is no place to listen", key="metrics.listen", expected='"127.0.0.1:9464" or the like')


class ScrapeServer:
    """Listens, and answers.   Driven from outside: wait for `watch`, call what it says, and `expire` now and then.

    listen: as `parse_listen` takes it.   collect: makes what /metrics shows.   Raises ConfigError, ScrapeFailed.
    """

    def __init__(self, listen: str, collect: Callable[[], bytes]) -> None:
        host, port = parse_listen(listen)
        self._collect = collect
        self._waiting: dict[socket.socket, tuple[bytes, int]] = {}
        self._now = 0
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
        except OSError as error:
            raise ScrapeFailed(f"metrics can't listen on {listen}: {error.strerror}") from None
        self._listener.setblocking(False)

    @property
    def address(self) -> tuple[str, int]:
        """Address and port where it listens."""
        host, port, *_ = self._listener.getsockname()
        return host, port

    def watch(self) -> Mapping[int, Callable[[], None]]:
        """Return the descriptors to wait for (readable) and what to call then."""
        calls: dict[int, Callable[[], None]] = {}
        if len(self._waiting) < MAX_CONNECTIONS:
            calls[self._listener.fileno()] = self._accept
        for connection in self._waiting:
            calls[connection.fileno()] = lambda connection=connection: self._read(connection)  # type: ignore[misc]
        return calls

    def expire(self, now: int) -> None:
        """Close connections that have said nothing whole for too long.   now: nanoseconds of any clock."""
        self._now = now
        for connection, (_, until) in list(self._waiting.items()):
            if until and now >= until:
                self._close(connection)
            elif not until:
                self._waiting[connection] = self._waiting[connection][0], now + PATIENCE_NS

    def close(self) -> None:
        """Listen no more.   Does nothing the second time."""
        for connection in list(self._waiting):
            self._close(connection)
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone again, or there are no descriptors left
            return
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._waiting[connection] = b"", 0

    def _read(self, connection: socket.socket) -> None:
        so_far, until = self._waiting[connection]
        try:
            more = connection.recv(MAX_REQUEST - len(so_far))
        except BlockingIOError:
            return
        except OSError:
            more = b""
        if not more:
            self._close(connection)
            return
        response = answer(so_far + more, self._collect)
        if response is None:
            self._waiting[connection] = so_far + more, until
            return
        try:
            # What the buffer does not take is lost: nobody waits for a scraper that does not read.
            connection.send(response)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        del self._waiting[connection]
        connection.close()


def _response(
    status: str, body: bytes = b"", kind: str = "text/plain", *, with_body: bool = True, extra: str = ""
) -> bytes:
    body = body or f"{status}\n".encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
