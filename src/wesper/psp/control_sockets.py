"""TCP sockets of control connections, and the protocol that asyncio's transports on them call."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from ..host.link import IPAddress

_BACKLOG: Final = 64


class Wire(asyncio.Protocol):
    """The octets of one control connection, handed on as they come: no task waits for them.

    Nothing is read before `begin`, nor while more than `most_waiting` octets wait for a peer that does not read itself.
    """

    def __init__(self, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self._lost = False
        self.transport: asyncio.Transport
        self._take: Callable[[bytes], None] | None = None

    @property
    def certificate(self) -> bytes:
        """The peer's, in DER; b"" if it has shown none."""
        return self.transport.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""

    def address(self, which: str) -> IPAddress:
        """Return an address of the connection.   which: sockname or peername."""
        return ip_address(str(self.transport.get_extra_info(which)[0]).partition("%")[0])

    def begin(self, take: Callable[[bytes], None]) -> None:
        """Read.   take: gets octets, and at last, in every case and once, b""."""
        self._take = take
        if self._lost:
            asyncio.get_running_loop().call_soon(take, b"")
        else:
            self.transport.resume_reading()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.pause_reading()
        transport.set_write_buffer_limits(self._most_waiting)

    def data_received(self, octets: bytes) -> None:
        assert self._take is not None
        self._take(octets)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._take is not None:
            self.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        if self._take is not None:
            self._take(b"")


def listen(address: IPAddress, port: int) -> socket.socket:
    """Return a TCP socket that listens.   Raises OSError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((str(address), port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


async def first_octets(opened: socket.socket, count: int) -> bytes:
    """Return what a connection begins with, so many octets; they stay where they are."""
    loop = asyncio.get_running_loop()
    while True:
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(opened, _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(opened)
        seen = opened.recv(count, socket.MSG_PEEK)
        if len(seen) == count or not seen:
            return seen
        await asyncio.sleep(0.05)  # a part of them is there, and would be so at once again


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
