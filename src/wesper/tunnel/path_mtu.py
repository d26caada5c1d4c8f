"""What the path says about its MTU: ICMP and ICMPv6 messages of the unprotected side, for `Engine.icmp_error`.

Raw sockets of their own, so that neither the links' workers nor an error queue have to be asked; a filter in the kernel
lets only messages about size through. Constants: include/uapi/linux/icmp.h, icmpv6.h.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from ..protocols.ip import checksum, pseudo_header
from ..wire.ipv6 import IPv6
from ..wire.numbers import ICMPV6

_SOL_RAW, _ICMP_FILTER = 255, 1
_ICMPV6_FILTER = 1
_DEST_UNREACH, _PACKET_TOO_BIG = 3, 2
_MAX = 1500


class PathMessages:
    """Messages about size, of one IP version.   Raises OSError where raw sockets are not allowed."""

    def __init__(self, version: int) -> None:
        self._version = version
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        if version == 4:
            self.opened = socket.socket(socket.AF_INET, flags, socket.IPPROTO_ICMP)
            self.opened.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("I", 0xFFFFFFFF & ~(1 << _DEST_UNREACH)))
            return
        self.opened = socket.socket(socket.AF_INET6, flags, socket.IPPROTO_ICMPV6)
        blocked = bytearray(b"\xff" * 32)
        word = struct.unpack_from("I", blocked, 0)[0] & ~(1 << _PACKET_TOO_BIG)
        struct.pack_into("I", blocked, 0, word)
        self.opened.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, bytes(blocked))
        self.opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)

    def receive(self) -> bytes | None:
        """Return the next message from its IP header on, None if none waits."""
        try:
            octets, ancillary, _, source = self.opened.recvmsg(_MAX, 128)
        except OSError:
            return None
        if self._version == 4:
            return octets
        local = next((v[:16] for _, kind, v in ancillary if kind == socket.IPV6_PKTINFO), bytes(16))
        remote = ip_address(source[0].partition("%")[0]).packed
        # Its checksum covers addresses; the kernel has looked at it, and link-local ones may differ from here on.
        message = bytearray(octets)
        message[2:4] = bytes(2)
        message[2:4] = checksum(pseudo_header(remote, local, ICMPV6, len(message)) + message).to_bytes(2, "big")
        header = IPv6(payload_length=len(message), next_header=ICMPV6, hop_limit=64, source=remote, destination=local)
        return header.build() + bytes(message)

    def close(self) -> None:
        """Close the socket."""
        self.opened.close()
