"""The flows that a router's network card would count, by a program that has no key: XDP, on one of its interfaces."""

from __future__ import annotations

import os
import socket
from collections import Counter as Tally
from typing import Final, Self

from ..errors import UnsupportedError, WesperError
from ..lab import Interface
from ..nic import Counter

FLOW_FIELDS: Final[dict[str, str]] = {"wespv2": "wespv2.flow.identifier", "eesp": "eesp.session_id"}
"""By protocol the field that names its flows; the others have none."""
NEEDS: Final = "root, and apt-get install clang libbpf-dev bpftool"

_PATIENCE_S = 30.0


class Counting:
    """A context in which an interface counts what comes in there, of one protocol.

    The kernel attaches programs to interfaces of the caller's own network, so a copy of this process does it there.
    Raises UnsupportedError where that can not be.
    """

    def __init__(self, interface: Interface, protocol: str) -> None:
        if os.geteuid() != 0:
            raise UnsupportedError("an XDP program", NEEDS)
        self._told, there = socket.socketpair()
        self._told.settimeout(_PATIENCE_S)
        with there:
            self._call = interface.node.start(_count, there, interface.name, protocol)
        try:
            if not self._told.recv(1):
                self._call.result(_PATIENCE_S)
        except BaseException as error:
            self._end()
            if isinstance(error, WesperError):
                why = error.needs if isinstance(error, UnsupportedError) else error
                raise UnsupportedError("an XDP program", f"{NEEDS} ({why})") from None
            raise

    def flows(self) -> dict[int, int]:
        """Return how many packets each flow had, and stop.   0 is the flow of what has no name."""
        self._told.send(b".")
        return self._call.result(_PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._told.close()
        self._call.kill()


def _count(told: socket.socket, interface: str, protocol: str) -> dict[int, int]:
    """Count until told to stop; runs in the interface's node."""
    with Counter(interface, {protocol: FLOW_FIELDS.get(protocol, "")}) as counter:
        told.send(b".")
        told.recv(1)
        found = Tally[int]()
        for each in counter.counts():
            found[each.flow] += each.packets
    return dict(found)
