"""What is sent through a tunnel to measure it, and what a slice of that shows."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ..errors import WesperError
from ..lab import Node

_PROGRAM: Final = Path(__file__).with_name("tunnel_traffic.py")
_HEADERS: Final = {4: 20 + 8, 6: 40 + 8}  # IP and UDP


class TrafficFailed(WesperError):
    """Traffic did not come about, or did not arrive."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Load:
    """Traffic from one host to another.

    kind: tcp or udp.   streams: connections or sockets.   octets: of a datagram, IP header included.
    bps: of whole datagrams a second; 0 is all that goes.
    """

    kind: str
    streams: int = 1
    octets: int = 0
    bps: float = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """What a slice of a load has shown.

    bps: bits a second that arrived, of TCP's or UDP's payload.   pps: datagrams a second that arrived.
    cores: processor time that the tunnel's own processes took, at both ends together, a second.
    """

    bps: float
    pps: float
    cores: float

    @property
    def bps_per_core(self) -> float:
        """Bits a second for each core that the tunnel's processes kept busy."""
        return self.bps / self.cores if self.cores else 0.0

    @property
    def cores_per_gbps(self) -> float:
        """Cores kept busy for each Gbit/s that arrived."""
        return self.cores / self.bps * 1e9 if self.bps else 0.0


class Agent:
    """The traffic program in a host; `close` ends it, as the end of the lab does."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._process: subprocess.Popen[str] = node.spawn(
            [sys.executable, "-I", "-S", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt at the terminal is for the benchmark, which then ends it
        )

    def ask(self, operation: str, **words: Any) -> dict[str, Any]:
        """Send a request and return its answer.   Raises TrafficFailed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"op": operation, **words}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its program has ended"}
        if "error" in answer:
            raise TrafficFailed(f"traffic {operation} in {self._node}: {answer['error']}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the program and wait for that."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.kill()
        self._process.wait()


def measure_slice(
    load: Load,
    sender: Agent,
    receiver: Agent,
    address: str,
    processor_ns: Callable[[], int],
    *,
    warm_s: float,
    seconds: float,
) -> Sample:
    """Send a load to an address of the receiver and count there for so many seconds, once it has run for warm_s.

    processor_ns: returns the processor time that the tunnel's processes have had so far.   Raises TrafficFailed.
    """
    payload = load.octets - _HEADERS[6 if ":" in address else 4] if load.octets else 0
    pps = load.bps / 8 / load.octets if load.bps else 0.0
    port = receiver.ask("receive", kind=load.kind, address=address)["port"]
    with _stopped(receiver), _stopped(sender):
        sender.ask("send", kind=load.kind, address=address, port=port, streams=load.streams, octets=payload, pps=pps)
        time.sleep(warm_s)
        before = _Moment.take(receiver, processor_ns)
        time.sleep(seconds)
        after = _Moment.take(receiver, processor_ns)
    if after.octets == before.octets:
        raise TrafficFailed(f"nothing of {load.kind} to {address} arrived in {seconds} s")
    return after.since(before)


@contextlib.contextmanager
def _stopped(agent: Agent) -> Iterator[None]:
    try:
        yield
    finally:
        agent.ask("stop")


@dataclass(frozen=True, slots=True)
class _Moment:
    """What has arrived and what it has cost.   ns: when octets and packets were counted; cost_ns: when the cost was."""

    ns: int
    octets: int
    packets: int
    cost_ns: int
    cost: int

    @classmethod
    def take(cls, receiver: Agent, processor_ns: Callable[[], int]) -> _Moment:
        answer = receiver.ask("count")
        # On busy cores there may be milliseconds between the two, so each has its own clock.
        return cls(answer["ns"], answer["octets"], answer["packets"], time.monotonic_ns(), processor_ns())

    def since(self, before: _Moment) -> Sample:
        seconds = (self.ns - before.ns) / 1e9
        return Sample(
            8 * (self.octets - before.octets) / seconds,
            (self.packets - before.packets) / seconds,
            (self.cost - before.cost) / (self.cost_ns - before.cost_ns),
        )
