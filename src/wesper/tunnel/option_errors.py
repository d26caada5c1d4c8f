"""ICMP and ICMPv6 messages to peers about options of WESPv2 that this end does not know (draft §2.2.2).

Of authentic packets alone, a few a second, and only where the file asks for them: they leave unprotected.
Raw sockets of their own; the kernel writes the IP header and ICMPv6's checksum.
Constants: include/uapi/linux/in.h, icmp.h, icmpv6.h.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import Final

from ..engine import Event
from ..engine.interface import SECOND
from ..protocols.icmp import unknown_option
from ..protocols.ip import IPV4_HEADER, IPV6_HEADER

PER_SECOND: Final = 10  # RFC 4443 §2.4 (f) wants a limit
_IP_PKTINFO = 8
_SOL_RAW, _FILTER = 255, 1  # ICMP_FILTER, ICMPV6_FILTER


class OptionErrors:
    """What peers are told.   mark: of the tunnel's own packets, which rules lead past it; 0: none."""

    def __init__(self, mark: int) -> None:
        self._mark = mark
        self._sockets: dict[int, socket.socket] = {}
        self._second = self._sent = 0

    def tell(self, event: Event, now: int) -> bool:
        """Send the message that an UNKNOWN_OPTION asks for.   Returns whether it went.

        Raises OSError where raw sockets are not allowed, or the kernel does not send it.
        """
        here = ip_address(event.destination)
        message = None if here.is_multicast else unknown_option(event.packet, event.pointer, here)
        if message is None or not self._may_send(now):
            return False
        version = message[0] >> 4
        opened = self._sockets[version] if version in self._sockets else self._open(version)
        to = str(ip_address(event.source)), 0
        if version == 4:
            from_here = (socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4s", 0, event.destination, bytes(4)))
        else:
            from_here = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, event.destination + struct.pack("=i", 0))
        opened.sendmsg([message[IPV4_HEADER if version == 4 else IPV6_HEADER :]], [from_here], 0, to)
        return True

    def close(self) -> None:
        """Close the sockets."""
        for opened in self._sockets.values():
            opened.close()
        self._sockets.clear()

    def _may_send(self, now: int) -> bool:
        if now // SECOND != self._second:
            self._second, self._sent = now // SECOND, 0
        self._sent += 1
        return self._sent <= PER_SECOND

    def _open(self, version: int) -> socket.socket:
        family, protocol = (
            (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
        )
        opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
        try:
            # Nothing is read: the filters block all types.
            level, nothing = (_SOL_RAW, b"\xff" * 4) if version == 4 else (socket.IPPROTO_ICMPV6, b"\xff" * 32)
            opened.setsockopt(level, _FILTER, nothing)
            if self._mark:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
        except OSError:
            opened.close()
            raise
        self._sockets[version] = opened
        return opened
