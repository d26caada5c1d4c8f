"""The process between the ends of an impaired link.

It takes frames from one interface, does to them what `impair.Wire` says, and sends them out of the other. On a
listening socket it answers requests, a JSON object a packet: change the impairment, tell the counters.
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import sys
import time
from dataclasses import asdict
from typing import Any

from ..errors import WesperError
from .impair import Impairment, Wire
from .rings import FrameRing

_MAX_MESSAGE = 1 << 16
_BURST = 64


class Direction:
    """Frames from one end to the other, `toward` a node."""

    def __init__(self, toward: str, ring: FrameRing, out: socket.socket, wire: Wire) -> None:
        self.toward, self.ring, self.wire = toward, ring, wire
        self._out = out
        self.not_sent = 0
        self.overrun = 0

    def take(self, now: int) -> None:
        """Move what has come into the wire."""
        for frame in self.ring.frames():
            self.wire.receive(frame, now)

    def give(self, now: int) -> bool:
        """Send what is due, a burst at most; tell whether there may be more."""
        for _ in range(_BURST):
            frame = self.wire.poll_transmit(now)
            if frame is None:
                return False
            try:
                self._out.send(frame)
            except OSError:  # the link is down, or the kernel's queue full
                self.not_sent += 1
        return True

    def counters(self) -> dict[str, Any]:
        """Return what happened to the packets of this direction, by reason."""
        return {**asdict(self.wire.counters), "not_sent": self.not_sent, "overrun": self.ring.overrun()}


class Forwarder:
    """Two directions and the requests about them."""

    def __init__(self, directions: list[Direction], listener: socket.socket) -> None:
        self._directions = directions
        self._listener = listener
        self._clients: set[socket.socket] = set()

    def run(self) -> None:
        """Forward until killed."""
        while True:
            now = time.monotonic_ns()
            more = False
            for direction in self._directions:
                direction.take(now)
                more |= direction.give(now)
            deadlines = [at for direction in self._directions if (at := direction.wire.deadline()) is not None]
            wait = 0 if more else max(0, min(deadlines) - time.monotonic_ns()) / 1e9 if deadlines else None
            rings = [direction.ring for direction in self._directions]
            watched: list[FrameRing | socket.socket] = [*rings, self._listener, *self._clients]
            ready, _, _ = select.select(watched, [], [], wait)
            for which in ready:
                if which is self._listener:
                    self._clients.add(self._listener.accept()[0])
                elif isinstance(which, socket.socket):
                    self._answer(which)

    def _answer(self, client: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = client.recv(_MAX_MESSAGE)
        if not data:
            self._clients.remove(client)
            client.close()
            return
        try:
            answer = self._do(json.loads(data))
        except WesperError as error:
            answer = {"error": str(error)}
        with contextlib.suppress(OSError):
            client.send(json.dumps(answer).encode())

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Change what `set` names, toward `toward` or both ways, and return settings and counters."""
        concerned = [each for each in self._directions if request.get("toward") in (None, each.toward)]
        changed = [each.wire.impairment.changed(**request.get("set", {})) for each in concerned]
        for direction, impairment in zip(concerned, changed, strict=True):
            direction.wire.impairment = impairment
        return {
            each.toward: {"impairment": each.wire.impairment.words(), "counters": each.counters()}
            for each in self._directions
        }


def main(words: dict[str, Any]) -> None:
    """Forward between two interfaces.   words: `ends`, each with node, interface and descriptor of a packet socket;
    `listener`, a descriptor; mtu; impairment; seed.
    """
    impairment = Impairment(**words["impairment"])
    sockets = [socket.socket(fileno=end["descriptor"]) for end in words["ends"]]
    rings = [FrameRing(sock, end["interface"], words["mtu"]) for sock, end in zip(sockets, words["ends"], strict=True)]
    for sock in sockets:
        sock.setblocking(False)
    seed = words["seed"] if words["seed"] is not None else random.getrandbits(64)
    directions = []
    for here, there in ((0, 1), (1, 0)):
        toward = words["ends"][there]["node"]
        directions.append(Direction(toward, rings[here], sockets[there], Wire(impairment, f"{seed} toward {there}")))
    Forwarder(directions, socket.socket(fileno=words["listener"])).run()


def program() -> None:
    """Do what the program's argument says, a JSON object."""
    main(json.loads(sys.argv[1]))
