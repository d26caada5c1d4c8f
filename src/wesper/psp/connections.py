"""PSP connections for asyncio: datagrams, and streams of the host's own TCP. `wesper.psp.blocking` is the same without.

>>> async def hello() -> bytes:
...     async with await connect("192.0.2.1", 7000) as connection:
...         await connection.send(b"hello")
...         return await connection.receive()
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from . import local
from .blocking import GRACE_SECONDS, SECONDS, dial, listening, plain
from .failures import ConnectionClosed, NoDaemon, PeerUnreachable, TooLarge

if TYPE_CHECKING:
    from .host import Host


class Connection(local.Described):
    """A datagram connection: what one side sends comes out at the other as it was, or not at all.

    One task at a time receives, one sends.
    """

    def __init__(self, opened: socket.socket, answer: dict[str, Any]) -> None:
        opened.setblocking(False)
        self._opened, self._channel = opened, local.Channel(answer)
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield datagrams until the peer closes the connection.   Raises ConnectionLost, NoDaemon."""
        while True:
            try:
                yield await self.receive()
            except ConnectionClosed:
                return

    async def send(self, datagram: bytes) -> None:
        """Send one datagram.   Waits where the daemon is behind.   Raises TooLarge, ConnectionFailed."""
        if self._channel.failure is not None:
            raise self._channel.failure
        if len(datagram) > self._channel.most:
            raise TooLarge(len(datagram), self._channel.most)
        try:
            await self._loop.sock_sendall(self._opened, local.DATAGRAM + datagram)
        except OSError:
            while self._channel.failure is None:  # why it ended stands in what came before the end
                self._channel.take(await self._next())
            raise self._channel.failure from None

    async def receive(self) -> bytes:
        """Return the next datagram.

        Raises ConnectionClosed when the peer has closed; ConnectionLost, NoDaemon. `asyncio.timeout` limits the wait.
        """
        while self._channel.failure is None:
            datagram = self._channel.take(await self._next())
            if datagram is not None:
                return datagram
        raise self._channel.failure

    async def close(self) -> None:
        """End the connection; the peer is told."""
        self._opened.close()

    async def _next(self) -> bytes:
        try:
            return await self._loop.sock_recv(self._opened, local.MAX_MESSAGE)
        except ConnectionError:
            return b""


class Listener:
    """Waits for connections.   local: address, "" for all of this host's, and port."""

    def __init__(self, opened: socket.socket, answer: dict[str, Any]) -> None:
        self._opened, self.local = opened, local.place(answer["local"])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def accept(self) -> Connection:
        """Return the next connection.   Raises NoDaemon."""
        message, came = await _receive(self._opened)
        answer = local.answered(message)
        assert came is not None
        local.accepted(self._opened)
        return Connection(came, answer)

    async def close(self) -> None:
        """Take no more connections; those that are there go on."""
        self._opened.close()


class StreamListener:
    """Waits for streams.   local: address, "" for all of this host's, and port.   socket: TCP, it listens."""

    def __init__(self, opened: socket.socket, answer: dict[str, Any], stream: socket.socket) -> None:
        self._opened, self.local, self.socket = opened, local.place(answer["local"]), stream
        stream.setblocking(False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def accept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the next stream.   `writer.get_extra_info("peername")` says whom it is from."""
        stream, _ = await asyncio.get_running_loop().sock_accept(self.socket)
        return await asyncio.open_connection(sock=stream)

    async def close(self) -> None:
        """Take no more streams; those that are there go on."""
        self.socket.close()
        self._opened.close()


async def connect(
    host: str, port: int, *, seconds: float = SECONDS, via: Host | Path | str | None = None
) -> Connection:
    """Connect to a port of a host, with datagrams.

    host: name or address.   seconds: how long to try.   via: the daemon's socket, if it is not where it usually is; or
    a Host of this process.
    Raises NoDaemon, PeerUnreachable, PeerRefused, OSError if the name is not known.
    """
    opened, answer, _ = await _reach("datagram", host, port, seconds, via)
    return Connection(opened, answer)


async def listen(port: int, *, host: str = "", backlog: int = 64, via: Host | Path | str | None = None) -> Listener:
    """Listen for datagram connections.

    port: 0 for any.   host: an address of this host, "" for all.   backlog: connections that wait for `accept`.
    Raises NoDaemon, ConfigError if the port is taken, PermissionNeeded.
    """
    opened, answer, _ = await _ask(via, listening("datagram", host, port, backlog))
    return Listener(opened, answer)


async def connect_stream(
    host: str, port: int, *, seconds: float = SECONDS, via: Host | Path | str | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a port of a host, with the kernel's TCP, its segments carried as PSP packets.

    Raises as `connect`, and PermissionNeeded where the daemon can have no TUN device.
    """
    until = time.monotonic() + seconds
    opened, answer, stream = await _reach("stream", host, port, seconds, via)
    assert stream is not None
    stream.setblocking(False)
    with opened:
        try:
            async with asyncio.timeout(max(until - time.monotonic(), 0.1)):
                await asyncio.get_running_loop().sock_connect(stream, local.place(answer["peer"]))
        except OSError as error:
            stream.close()
            raise PeerUnreachable(f"{host} port {port}: {error.strerror or 'no answer'}") from None
        except BaseException:
            stream.close()
            raise
    return await asyncio.open_connection(sock=stream)


async def listen_stream(
    port: int, *, host: str = "", backlog: int = 64, via: Host | Path | str | None = None
) -> StreamListener:
    """Listen for streams.   See `listen`.   Raises also PermissionNeeded where the daemon can have no TUN device."""
    opened, answer, stream = await _ask(via, listening("stream", host, port, backlog))
    assert stream is not None
    return StreamListener(opened, answer, stream)


def peer_of(writer: asyncio.StreamWriter) -> tuple[str, int]:
    """Return address and port of a stream's other end."""
    host, port = writer.get_extra_info("peername")[:2]
    return plain(host), port


async def _reach(
    kind: str, host: str, port: int, seconds: float, via: Host | Path | str | None
) -> tuple[socket.socket, dict[str, Any], socket.socket | None]:
    """Try the addresses of a name, one after another."""
    failure: PeerUnreachable | None = None
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for address in dict.fromkeys(str(each[4][0]) for each in found):
        try:
            request = {"op": "connect", "kind": kind, "host": address, "port": port, "seconds": seconds}
            return await _ask(via, request, seconds + GRACE_SECONDS)
        except PeerUnreachable as error:
            failure = error
    assert failure is not None
    raise failure


async def _ask(
    via: Host | Path | str | None, request: dict[str, Any], seconds: float = SECONDS
) -> tuple[socket.socket, dict[str, Any], socket.socket | None]:
    opened = dial(via)
    opened.setblocking(False)
    try:
        local.send(opened, request)
        async with asyncio.timeout(seconds):
            message, came = await _receive(opened)
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


async def _receive(opened: socket.socket) -> tuple[bytes, socket.socket | None]:
    """Return the next message and the socket that came with it."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return local.receive(opened)
        except BlockingIOError:
            pass
        except ConnectionError:
            return b"", None
        readable = asyncio.Event()
        loop.add_reader(opened, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(opened)
