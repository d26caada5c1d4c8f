"""Mixed real traffic, made on the spot and captured: `python -m wesper.lab.traffic OUT`.

The kernel's own TCP, UDP, ICMP and ICMPv6 talk over the loopback of a host of a lab.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import WesperError
from ..pcap import Interface, LinkType, create_capture
from ..protocols.ip import checksum
from .lab import Lab
from .loopback import raise_loopback
from .rings import ETH_P_ALL, summed

MTU = 1400
V4 = ("127.0.0.1", "127.0.0.2")
V6 = ("fd00::1", "fd00::2")
MARKER = b"the quick brown fox is in the clear; "
_PACKET_OUTGOING = 4
_SNAP = 65536


def make(path: Path, seconds: float = 0.6) -> int:
    """Write a capture of mixed traffic to path and return the number of packets.

    Raises UnsupportedError where there are no network namespaces.
    """
    with Lab() as lab:
        return lab.host("traffic").call(_make, path, seconds)


def _make(path: Path, seconds: float) -> int:
    raise_loopback(MTU, V6)
    return _capture(path, _talk, seconds)


def _capture(path: Path, talk: Callable[[float], None], seconds: float) -> int:
    """Capture all of `lo` while talk runs.   Every packet passes lo twice; the way out is taken."""
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    sniffer.bind(("lo", 0))
    sniffer.settimeout(0.3)
    talker = threading.Thread(target=talk, args=(seconds,), daemon=True)
    talker.start()
    count = 0
    with create_capture(path) as writer:
        interface = writer.add_interface(Interface(LinkType.ETHERNET, name="lo"))
        while True:
            try:
                frame, (_, _, kind, _, _) = sniffer.recvfrom(_SNAP)
            except TimeoutError:
                if not talker.is_alive():
                    return count
                continue
            if kind == _PACKET_OUTGOING:
                writer.write(summed(frame), time.time_ns(), interface=interface)
                count += 1


def _talk(seconds: float) -> None:
    for family, (here, there) in ((socket.AF_INET, V4), (socket.AF_INET6, V6)):
        _stream(family, here, there, seconds / 4)
        _datagrams(family, here, there, (0, 1, 64, 512, 1200))
    _ping(V4[0], V4[1], (0, 56, 1000))


def _stream(family: int, here: str, there: str, seconds: float) -> None:
    """Send text over TCP for a while, and get every sixteenth block back."""
    listener = socket.create_server((there, 0), family=socket.AddressFamily(family))
    with listener, socket.socket(family, socket.SOCK_STREAM) as client:
        client.bind((here, 0))
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            end = time.monotonic() + seconds
            block = MARKER * 40
            turn = 0
            while time.monotonic() < end:
                client.sendall(block)
                got = 0
                while got < len(block):
                    got += len(server.recv(65536))
                if turn % 16 == 0:
                    server.sendall(MARKER)
                    client.recv(65536)
                turn += 1
                time.sleep(0.001)


def _datagrams(family: int, here: str, there: str, sizes: tuple[int, ...]) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as server, socket.socket(family, socket.SOCK_DGRAM) as client:
        server.bind((there, 0))
        client.bind((here, 0))
        server.settimeout(1)
        client.settimeout(1)
        for size in sizes:
            client.sendto((MARKER * 40)[:size], server.getsockname())
            data, peer = server.recvfrom(65536)
            server.sendto(data, peer)
            client.recv(65536)


def _ping(here: str, there: str, sizes: tuple[int, ...]) -> None:
    """Send echo requests on a raw socket, which the namespace's root may open; the kernel answers them."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.bind((here, 0))
        sock.settimeout(1)
        for sequence, size in enumerate(sizes, 1):
            head = struct.pack(">BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, sequence)
            payload = (MARKER * 40)[:size]
            total = checksum(head + payload)
            sock.sendto(head[:2] + struct.pack(">H", total) + head[4:] + payload, (there, 0))
            sock.recv(65536)


if __name__ == "__main__":
    try:
        print(make(Path(sys.argv[1])))
    except WesperError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
