"""What the hosts send: echoes, datagrams and bulk TCP, all carrying a marker that is easy to find."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address

from ..lab import Node

MARKER = b"the quick brown fox is in the clear; "
_BLOCK = (MARKER * 28_340)[: 1 << 20]
_PATIENCE_S = 15.0


class TrafficLost(Exception):
    """Something that was sent did not arrive in time."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """A TCP stream that has come through.

    octets, seconds: as the receiver counts.   whole: what was received is what was sent; None: not looked at.
    """

    octets: int
    seconds: float
    whole: bool | None

    @property
    def bps(self) -> float:
        """Bits a second."""
        return 8 * self.octets / self.seconds if self.seconds else 0.0


def datagrams(sender: Node, receiver: Node, address: str, sizes: Sequence[int], flows: int = 1) -> int:
    """Send UDP datagrams that hold the marker over and over, one of each size, and return how many have arrived whole.

    address: the receiver's.   sizes: octets of payload.   flows: source ports that do so.
    """
    family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
    arrived = 0
    with ExitStack() as opened:
        there = opened.enter_context(receiver.socket(family, socket.SOCK_DGRAM))
        there.bind((address, 0))
        there.settimeout(2)
        for _ in range(flows):
            here = opened.enter_context(sender.socket(family, socket.SOCK_DGRAM))
            for size in sizes:
                payload = _BLOCK[:size]
                here.sendto(payload, there.getsockname()[:2])
                try:
                    arrived += there.recv(1 << 16) == payload
                except TimeoutError:
                    continue
    return arrived


def bulk(sender: Node, receiver: Node, address: str, *, octets: int = 0, seconds: float = 0.0) -> Bulk:
    """Send one TCP stream full of markers, and return what the receiver had of it.

    address: the receiver's.   octets: how much; then it is compared, too.   seconds: how long, instead.
    Raises TrafficLost.
    """
    family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
    with receiver.socket(family, socket.SOCK_STREAM) as listener, sender.socket(family, socket.SOCK_STREAM) as sending:
        listener.bind((address, 0))
        listener.listen()
        taking = receiver.start(_receive, listener, bool(octets))
        try:
            sending.settimeout(_PATIENCE_S)
            sending.connect(listener.getsockname()[:2])
            limit = _PATIENCE_S + max(seconds, octets / 500_000)
            digest = sender.call(_send, sending, octets, seconds, timeout=limit)
            sending.close()
            received, spent, got = taking.result(_PATIENCE_S)
        except OSError as error:  # TimeoutError too
            raise TrafficLost(f"a TCP stream to {address} came to a halt: {error}") from None
        finally:
            taking.kill()
    return Bulk(received, spent, digest == got if octets else None)


def _send(sock: socket.socket, octets: int, seconds: float) -> bytes:
    digest = hashlib.sha256()
    sock.settimeout(_PATIENCE_S)
    until = time.monotonic() + seconds
    while octets > 0 or time.monotonic() < until:
        block = memoryview(_BLOCK)[: octets or None]
        sock.sendall(block)
        if octets:
            digest.update(block)
            octets -= len(block)
            if not octets:
                break
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)  # the receiver closes when it has everything
    return digest.digest()


def _receive(listener: socket.socket, look: bool) -> tuple[int, float, bytes]:
    digest, room = hashlib.sha256(), bytearray(1 << 20)
    listener.settimeout(_PATIENCE_S)
    with listener.accept()[0] as taken:
        taken.settimeout(_PATIENCE_S)
        total = 0
        start = last = time.monotonic()
        while got := taken.recv_into(room):
            last = time.monotonic()
            if not total:
                start = last
            total += got
            if look:
                digest.update(memoryview(room)[:got])
    return total, last - start, digest.digest()
