"""TCP sockets of control connections, before there is a stream on them."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import Final

from ..host.link import IPAddress

_BACKLOG: Final = 64


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


def address_of(writer: asyncio.StreamWriter, which: str) -> IPAddress:
    """Return an address of a connection.   which: sockname or peername."""
    return ip_address(str(writer.get_extra_info(which)[0]).partition("%")[0])


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
