"""Traffic in a host of a lab, to send and to count: `python -I -S tunnel_traffic.py`, run by path.

Requests come as JSON lines on standard input, answers go to standard output; it ends when its input does. Standard
library alone, so that it starts quickly. Sizes are chosen so that the kernel does nearly all of the work: a call moves
128 KiB of TCP, or 64 datagrams (sendmmsg(2), recvmmsg(2)).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_CHUNK_OCTETS = 128 << 10
_DATAGRAMS = 64
_MAX_OCTETS = 65536
_SOCKET_OCTETS = 4 << 20
_PATIENCE_S = 10.0
_TURN_S = 0.05  # how long a blocked call may keep a thread from noticing the end
_PACE_S = 0.0005
_BURST_S = 0.01  # a paced sender that was kept from running does not make up for more than this
_MSG_WAITFORONE = 0x10000  # include/linux/socket.h
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # include/uapi/asm-generic/socket.h
_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("octets", ctypes.c_size_t)]


class _Header(ctypes.Structure):
    """struct msghdr of the C library."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_octets", ctypes.c_uint32),
        ("iovecs", ctypes.c_void_p),
        ("iovec_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_octets", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Message(ctypes.Structure):
    """struct mmsghdr of the C library."""

    _fields_ = [("header", _Header), ("octets", ctypes.c_uint)]


class Batch:
    """Messages for one call, each of so many octets; they share one buffer, since nobody looks at what is in it."""

    def __init__(self, octets: int) -> None:
        self._buffer = ctypes.create_string_buffer(octets)
        self._iovec = _Iovec(ctypes.addressof(self._buffer), octets)
        self.messages = (_Message * _DATAGRAMS)()
        for message in self.messages:
            message.header.iovecs, message.header.iovec_count = ctypes.addressof(self._iovec), 1

    def send(self, sock: socket.socket, count: int) -> int:
        """Send so many and return how many went.   Raises OSError."""
        return self._done(_libc.sendmmsg(sock.fileno(), self.messages, count, 0))

    def receive(self, sock: socket.socket) -> int:
        """Wait for at least one and return how many came.   Raises OSError."""
        return self._done(_libc.recvmmsg(sock.fileno(), self.messages, _DATAGRAMS, _MSG_WAITFORONE, None))

    def _done(self, count: int) -> int:
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return count


class Traffic:
    """What one host sends or counts, one thing at a time."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._packets: list[int] = []
        self._octets: list[int] = []
        self._ending = False

    def receive(self, kind: str, address: str) -> dict[str, Any]:
        """Count what comes to an address.   kind: tcp or udp.   Returns the port."""
        sock = _open(kind, address)
        sock.bind((address, 0))
        if kind == "tcp":
            sock.listen(64)
            self._start(sock, self._accept)
        else:
            self._start(sock, self._count_datagrams)
        return {"port": sock.getsockname()[1]}

    def send(self, kind: str, address: str, port: int, streams: int, octets: int, pps: float) -> dict[str, Any]:
        """Send to a port.   streams: connections.   octets: of a datagram's payload.   pps: 0 is all that goes."""
        for _ in range(streams):
            sock = _open(kind, address)
            sock.settimeout(_PATIENCE_S)
            sock.connect((address, port))
            if kind == "tcp":
                self._start(sock, self._stream)
            else:
                self._start(sock, lambda sock, place: self._send_datagrams(sock, place, octets, pps))
        return {}

    def count(self) -> dict[str, Any]:
        """Return what has been sent or has come, and when that was."""
        return {"ns": time.monotonic_ns(), "octets": sum(self._octets), "packets": sum(self._packets)}

    def stop(self) -> dict[str, Any]:
        """End it all, without a word to the other end that would wait for an answer, and return the last `count`."""
        self._ending = True
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(_PATIENCE_S)
        for sock in self._sockets:
            sock.close()
        last = self.count()
        self.__init__()  # type: ignore[misc]
        return last

    def _start(self, sock: socket.socket, work: Callable[[socket.socket, int], None]) -> None:
        # A thread blocks in the kernel, not in Python's own poll, which would cost a call more for each chunk.
        sock.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 0, int(_TURN_S * 1e6)))
        self._sockets.append(sock)
        self._packets.append(0)
        self._octets.append(0)
        place = len(self._octets) - 1
        thread = threading.Thread(target=self._run, args=(sock, place, work), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, sock: socket.socket, place: int, work: Callable[[socket.socket, int], None]) -> None:
        while not self._ending:
            try:
                work(sock, place)
            except OSError as error:
                # A turn without progress; a port that is not open yet or no longer; no room in a queue.
                if error.errno not in (errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED, errno.ENOBUFS):
                    return

    def _accept(self, sock: socket.socket, _: int) -> None:
        connection, _peer = sock.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._start(connection, self._count_stream)

    def _count_stream(self, sock: socket.socket, place: int) -> None:
        buffer, octets = bytearray(_CHUNK_OCTETS), self._octets
        while not self._ending:
            got = sock.recv_into(buffer)
            if not got:
                raise OSError(errno.ECONNRESET, "closed")
            octets[place] += got

    def _stream(self, sock: socket.socket, place: int) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        chunk, octets = bytes(_CHUNK_OCTETS), self._octets
        while not self._ending:
            octets[place] += sock.send(chunk)

    def _count_datagrams(self, sock: socket.socket, place: int) -> None:
        batch, packets, octets = Batch(_MAX_OCTETS), self._packets, self._octets
        while not self._ending:
            got = batch.receive(sock)
            packets[place] += got
            octets[place] += got * batch.messages[0].octets  # a sender's datagrams are all of one size

    def _send_datagrams(self, sock: socket.socket, place: int, octets: int, pps: float) -> None:
        batch, packets = Batch(octets), self._packets
        start = time.monotonic()
        before = 0.0
        while not self._ending:
            count = _DATAGRAMS
            if pps:
                due = (time.monotonic() - start) * pps - before
                if due < 1:
                    time.sleep(_PACE_S)
                    continue
                before += max(0.0, due - _BURST_S * pps)  # given up
                count = min(int(due), _DATAGRAMS)
                before += count
            packets[place] += batch.send(sock, count)


def _open(kind: str, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    if kind == "udp":
        for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
            try:
                sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_OCTETS)
            except PermissionError:  # not in a user namespace of some kernels: the most that everybody may have
                continue
            break
    return sock


def main() -> None:
    """Answer until the input ends."""
    traffic = Traffic()
    operations = {name: getattr(traffic, name) for name in ("receive", "send", "count", "stop")}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = operations[request.pop("op")](**request)
        except OSError as error:
            answer = {"error": f"{error.strerror or error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
