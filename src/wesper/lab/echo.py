"""ICMP echo from a lab's host, since `ping` is not on every machine."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import ip_address

from ..protocols.ip import checksum

OpenSocket = Callable[[int, int, int], socket.socket]
_ICMP_ECHO, _ICMP_ECHOREPLY, _ICMP6_ECHO, _ICMP6_ECHOREPLY = 8, 0, 128, 129
_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_DO = 2


def ping(
    open_socket: OpenSocket, address: str, *, count: int, octets: int, timeout: float, fragment: bool
) -> list[float | None]:
    """Send echo requests one after another and return each round trip in seconds, None for one without an answer.

    octets: of the ICMP payload.   fragment: whether a request that is too big is cut; else it is refused or answered by
    an ICMP error, and there is no reply.
    """
    version = ip_address(address).version
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    identifier = struct.unpack("H", os.urandom(2))[0]
    times: list[float | None] = []
    with open_socket(family, socket.SOCK_RAW, protocol) as sock:
        if not fragment:
            sock.setsockopt(*_MTU_DISCOVER[version], _DO)
        try:
            sock.connect((address, 0))
        except OSError:  # no way there
            return [None] * count
        for sequence in range(1, count + 1):
            kind = _ICMP_ECHO if version == 4 else _ICMP6_ECHO
            request = struct.pack(">BBHHH", kind, 0, 0, identifier, sequence) + bytes(octets)
            if version == 4:  # the kernel sums ICMPv6 by itself
                request = request[:2] + struct.pack(">H", checksum(request)) + request[4:]
            start = time.monotonic()
            try:
                sock.send(request)
            except OSError:
                times.append(None)
            else:
                times.append(_await(sock, version, struct.pack(">HH", identifier, sequence), start, timeout))
    return times


def _await(sock: socket.socket, version: int, wanted: bytes, start: float, timeout: float) -> float | None:
    reply = _ICMP_ECHOREPLY if version == 4 else _ICMP6_ECHOREPLY
    while (left := start + timeout - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            data = sock.recv(1 << 16)
        except OSError:  # nothing came, or an ICMP error did
            return None
        if version == 4:
            data = data[(data[0] & 15) * 4 :]
        if data[0] == reply and data[4:8] == wanted:
            return time.monotonic() - start
    return None
