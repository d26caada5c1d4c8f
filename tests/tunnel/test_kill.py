"""A daemon that is killed at any moment, two hundred times: no nonce twice on the wire, and traffic flows again."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections import Counter
from pathlib import Path

import pytest

from wesper.lab import pair
from wesper.protocols import ip

from .ends import await_ping, ending, two_ends

pytestmark = pytest.mark.usefixtures("namespaces")
KILLS = 100  # an engine


class Wire:
    """All that leaves a host's interface, counted by SPI and IV."""

    def __init__(self, sock: socket.socket, interface: str) -> None:
        self._sock = sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        sock.bind((interface, 3))
        sock.setblocking(False)
        self.seen: Counter[tuple[int, bytes]] = Counter()

    def take(self) -> None:
        """Count what has passed."""
        while True:
            try:
                frame = self._sock.recv(2048)
            except BlockingIOError:
                return
            datagram = ip.parse(frame[14:])
            if datagram is None or datagram.upper != 17:
                continue
            body = datagram.packet[datagram.upper_at + 8 :]
            self.seen[struct.unpack_from(">I", body)[0], body[8:16]] += 1

    def lost(self) -> int:
        """Return how many frames it missed."""
        return struct.unpack("II", self._sock.getsockopt(263, 6, 8))[1]  # PACKET_STATISTICS


@pytest.mark.parametrize("engine", ["reference", pytest.param("native", marks=pytest.mark.needs_native)])
def test_no_nonce_comes_twice(engine: str, tmp_path: Path) -> None:
    chance = random.Random(f"kill {engine}")
    with pair(offloads=False) as lab:
        a, b = lab
        left, right = two_ends(tmp_path, a, b, engine)
        with (
            ending(left, right),
            a.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sniff,
            a.socket() as flood,
        ):
            wire = Wire(sniff, a.interfaces[0].name)
            right.up()
            flood.setblocking(False)
            for number in range(KILLS):
                left.begin()
                if number % 4:  # else it is killed while it starts
                    await_ping(left, right.inner)
                    for _ in range(chance.randrange(40)):
                        flood.sendto(b"more numbers", (right.inner, 9))
                time.sleep(chance.random() * (0.01 if number % 4 else 0.1))
                left.kill()
                wire.take()
            left.up()
            await_ping(left, right.inner)
            wire.take()
            assert wire.lost() == 0
    assert len(wire.seen) > 2 * KILLS
    assert [key for key, count in wire.seen.items() if count > 1] == []
