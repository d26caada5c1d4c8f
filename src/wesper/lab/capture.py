"""Captures of a lab's interfaces, several in one pcapng file, by a process of their own.

The process writes until its standard input ends, then what had come by then, and tells on its standard output how much
that was.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import WesperError
from ..pcap import CaptureWriter, Interface, LinkType, create_capture
from .rings import BlockRing

SNAP_OCTETS = 65_550
RING_OCTETS = 32 << 20
_SETTLE_S = 0.03  # three times as long as a block may wait for the next frame


class LabCapture:
    """A capture that runs.   Close it, or leave it as a context manager, to have a whole file under its name."""

    def __init__(self, process: subprocess.Popen[str], path: Path) -> None:
        self.path = path
        self.packets = 0
        """Packets written, known once it is closed."""
        self.overrun = 0
        """Packets that came faster than they could be written, known once it is closed."""
        self._process = process
        self._closed = False
        assert process.stdout is not None
        if not process.stdout.readline():
            raise self._failure()

    def close(self) -> None:
        """Write what is left and complete the file.   Raises WesperError if it could not be written."""
        if self._closed:
            return
        self._closed = True
        out, _ = self._process.communicate()
        if self._process.returncode != 0 or not out:
            raise self._failure()
        counted = json.loads(out)
        self.packets, self.overrun = counted["packets"], counted["overrun"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failure(self) -> WesperError:
        self._closed = True
        self._process.communicate()
        return CaptureFailed(f"the capture {self.path} ended early")


class CaptureFailed(WesperError):
    """A capture could not be written; why stands on standard error."""

    exit_code = 4


def main(words: dict[str, Any]) -> None:
    """Capture.   words: path, snap, ring; `interfaces`, each with name, interface, descriptor."""
    rings = []
    with create_capture(Path(words["path"])) as writer:
        for each in words["interfaces"]:
            sock = socket.socket(fileno=each["descriptor"])
            rings.append(BlockRing(sock, each["interface"], words["snap"], words["ring"]))
            writer.add_interface(Interface(LinkType.ETHERNET, snap_octets=words["snap"], name=each["name"], tsresol=9))
        print("ready", flush=True)
        packets = 0
        stopping: float | None = None
        while stopping is None or time.monotonic() < stopping:
            ready, _, _ = select.select([*rings, *([sys.stdin] if stopping is None else [])], [], [], _SETTLE_S)
            if sys.stdin in ready:
                stopping = time.monotonic() + _SETTLE_S
            written = _write(writer, rings)
            packets += written
            if stopping is not None and written:
                stopping = max(stopping, time.monotonic() + _SETTLE_S / 3)
    print(json.dumps({"packets": packets, "overrun": sum(ring.overrun() for ring in rings)}), flush=True)


def _write(writer: CaptureWriter, rings: list[BlockRing]) -> int:
    """Write what has come, of all interfaces in the order of time."""
    frames = [(frame, number) for number, ring in enumerate(rings) for frame in ring.frames()]
    if len(rings) > 1:
        frames.sort(key=lambda each: each[0].timestamp_ns)
    for frame, number in frames:
        writer.write(frame.data, frame.timestamp_ns, interface=number, original_octets=frame.original_octets)
    return len(frames)


def program() -> None:
    """Do what the program's argument says."""
    try:
        main(json.loads(sys.argv[1]))
    except WesperError as failure:
        print(f"wesper: {failure}", file=sys.stderr)
        sys.exit(failure.exit_code)
