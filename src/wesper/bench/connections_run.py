"""One point of the plots over the number of connections: `python -m wesper.bench.connections_run COUNT ROUNDS`.

A process of its own, so that memory can be weighed; prints JSON. Every connection is live: a packet goes through it
before the weighing ends. PSP and ESP take turns with the same packets in batches of the same size.
"""

from __future__ import annotations

import json
import sys
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import psp
from ..engine import Packets, open_engine
from ..protocols.psp import Profile as PSPProfile
from ..sa import Direction, Mode, Outer, Profile

INNER: Final = 64
"""Octets of a packet: short ones show what state costs."""
_BATCH: Final = 256
_CHUNK: Final = 10_000
_SLICES: Final = 12
_BATCHES: Final = 12  # of a slice
_FIRST_SPI: Final = 0x1000
_HERE, _THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")


class Pair(Protocol):
    """A sender with many connections to a receiver."""

    def install(self, first: int, count: int) -> tuple[int, int]:
        """Add connections; return the octets that sender and receiver grow by."""

    def send(self, ids: NDArray[np.uint64], packets: Packets) -> Packets:
        """Protect a packet of each of these connections, numbered from 0."""

    def receive(self, packets: Packets) -> None:
        """Open them.   Raises AssertionError if one does not open."""


class PSPPair:
    """Keys in the sender's table; nothing at the receiver."""

    def __init__(self) -> None:
        self._receiver, self._sender = (psp.Device(engine="native", rotate_every=None) for _ in range(2))
        profile = PSPProfile(mode=Mode.TUNNEL, outer=Outer(_HERE, _THERE))
        self._table = psp.TransmitTable(self._sender, [profile])

    def install(self, first: int, count: int) -> tuple[int, int]:
        before = resident()
        self._table.install_many(*self._receiver.allocate_many(count))
        return resident() - before, 0

    def send(self, ids: NDArray[np.uint64], packets: Packets) -> Packets:
        return self._table.encapsulate_many(ids, packets).packets

    def receive(self, packets: Packets) -> None:
        assert not self._receiver.decapsulate_many(packets).codes.any()


class ESPPair:
    """An SA at each end."""

    def __init__(self) -> None:
        self._receiver, self._sender = open_engine("native"), open_engine("native")
        self._profile = Profile("aes-gcm-16", outer=Outer(_HERE, _THERE))
        self._first = 0

    def install(self, first: int, count: int) -> tuple[int, int]:
        spis = np.arange(_FIRST_SPI + first, _FIRST_SPI + first + count, dtype=np.uint32)
        keys = np.zeros((count, 20), np.uint8)  # 16 octets of key, and the salt
        keys[:, :4] = spis.view(np.uint8).reshape(-1, 4)
        empty = resident()
        ids = self._sender.install_many(self._profile, Direction.OUT, spis, keys)
        middle = resident()
        self._receiver.install_many(self._profile, Direction.IN, spis, keys)
        if not first:
            self._first = int(ids[0])
        return middle - empty, resident() - middle

    def send(self, ids: NDArray[np.uint64], packets: Packets) -> Packets:
        return self._sender.encapsulate_many(ids + np.uint64(self._first), packets, 0).packets

    def receive(self, packets: Packets) -> None:
        assert not self._receiver.decapsulate_many(packets, 0).codes.any()


def weigh(pair: Pair, connections: int, packets: Packets) -> tuple[int, int]:
    """Install connections and send a packet through each; return the octets that sender and receiver have grown by."""
    chunk = len(packets)
    sender = receiver = 0
    for first in range(0, connections, chunk):
        grown = pair.install(first, min(chunk, connections - first))
        sender, receiver = sender + grown[0], receiver + grown[1]
    few = np.zeros(chunk, np.uint64)
    for _ in range(3):  # so that buffers of batches, which do not grow with connections, are there
        pair.receive(pair.send(few, packets))
    for first in range(0, connections, chunk):
        # The last chunk begins earlier, so that all are as long.
        ids = np.arange(chunk, dtype=np.uint64) + np.uint64(max(min(first, connections - chunk), 0))
        before = resident()
        sealed = pair.send(ids % np.uint64(connections), packets)
        middle = resident()
        pair.receive(sealed)
        sender, receiver = sender + middle - before, receiver + resident() - middle
    return max(sender, 0), max(receiver, 0)


def rates(pair: Pair, connections: int, packets: Packets, random: np.random.Generator) -> tuple[float, float]:
    """Return packets/s sent and received, each of a connection drawn at random, of the fastest slices."""
    sent, received = [], []
    for _ in range(_SLICES):
        sending = receiving = 0
        for _ in range(_BATCHES):
            ids = random.integers(0, connections, len(packets)).astype(np.uint64)
            start = time.perf_counter_ns()
            sealed = pair.send(ids, packets)
            middle = time.perf_counter_ns()
            pair.receive(sealed)
            sending, receiving = sending + middle - start, receiving + time.perf_counter_ns() - middle
        sent.append(sending)
        received.append(receiving)
    done = 1e9 * _BATCHES * len(packets)
    return done / min(sent), done / min(received)


def run(connections: int, rounds: int) -> dict[str, Any]:
    """Return what so many connections cost: octets of both ends, and the rounds' rates, of PSP and of ESP."""
    head = b"\x45\x00" + INNER.to_bytes(2, "big") + bytes.fromhex("00004000401100000a0000010a000002 30390035")
    packet = head + bytes(INNER - len(head))
    chunk, batch = Packets.of([packet] * min(_CHUNK, connections)), Packets.of([packet] * _BATCH)
    pairs: dict[str, Pair] = {}
    kept = []  # what is freed would be found again, and not be seen to grow
    found: dict[str, Any] = {"connections": connections}
    for name, make in (("psp", PSPPair), ("esp", ESPPair)):
        warm: Pair = make()
        warm.install(0, len(chunk))
        kept.append(warm)
        for _ in range(3):
            warm.receive(warm.send(np.zeros(len(chunk), np.uint64), chunk))
        pairs[name] = make()
        sender, receiver = weigh(pairs[name], connections, chunk)
        found[name] = {"sender": sender, "receiver": receiver, "sent": [], "received": []}
    random = np.random.default_rng(1)
    for turn in range(-1, rounds):
        for name in ("psp", "esp") if turn % 2 else ("esp", "psp"):  # neither always comes second
            sent, received = rates(pairs[name], connections, batch, random)
            if turn >= 0:
                found[name]["sent"].append(sent)
                found[name]["received"].append(received)
    return found


def resident() -> int:
    """Return the octets of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]))))
