"""Metrics over HTTP, for scrapers: a listener that a daemon's loop looks after, and answers to requests.

Just what a scraper needs: GET and HEAD of /metrics, one request a connection. Whatever else comes costs bounded memory
and time, and gets a status that says so.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable
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
    """Listens, and answers, for a daemon's own loop.

    listen: as `parse_listen` takes it.   collect: makes what /metrics shows.   selector: whose data are functions to
    call.   Raises ConfigError, ScrapeFailed.
    """

    def __init__(self, listen: str, collect: Callable[[], bytes], selector: selectors.BaseSelector) -> None:
        host, port = parse_listen(listen)
        self._collect, self._selector = collect, selector
        self._waiting: dict[socket.socket, tuple[bytes, int | None]] = {}
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
        except OSError as error:
            raise ScrapeFailed(f"metrics can't listen on {listen}: {error.strerror}") from None
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def address(self) -> tuple[str, int]:
        """Address and port where it listens."""
        host, port, *_ = self._listener.getsockname()
        return host, port

    def tend(self, now: int) -> None:
        """Close connections that have said nothing whole for too long.   now: nanoseconds of any clock."""
        for connection, (so_far, until) in list(self._waiting.items()):
            if until is None:
                self._waiting[connection] = so_far, now + PATIENCE_NS
            elif now >= until:
                self._close(connection)

    def close(self) -> None:
        """Listen no more.   Does nothing the second time."""
        for connection in list(self._waiting):
            self._close(connection)
        if self._listener.fileno() >= 0:
            self._selector.unregister(self._listener)
            self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone again, or there are no descriptors left
            return
        if len(self._waiting) >= MAX_CONNECTIONS:
            connection.close()
            return
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._waiting[connection] = b"", None
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(connection))

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
        # What the buffer does not take is lost: nobody waits for a scraper that does not read.
        with contextlib.suppress(OSError):
            connection.send(response)
            connection.shutdown(socket.SHUT_WR)
        self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        del self._waiting[connection]
        self._selector.unregister(connection)
        connection.close()


def _response(
    status: str, body: bytes = b"", kind: str = "text/plain", *, with_body: bool = True, extra: str = ""
) -> bytes:
    body = body or f"{status}\n".encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
