"""Links of a lab: a plain veth pair, or one with a forwarder between its ends."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .capture import RING_OCTETS, SNAP_OCTETS, LabCapture
from .client import Client, LabGone
from .impair import KEYS
from .node import Interface, Node

if TYPE_CHECKING:
    from .lab import Lab

WIRE = "~wire"
"""The network namespace that holds the forwarders' interfaces; no node can have this name."""
_MAX_MESSAGE = 1 << 16
_ANSWER_S = 20.0


def forwarder_address(number: int) -> str:
    """Return where the forwarder of a link listens, in the namespace of the wires."""
    return f"\0link-{number}"


def ask_forwarder(client: Client, number: int, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request to the forwarder of a link and return its answer.   Raises ConfigError, LabGone."""
    with client.socket(WIRE, socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.settimeout(_ANSWER_S)
        try:
            control.connect(forwarder_address(number))
            control.send(json.dumps(request).encode())
            data = control.recv(_MAX_MESSAGE)
        except (ConnectionError, BrokenPipeError):
            data = b""
    if not data:
        raise LabGone(f"the forwarder of link {number} has ended")
    answer: dict[str, Any] = json.loads(data)
    if "error" in answer:
        raise ConfigError(answer["error"])
    return answer


def both_ways(seen: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Return a plain link's counters, by the node that packets went toward, of its interfaces' by node."""
    one, other = seen
    return {
        there: {"received": seen[here]["tx_packets"], "sent": seen[there]["rx_packets"]}
        for here, there in ((one, other), (other, one))
    }


class Link:
    """A link between two nodes."""

    def __init__(self, lab: Lab, name: str, number: int, mtu: int, forwarded: bool) -> None:
        self.lab, self.name, self.number, self.mtu = lab, name, number, mtu
        self.forwarded = forwarded
        """Whether a forwarder stands between the ends, and `set` works."""
        self.ends: tuple[Interface, Interface]

    def __repr__(self) -> str:
        return f"<Link {self.name} mtu {self.mtu}{' forwarded' if self.forwarded else ''}>"

    def end(self, node: Node) -> Interface:
        """Return the end at a node.   Raises ConfigError."""
        return node.interface(self)

    def far(self, node: Node) -> Interface:
        """Return the end that is not at a node."""
        return self.ends[self.ends[0].node is node]

    def set(self, *, toward: Node | str | None = None, **impairment: Any) -> None:
        """Change what happens to packets from now on: loss, delay and so on as in `Lab.link`; None is the default.

        toward: only in the direction to this node.   Raises ConfigError, also on a link without a forwarder.
        """
        unknown = [key for key in impairment if key not in KEYS]
        if unknown:
            raise ConfigError("unknown impairment", key=unknown[0], expected=", ".join(KEYS))
        if not self.forwarded:
            raise ConfigError(
                f"link {self.name} is a plain veth pair",
                key=next(iter(impairment), ""),
                expected="forwarder=True in link()",
            )
        request = {"set": impairment, "toward": str(toward) if toward is not None else None}
        if toward is not None and str(toward) not in (end.node.name for end in self.ends):
            raise ConfigError(f"link {self.name} does not reach {toward}", key="toward", expected=self._nodes())
        ask_forwarder(self.lab.client, self.number, request)

    def counters(self) -> dict[str, dict[str, int]]:
        """Return what happened to packets, by the node that they went toward and by reason.

        received: at the end where they were sent. sent: out of the other end. With a forwarder also those of
        `impair.Counters`, and `not_sent` (the other end was down) and `overrun` (the forwarder could not keep up).
        """
        if self.forwarded:
            return {toward: each["counters"] for toward, each in self._ask({}).items()}
        return both_ways({end.node.name: end.node.netlink.statistics(end.name) for end in self.ends})

    def capture(
        self,
        path: str | os.PathLike[str],
        *,
        at: Node | None = None,
        snap: int = SNAP_OCTETS,
        ring: int = RING_OCTETS,
    ) -> LabCapture:
        """Capture into a pcapng file, an interface for each end, named like `a/eth0`.

        By default a plain link is watched at its first end, one with a forwarder at both: packets stand twice, as sent
        and as they arrived.   at: watch only the end at a node.   See `Node.capture`.
        """
        ends = [node_end for node_end in self.ends if at in (None, node_end.node)]
        return self.lab.capture(path, ends if self.forwarded else ends[:1], snap=snap, ring=ring)

    def down(self) -> None:
        """Pull the cable: both ends lose their carrier, or, of a plain link, are down."""
        for netlink, name in self._switches():
            netlink.set_up(name, False)

    def up(self) -> None:
        """Plug the cable in again, with addresses and routes as they were."""
        for netlink, name in self._switches():
            netlink.set_up(name)
        if not self.forwarded:
            for end in self.ends:
                end.node.restore(end)
        self.lab.refresh()
        self.lab.await_carrier(self)

    def describe(self) -> dict[str, Any]:
        """Return what `wesper lab show` tells of this link; counters are asked for when it is shown."""
        return {
            "name": self.name,
            "number": self.number,
            "ends": [{"node": end.node.name, "interface": end.name} for end in self.ends],
            "mtu": self.mtu,
            "forwarder": self.forwarded,
            "masquerade": next((end.node.name for end in self.ends if end.masqueraded), None),
        }

    def wait_for_forwarder(self) -> None:
        """Return when the forwarder carries packets."""
        self._ask({})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        return ask_forwarder(self.lab.client, self.number, request)

    def _nodes(self) -> str:
        return " or ".join(end.node.name for end in self.ends)

    def _switches(self) -> list[tuple[Any, str]]:
        if self.forwarded:
            return [(self.lab.wire(), wire_interface(self.number, place)) for place in (0, 1)]
        return [(end.node.netlink, end.name) for end in self.ends]


def wire_interface(number: int, place: int) -> str:
    """Return the name of the forwarder's interface at an end of a link.   place: 0 or 1."""
    return f"w{number}{'ab'[place]}"
