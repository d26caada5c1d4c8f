"""Which way packets go in a topology: shortest paths over those nodes that forward."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from .netlink import Address

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link."""

    node: str
    interface: str
    addresses: tuple[Address, ...]
    masqueraded: bool = False
    """The node hides what is behind it from the other end."""


@dataclass(frozen=True, slots=True)
class Route:
    """What goes to a network goes to a gateway behind an interface."""

    network: Network
    gateway: Address
    interface: str


def routes_of(node: str, links: Sequence[tuple[End, End]], forwarding: Collection[str]) -> list[Route]:
    """Return the routes that a node needs to every network that it is not on itself; of equal paths the first's."""
    around: dict[str, list[tuple[End, End]]] = {}
    for one, other in links:
        around.setdefault(one.node, []).append((one, other))
        around.setdefault(other.node, []).append((other, one))
    known = {address.network for near, _ in around.get(node, ()) for address in near.addresses}
    found = []
    seen = {node}
    steps = deque((near, far, far) for near, far in around.get(node, ()))  # first hop's two ends, and where we are
    while steps:
        first, gateway, far = steps.popleft()
        if far.node in seen or far.node not in forwarding or far.masqueraded:
            continue
        seen.add(far.node)
        for onward, beyond in around[far.node]:
            for address in onward.addresses:
                by = next((each for each in gateway.addresses if each.version == address.version), None)
                if address.network not in known and by is not None:
                    known.add(address.network)
                    found.append(Route(address.network, by, first.interface))
            steps.append((first, gateway, beyond))
    return found
