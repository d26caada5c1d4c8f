"""The interface's place in this host: addresses, MTU, routes and rules, made when a tunnel comes up, gone when it ends.

Packets for the networks behind a peer are routed to the interface. Where the peer's own address is among them
(transport mode, a default route) the protected packets would come back to it: then the routes stand in a table of their
own, which a rule keeps from packets that bear the links' mark.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from ..host.netlink import NETLINK_ROUTE, RT_TABLE_MAIN, Netlink, NetlinkError, Rule
from ..protocols.ip import IPAddress
from .file import Network, TunnelSettings

PRIORITY = 5120  # of rules: before that of table main (32766)
_READY_S = 2.0

Address = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Plan:
    """What a host's network gets.

    networks: routed to the interface.   mark: of the links' packets; 0: no table of its own is needed.
    table: where the routes stand.   rules: who looks there.
    """

    name: str
    addresses: tuple[Address, ...]
    networks: tuple[Network, ...]
    mark: int
    table: int
    rules: tuple[Rule, ...]

    def described(self) -> list[str]:
        """Return the steps as `ip` would be told."""
        table = f" table {self.table}" if self.mark else ""
        return [
            *(f"ip address add {each} dev {self.name}" for each in self.addresses),
            *(f"ip route add {each} dev {self.name}{table}" for each in self.networks),
            *(
                f"ip -{rule.version} rule add priority {rule.priority} "
                + (
                    f"table main suppress_prefixlength {rule.suppress}"
                    if rule.suppress is not None
                    else f"not fwmark {rule.mark:#x} table {rule.table}"
                )
                for rule in self.rules
            ),
        ]


def plan(name: str, addresses: Sequence[Address], tunnels: Sequence[TunnelSettings]) -> Plan:
    """Return what tunnels need of a host's network."""
    networks = tuple(dict.fromkeys(network for each in tunnels for network in each.routed()))
    peers = [each.peer for each in tunnels if each.peer is not None]
    open_peers = any(each.peer is None for each in tunnels)
    own_table = any(_covers(network, peers, open_peers) for network in networks)
    if not own_table:
        return Plan(name, tuple(addresses), networks, 0, RT_TABLE_MAIN, ())
    # The same number for the same name: what a killed daemon left is taken over by the next one.
    mark = 0x57450000 | zlib.crc32(name.encode()) & 0xFFFF
    rules = []
    for version in sorted({network.version for network in networks}):
        # A default route must not hide what this host knows better, as wg-quick has it; a host's address must.
        if all(network.prefixlen == 0 for network in networks if network.version == version):
            rules.append(Rule(version, PRIORITY, 0, RT_TABLE_MAIN, suppress=0))
        rules.append(Rule(version, PRIORITY + 1, mark, mark, inverted=True))
    return Plan(name, tuple(addresses), networks, mark, mark, tuple(rules))


def _covers(network: Network, peers: Iterable[IPAddress], open_peers: bool) -> bool:
    return (open_peers and network.prefixlen == 0) or any(
        peer.version == network.version and peer in network for peer in peers
    )


class Routes:
    """What was made of a plan, to be changed and taken away again."""

    def __init__(self) -> None:
        self._opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self._netlink = Netlink(self._opened)
        self._plan: Plan | None = None

    def apply(self, wanted: Plan) -> None:
        """Make it so; what an earlier plan had and this one has not goes.   Raises NetlinkError."""
        netlink, before = self._netlink, self._plan
        if before is None:
            netlink.set_up(wanted.name)
        for address in wanted.addresses:
            netlink.add_address(wanted.name, address)
        self._await(wanted)
        own = {each.version: each.ip.packed for each in reversed(wanted.addresses)}
        for network in wanted.networks:
            source = own.get(network.version, b"") if wanted.table == RT_TABLE_MAIN else b""
            netlink.add_route(str(network), b"", wanted.name, table=wanted.table, source=source)
        for rule in wanted.rules:
            try:
                netlink.add_rule(rule)
            except NetlinkError as error:
                if error.number != errno.EEXIST:
                    raise
        if before is not None:
            for network in before.networks:
                if network not in wanted.networks or before.table != wanted.table:
                    with contextlib.suppress(NetlinkError):
                        netlink.delete_route(str(network), b"", before.name, table=before.table)
            for rule in before.rules:
                if rule not in wanted.rules:
                    with contextlib.suppress(NetlinkError):
                        netlink.delete_rule(rule)
            for address in before.addresses:
                if address not in wanted.addresses:
                    with contextlib.suppress(NetlinkError):
                        netlink.delete_address(before.name, address)
        self._plan = wanted

    def has_interface(self, name: str) -> bool:
        """Tell whether there is such an interface."""
        return self._netlink.whose(name) is not None

    def set_mtu(self, name: str, mtu: int) -> None:
        """Change the interface's MTU."""
        self._netlink.set_mtu(name, mtu)

    def remove(self) -> None:
        """Take away what does not vanish with the interface."""
        if self._plan is not None:
            for rule in self._plan.rules:
                with contextlib.suppress(NetlinkError):
                    self._netlink.delete_rule(rule)
            self._plan = None

    def close(self) -> None:
        """Let go of the socket."""
        self._opened.close()

    def _await(self, wanted: Plan) -> None:
        """IPv6 addresses need a moment when an interface comes up; packets to them would be lost till then."""
        until = time.monotonic() + _READY_S
        while not all(map(self._netlink.has_address, wanted.addresses)) and time.monotonic() < until:
            time.sleep(0.002)
