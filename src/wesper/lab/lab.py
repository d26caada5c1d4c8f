"""A lab: hosts, routers and links between them, made of network namespaces and gone with the process."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from ipaddress import ip_interface, ip_network
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from ..errors import ConfigError, UnsupportedError
from .call import Call
from .capture import RING_OCTETS, SNAP_OCTETS, LabCapture
from .client import Client
from .impair import Impairment
from .link import WIRE, Link, forwarder_address, wire_interface
from .masquerade import masquerade
from .netlink import NETLINK_NETFILTER, NETLINK_ROUTE, Address, Netlink, NetlinkError
from .node import Host, Interface, Node, Router
from .routes import End, routes_of

SCHEMA = 1
NodeKind = TypeVar("NodeKind", bound=Node)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}")
_MIN_MTU, _MIN_MTU_IPV6, _MAX_MTU = 68, 1280, 65535
_MAX_FORWARDED_MTU = 16000
_CARRIER_S = 10.0


class Lab:
    """Hosts and routers that exist only here.

    Works without privilege where user namespaces are allowed, and as root; nothing of this machine's own network is
    touched. All ends with `close`, with the process, or with its death.

        with Lab() as lab:
            a, r, b = lab.host("a"), lab.router("r"), lab.host("b")
            lab.link(a, r)
            lab.link(r, b, mtu=1400, delay="10ms", loss="1%", seed=7)
            print(a.ping(b))

    name: that others find it by; of the process id if None.   seed: for links that are given none of their own; None is
    a new one each time.   Raises UnsupportedError where there are no namespaces, ConfigError if the name is taken.
    """

    def __init__(self, name: str | None = None, *, seed: int | str | None = None) -> None:
        if name is not None and not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no name", key="name", expected=_NAME.pattern)
        self.seed = seed
        self.nodes: dict[str, Node] = {}
        self.links: dict[str, Link] = {}
        self.client = Client.start(name)
        self.name = self.client.name
        self._wire: Netlink | None = None
        self._running: list[subprocess.Popen[Any] | Call[Any]] = []
        self._unsettled: list[Link] = []
        self._ipv6 = Path("/proc/sys/net/ipv6").exists()
        self.client.describe(self.describe())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Node:
        """Return a node by its name.   Raises ConfigError."""
        if name not in self.nodes:
            raise ConfigError(f"there is no node {name}", key=name, expected=", ".join(self.nodes))
        return self.nodes[name]

    def __iter__(self) -> Iterator[Node]:
        """Yield the nodes in the order they were made, so that `a, r, b = lab`."""
        return iter(self.nodes.values())

    def close(self) -> None:
        """End all that runs in the lab, and the lab. Does nothing the second time."""
        self.client.close()
        for each in self._running:
            if isinstance(each, Call):
                each.kill()
            else:
                each.wait()
        self._running.clear()
        for node in self.nodes.values():
            node.close()
        self.nodes.clear()
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def host(self, name: str) -> Host:
        """Make a host."""
        return self._add(Host, name)

    def router(self, name: str) -> Router:
        """Make a router."""
        return self._add(Router, name)

    def link(
        self,
        one: Node | str,
        other: Node | str,
        *,
        name: str | None = None,
        mtu: int = 1500,
        networks: Sequence[str] | None = None,
        addresses: Mapping[str, Sequence[str]] | None = None,
        offloads: bool | None = None,
        forwarder: bool | None = None,
        seed: int | str | None = None,
        **impairment: Any,
    ) -> Link:
        """Link two nodes.

        networks: one IPv4 and one IPv6 network, whose first two addresses the ends take; by default 10.0.N.0/24 and
        fd00:N::/64 for the Nth link. addresses: those of each node by name, with prefix lengths, instead.
        offloads: whether segmentation and checksums are left to the interfaces; by default on a plain link only.
        forwarder: put one between the ends even if nothing is impaired yet, so that `Link.set` can do it later.
        seed: the same seed, the same packets: the same fate.   impairment: loss, delay, jitter, reorder, duplicate,
        rate, queue, drop_above, as `Impairment.of` takes them.   Raises ConfigError.
        """
        nodes = [node if isinstance(node, Node) else self[node] for node in (one, other)]
        impaired = Impairment.of(**impairment)
        if nodes[0] is nodes[1]:
            raise ConfigError("a link needs two nodes", key="ends")
        if forwarder is False and not impaired.is_none:
            raise ConfigError("packets are impaired by a forwarder alone", key="forwarder", expected="true")
        forwarded = bool(forwarder) or not impaired.is_none
        if forwarded and offloads:
            raise ConfigError("a forwarder carries frames one by one", key="offloads", expected="false")
        most = _MAX_FORWARDED_MTU if forwarded else _MAX_MTU
        if not _MIN_MTU <= mtu <= most:
            raise ConfigError(f"{mtu} is no MTU for this link", key="mtu", expected=f"{_MIN_MTU}..{most}")
        number = len(self.links) + 1
        given = self._addresses(nodes, number, mtu, networks, addresses)
        name = self._link_name(nodes, name)
        link = Link(self, name, number, mtu, forwarded)
        link.ends = (
            Interface(nodes[0], f"eth{len(nodes[0].interfaces)}", _mac(nodes[0]), mtu, link),
            Interface(nodes[1], f"eth{len(nodes[1].interfaces)}", _mac(nodes[1]), mtu, link),
        )
        if forwarded:
            self._connect_to_forwarder(link)
        else:
            here, there = link.ends
            nodes[0].netlink.add_veth(here.name, here.mac, there.name, there.mac, nodes[1].namespace, mtu)
        for end, each in zip(link.ends, given, strict=True):
            end.node.interfaces.append(end)
            netlink = end.node.netlink
            if self._ipv6:
                netlink.without_link_local(end.name)
            if offloads is False or forwarded:
                end.set_offloads(segmentation=False, checksum=False)
            for address in each:
                netlink.add_address(end.name, address)
            end.addresses = each
            netlink.set_up(end.name)
        self.links[name] = link
        if forwarded:
            self._start_forwarder(link, impaired, self.seed if seed is None else seed)
        self._unsettled.append(link)
        self.refresh()
        return link

    def settle(self) -> None:
        """Return when every link carries packets. All that sends calls this by itself."""
        while self._unsettled:
            link = self._unsettled.pop()
            self.await_carrier(link)
            if link.forwarded:
                link.wait_for_forwarder()

    def capture(
        self,
        path: str | os.PathLike[str],
        interfaces: Sequence[Interface],
        *,
        snap: int = SNAP_OCTETS,
        ring: int = RING_OCTETS,
    ) -> LabCapture:
        """Capture on interfaces of any nodes into one pcapng file, from when this returns until it is closed.

        An interface shows what it sends and what it receives.   snap, ring: as in `Node.capture`.
        """
        self.settle()
        sockets = [each.node.socket(socket.AF_PACKET, socket.SOCK_RAW) for each in interfaces]
        words = {
            "path": os.fspath(path),
            "snap": snap,
            "ring": ring,
            "interfaces": [
                {"name": str(each), "interface": each.name, "descriptor": sock.fileno()}
                for each, sock in zip(interfaces, sockets, strict=True)
            ],
        }
        process = self._start("capture", words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for sock in sockets:
            sock.close()
        return LabCapture(process, Path(path))

    def describe(self) -> dict[str, Any]:
        """Return what the lab looks like, as plain values."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "pid": os.getpid(),
            "nodes": [node.describe() for node in self],
            "links": [link.describe() for link in self.links.values()],
        }

    def refresh(self) -> None:
        """Work out routes and neighbours again, and leave the new description with the keeper."""
        links = [(_as_end(link.ends[0]), _as_end(link.ends[1])) for link in self.links.values()]
        forwarding = {node.name for node in self if isinstance(node, Router)}
        for node in self:
            node.apply(routes_of(node.name, links, forwarding))
        self.client.describe(self.describe())

    def masquerade(self, router: Router, interface: Interface, *, random_ports: bool = False) -> None:
        """See `Router.masquerade`."""
        if any(each.masqueraded for each in router.interfaces):
            raise ConfigError(f"{router.name} masquerades already", key="masquerade", expected="once a router")
        netfilter = Netlink(router.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER))
        try:
            masquerade(netfilter, interface.name, random_ports=random_ports)
        except NetlinkError as error:
            raise UnsupportedError("NAT", f"the kernel's nf_tables with nft_masq ({error})") from None
        finally:
            netfilter.close()
        interface.masqueraded = True
        self.refresh()

    def remember(self, what: subprocess.Popen[Any] | Call[Any]) -> None:
        """Wait for this when the lab is closed, by when it is killed."""
        self._running = [each for each in self._running if isinstance(each, Call) or each.poll() is None]
        self._running.append(what)

    def wire(self) -> Netlink:
        """Return netlink in the namespace where the forwarders' interfaces are."""
        if self._wire is None:
            os.close(self.client.namespace(WIRE, create=True))
            self.client.sysctl(WIRE, {"net/ipv6/conf/default/disable_ipv6": "1"})
            self._wire = Netlink(self.client.socket(WIRE, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE))
        return self._wire

    def await_carrier(self, link: Link) -> None:
        """Return when both ends of a link that is up send and take packets."""
        until = time.monotonic() + _CARRIER_S
        while not all(end.is_ready() for end in link.ends):
            if time.monotonic() > until:
                raise UnsupportedError(f"link {link.name}", "its interfaces got no carrier")
            time.sleep(0.001)

    def _add(self, kind: type[NodeKind], name: str) -> NodeKind:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no name", key="name", expected=_NAME.pattern)
        if name in self.nodes:
            raise ConfigError(f"there is a node {name} already", key="name", expected="another name")
        node = kind(self, name, len(self.nodes) + 1)
        self.nodes[name] = node
        self.client.describe(self.describe())
        return node

    def _addresses(
        self,
        nodes: Sequence[Node],
        number: int,
        mtu: int,
        networks: Sequence[str] | None,
        addresses: Mapping[str, Sequence[str]] | None,
    ) -> list[list[Address]]:
        """Return the addresses of both ends."""
        if addresses is not None:
            names = {str(key): value for key, value in addresses.items()}
            unknown = set(names) - {node.name for node in nodes}
            if unknown:
                raise ConfigError(f"{unknown.pop()} is not at this link", key="addresses")
            try:
                return [[ip_interface(each) for each in names.get(node.name, ())] for node in nodes]
            except ValueError as error:
                raise ConfigError(str(error), key="addresses", expected='"192.0.2.1/24" and the like') from None
        if networks is None:
            networks = [f"10.{number >> 8}.{number & 255}.0/24", f"fd00:{number:x}::/64"]
            if mtu < _MIN_MTU_IPV6 or not self._ipv6:  # RFC 8200 §5
                networks = networks[:1]
        try:
            nets = [ip_network(each) for each in networks]
            # Networks of two addresses have none to spare: RFC 3021 §2.1, RFC 6164 §5.
            return [
                [ip_interface((net[place + (net.num_addresses > 2)], net.prefixlen)) for net in nets]
                for place in (0, 1)
            ]
        except (ValueError, IndexError) as error:
            raise ConfigError(str(error), key="networks", expected='["192.0.2.0/24", "2001:db8::/64"]') from None

    def _link_name(self, nodes: Sequence[Node], name: str | None) -> str:
        if name is not None:
            if name in self.links:
                raise ConfigError(f"there is a link {name} already", key="name", expected="another name")
            return name
        base = f"{nodes[0].name}-{nodes[1].name}"
        names = [base, *(f"{base}.{number}" for number in range(2, len(self.links) + 3))]
        return next(each for each in names if each not in self.links)

    def _connect_to_forwarder(self, link: Link) -> None:
        wire = self.wire()
        namespace = self.client.namespace(WIRE)
        for place, end in enumerate(link.ends):
            inner = wire_interface(link.number, place)
            mac = bytes((2, 0xFF, 0, link.number >> 8, link.number & 255, place))
            end.node.netlink.add_veth(end.name, end.mac, inner, mac, namespace, link.mtu)
            wire.set_up(inner)
        os.close(namespace)

    def _start_forwarder(self, link: Link, impairment: Impairment, seed: int | str | None) -> None:
        sockets = [self.client.socket(WIRE, socket.AF_PACKET, socket.SOCK_RAW) for _ in link.ends]
        with self.client.socket(WIRE, socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(forwarder_address(link.number))
            listener.listen()
            words = {
                "ends": [
                    {
                        "node": end.node.name,
                        "interface": wire_interface(link.number, place),
                        "descriptor": sock.fileno(),
                    }
                    for place, (end, sock) in enumerate(zip(link.ends, sockets, strict=True))
                ],
                "listener": listener.fileno(),
                "mtu": link.mtu,
                "impairment": asdict(impairment),
                # Links of one lab seed must not share their fate.
                "seed": None if seed is None else f"{seed} {link.name}",
            }
            self._start("forwarder", words, passed=[listener.fileno()], stdin=subprocess.DEVNULL)
        for sock in sockets:
            sock.close()

    def _start(
        self, module: str, words: dict[str, Any], passed: Sequence[int] = (), **options: Any
    ) -> subprocess.Popen[Any]:
        """Start one of the lab's own programs, which need no network but the sockets they are given."""
        descriptors = [*passed, *(each["descriptor"] for each in words.get("interfaces") or words["ends"])]
        code = f"from wesper.lab.{module} import program; program()"
        program = [sys.executable, "-P", "-c", code, json.dumps(words)]
        process = subprocess.Popen(
            self.client.command(-1, program),
            pass_fds=[*descriptors, *self.client.descriptors(-1)],
            start_new_session=True,  # an interrupt at the terminal is not for them
            **options,
        )
        self.remember(process)
        return process


def _mac(node: Node) -> bytes:
    """Return the next interface's address, locally administered (IEEE 802 §8.4), the same in every run."""
    return bytes((2, 0, 0, node.number >> 8, node.number & 255, len(node.interfaces)))


def _as_end(interface: Interface) -> End:
    return End(interface.node.name, interface.name, tuple(interface.addresses), interface.masqueraded)
