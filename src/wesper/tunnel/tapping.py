"""What a loop's tap saw, on its way to whoever asked: as JSON over the control socket, as a capture, as a walk."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..engine import walk as esp_walk
from ..engine.walk import Step
from ..errors import WesperError
from ..pcap import CaptureWriter, Interface, LinkType
from ..pcap.record import OPT_COMMENT, Option
from ..psp import walk as psp_walk
from ..sa import Direction
from ..verdict import DropReason
from .loop import Loop, Tapped

TAP_OCTETS: Final = 8 << 20
"""How much a tap keeps between two looks at it; what does not fit is lost, and counted (`tap_lost`)."""

# draft-ietf-opsawg-pcapng-03 §4.3.1: the two lowest bits say which way the packet went.
_EPB_FLAGS: Final = 2
_WAY: Final = {"in": b"\1\0\0\0", "out": b"\2\0\0\0"}


class BadAnswer(WesperError):
    """The daemon answered what makes no sense."""

    exit_code = 4


def as_json(seen: Tapped) -> dict[str, Any]:
    """Return a tapped packet with stable names."""
    return {
        "time_ns": seen.time_ns,
        "side": seen.side,
        "direction": seen.direction,
        "packet": base64.b64encode(seen.packet).decode(),
        "reason": None if seen.reason is None else seen.reason.name,
    }


def from_json(found: Mapping[str, Any]) -> Tapped:
    """Return the packet that `as_json` told of.   Raises BadAnswer."""
    try:
        reason = found["reason"]
        packet = base64.b64decode(found["packet"], validate=True)
        if found["side"] not in ("inner", "outer") or found["direction"] not in ("in", "out"):
            raise ValueError("neither side nor direction")
        return Tapped(
            int(found["time_ns"]),
            found["side"],
            found["direction"],
            packet,
            None if reason is None else DropReason[reason],
        )
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise BadAnswer(f"the daemon tells of a packet what makes no sense: {error}") from None


class TapHub:
    """Gives what a loop's tap sees to any number of takers.   The tap is open as long as there is one.

    Driven from outside: call `pump` a few times a second while `is_open`.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._takers: list[Callable[[Sequence[Tapped]], bool]] = []

    @property
    def is_open(self) -> bool:
        """Whether anybody takes."""
        return bool(self._takers)

    def join(self, take: Callable[[Sequence[Tapped]], bool]) -> None:
        """Add a taker.   take: gets packets in the order in which they passed, and returns whether it wants more."""
        if not self._takers:
            self._loop.tap(TAP_OCTETS)
        self._takers.append(take)

    def pump(self) -> None:
        """Hand out what has been seen since the last call; the tap is closed when nobody wants more."""
        if not self._takers:
            return
        seen = self._loop.tapped()
        self._takers = [take for take in self._takers if take(seen)]
        if not self._takers:
            self._loop.tap(0)


class SeenFile:
    """A capture with an interface for each side of a tunnel.

    Each packet says which way it went (flags) and, if it was dropped, why (a comment).   name: of the interface.
    """

    def __init__(self, writer: CaptureWriter, name: str) -> None:
        self._writer = writer
        about = {"inner": "packets of this host, in the clear", "outer": "packets on the wire, protected"}
        self._interfaces = {
            side: writer.add_interface(Interface(LinkType.RAW, name=f"{name}/{side}", description=text, tsresol=9))
            for side, text in about.items()
        }

    def write(self, seen: Tapped) -> None:
        """Append a packet.   Raises CaptureIOError."""
        options: tuple[Option, ...] = ((_EPB_FLAGS, _WAY[seen.direction]),)
        if seen.reason is not None:
            options += ((OPT_COMMENT, f"dropped: {seen.reason.verdict}: {seen.reason.sentence}".encode()),)
        self._writer.write(seen.packet, seen.time_ns, interface=self._interfaces[seen.side], options=options)


def walk_of(seen: Tapped, names: Mapping[int, str], protocol: str = "esp") -> list[Step] | None:
    """Return the walk of a packet that entered an engine; None for one that came out of it.

    names: what to call an SA, by its SPI.   protocol: that the tunnel runs.
    """
    if (seen.side, seen.direction) not in (("inner", "out"), ("outer", "in")):
        return None
    direction = Direction(seen.direction)
    is_psp = protocol == "psp"
    found = psp_walk.look(direction, seen.packet) if is_psp else esp_walk.look(direction, seen.packet, protocol)
    spi = found.get("key" if is_psp else "header", "").partition("SPI ")[2][:10]
    if spi and int(spi, 16) in names:
        found["association" if is_psp else "sa"] = names[int(spi, 16)]
    return (psp_walk.gateway_walk if is_psp else esp_walk.walk)(direction, seen.reason, found)
