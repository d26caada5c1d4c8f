"""Hosts and routers of a lab, and their interfaces."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from ipaddress import ip_interface
from pathlib import Path
from socket import AF_INET, AF_NETLINK, AF_PACKET, SO_RCVBUF, SOCK_DGRAM, SOCK_RAW, SOL_SOCKET
from socket import socket as Socket
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConfigError, UnsupportedError
from ..host.offloads import set_offloads
from .call import Call
from .capture import RING_OCTETS, SNAP_OCTETS, LabCapture
from .echo import ping
from .masquerade import forget_flows
from .netlink import NETLINK_NETFILTER, NETLINK_ROUTE, Address, Netlink, NetlinkError
from .rings import ETH_P_ALL
from .routes import Network, Route

if TYPE_CHECKING:
    from .lab import Lab
    from .link import Link

T = TypeVar("T")
# include/uapi/linux/if_packet.h, asm-generic/socket.h
_SOL_PACKET, _PACKET_IGNORE_OUTGOING, _SO_RCVBUFFORCE = 263, 23, 33
_FRAMES_OCTETS = 4 << 20
_QUIET = {
    # Answers at once, of every kind, and no chatter on the wires.
    "net/ipv4/icmp_ratelimit": "0",
    "net/ipv4/icmp_msgs_per_sec": "1000000",
    "net/ipv6/icmp/ratelimit": "0",
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv4/ping_group_range": "0 0",
    # The first address of a network can go without the others.
    "net/ipv4/conf/all/promote_secondaries": "1",
}
_FORWARDING = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}


class Interface:
    """One end of a link."""

    def __init__(self, node: Node, name: str, mac: bytes, mtu: int, link: Link) -> None:
        self.node, self.name, self.mac, self.mtu, self.link = node, name, mac, mtu, link
        self.addresses: list[Address] = []
        """Those that the lab has given, with prefix lengths."""
        self.masqueraded = False
        """Whether what leaves here takes this interface's address."""

    def __repr__(self) -> str:
        return f"<Interface {self} {' '.join(map(str, self.addresses))}>"

    def __str__(self) -> str:
        return f"{self.node.name}/{self.name}"

    def address(self, version: int = 4) -> str:
        """Return the first address of an IP version, without prefix length.   Raises ConfigError if there is none."""
        for address in self.addresses:
            if address.version == version:
                return str(address.ip)
        raise ConfigError(f"{self} has no IPv{version} address", key="addresses")

    def frames(self) -> Socket:
        """Return a packet socket that is this end of the wire: what it reads has come in here, what is written leaves.

        For a guest whose network card this is to be (`wesper.kernel.Guest`), or a test's own frames. The node should
        have no address here then, so that its kernel answers nothing; on a plain link the far end's `offloads` must be
        off, or its frames are neither cut nor summed.   The caller closes it.
        """
        opened = self.node.socket(AF_PACKET, SOCK_RAW)
        try:
            opened.setsockopt(SOL_SOCKET, _SO_RCVBUFFORCE if os.geteuid() == 0 else SO_RCVBUF, _FRAMES_OCTETS)
            opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            opened.bind((self.name, ETH_P_ALL))
        except BaseException:
            opened.close()
            raise
        return opened

    def is_ready(self) -> bool:
        """Tell whether this end has a carrier and takes packets to its addresses."""
        netlink = self.node.netlink
        return netlink.has_carrier(self.name) and all(netlink.has_address(each) for each in self.addresses)

    def add_address(self, address: str) -> None:
        """Add an address with its prefix length; the others learn of it and of its network."""
        read = _read(address)
        self.node.netlink.add_address(self.name, read)
        if read not in self.addresses:
            self.addresses.append(read)
        self.node.lab.refresh()
        self.node.lab.await_carrier(self.link)

    def remove_address(self, address: str) -> None:
        """Take an address away; with the last of its network the routes there go too."""
        read = _read(address)
        if read not in self.addresses:
            known = ", ".join(map(str, self.addresses))
            raise ConfigError(f"{self} has no address {address}", key="address", expected=known)
        self.node.netlink.delete_address(self.name, read)
        self.addresses.remove(read)
        self.node.lab.refresh()

    def set_mtu(self, mtu: int) -> None:
        """Change the MTU of this end alone, at most to that of the link."""
        if mtu > self.link.mtu:
            raise ConfigError(f"{mtu} is more than the link's", key="mtu", expected=f"at most {self.link.mtu}")
        self.node.netlink.set_mtu(self.name, mtu)
        self.mtu = mtu
        self.node.lab.refresh()

    def set_offloads(self, *, segmentation: bool | None = None, checksum: bool | None = None) -> None:
        """Turn offloads on or off, see `offloads.set_offloads`. Behind a forwarder segmentation stays off."""
        if segmentation and self.link.forwarded:
            raise ConfigError("a forwarder carries frames one by one", key="segmentation", expected="off")
        with self.node.socket() as control:
            set_offloads(control, self.name, segmentation=segmentation, checksum=checksum)


class Node:
    """A network namespace with interfaces. Programs run in it see its network, and all else of this machine."""

    kind = "host"

    def __init__(self, lab: Lab, name: str, number: int) -> None:
        self.lab, self.name, self.number = lab, name, number
        self.interfaces: list[Interface] = []
        self.namespace = lab.client.namespace(name, create=True)
        """Descriptor of the network namespace."""
        self.netlink = Netlink(self._socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE))
        self._routes: dict[Network, Route] = {}
        self._neighbours: set[tuple[str, Address, bytes]] = set()
        lab.client.sysctl(name, _QUIET)  # those that can't be set are comforts only
        self.netlink.set_up("lo")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {' '.join(map(repr, self.interfaces))}>"

    def __str__(self) -> str:
        return self.name

    @property
    def address(self) -> str:
        """The first IPv4 address of the first interface."""
        return self._first().address(4)

    @property
    def address6(self) -> str:
        """The first IPv6 address of the first interface."""
        return self._first().address(6)

    def interface(self, link: Link | str) -> Interface:
        """Return this node's end of a link, or its interface of a name."""
        for each in self.interfaces:
            if link in (each.link, each.name, each.link.name):
                return each
        known = ", ".join(each.name for each in self.interfaces)
        raise ConfigError(f"{self.name} has no interface {link}", key="interface", expected=known)

    def spawn(self, command: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:
        """Start a program here.   options: those of `subprocess.Popen`, without `shell`.

        What is killed at the latest with the lab, whatever it has forked.   Raises FileNotFoundError.
        """
        words = [os.fspath(word) for word in command]
        search = options["env"].get("PATH") if options.get("env") else None
        if os.sep not in words[0] and shutil.which(words[0], path=search) is None:
            raise FileNotFoundError(2, os.strerror(2), words[0])
        self.lab.settle()
        client = self.lab.client
        passed = [*options.pop("pass_fds", ()), *client.descriptors(self.namespace)]
        process = subprocess.Popen(client.command(self.namespace, words), pass_fds=passed, **options)
        self.lab.remember(process)
        return process

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        check: bool = True,
        timeout: float | None = 60,
        input: str | bytes | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program here to its end and return what it said, as text.

        options: those of `subprocess.Popen`.   Raises CalledProcessError (its note has what went to stderr) unless
        check is off, TimeoutExpired, FileNotFoundError.
        """
        defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        defaults["stdin"] = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self.spawn(command, **{**defaults, **options}) as process:
            try:
                out, err = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(list(command), process.returncode, out, err)
        if check and done.returncode:
            failure = subprocess.CalledProcessError(done.returncode, done.args, out, err)
            failure.add_note(str(err).strip())
            raise failure
        return done

    def call(self, function: Callable[..., T], *args: Any, timeout: float | None = 60, **kwargs: Any) -> T:
        """Call a Python function here, in a forked copy of this process, and return what it returns.

        Any function will do, closures too; what it returns is pickled, what it changes is lost.
        Raises what it raises, TimeoutError, and CallDied.
        """
        call = self.start(function, *args, **kwargs)
        try:
            return call.result(timeout)
        finally:
            call.kill()

    def start(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Call[T]:
        """Start a Python function here, as `call` does; its `result()` waits for it."""
        self.lab.settle()
        call = Call(self.lab.client, self.namespace, function, args, kwargs)
        self.lab.remember(call)
        return call

    def socket(self, family: int = AF_INET, kind: int = SOCK_DGRAM, protocol: int = 0) -> Socket:
        """Return a socket of this node, for use in this very process. Raw and packet sockets need no privilege."""
        self.lab.settle()
        return self._socket(family, kind, protocol)

    def ping(
        self,
        to: Node | str,
        *,
        count: int = 1,
        octets: int = 56,
        version: int = 4,
        timeout: float = 2.0,
        fragment: bool = True,
    ) -> list[float | None]:
        """Send echo requests and return each round trip in seconds, None for one without an answer.

        to: a node, whose first address of the IP version is taken, or an address.   See `echo.ping`.
        """
        address = to if isinstance(to, str) else to.interfaces[0].address(version)
        return ping(self.socket, address, count=count, octets=octets, timeout=timeout, fragment=fragment)

    def capture(self, path: str | os.PathLike[str], *, snap: int = SNAP_OCTETS, ring: int = RING_OCTETS) -> LabCapture:
        """Capture on all interfaces of this node into a pcapng file: what an eavesdropper here sees.

        snap: octets kept of each packet.   ring: octets of memory for what is not yet written, an interface.
        """
        return self.lab.capture(path, self.interfaces, snap=snap, ring=ring)

    def restore(self, interface: Interface) -> None:
        """Bring back what the kernel forgets of an interface that was down."""
        for address in interface.addresses:
            self.netlink.add_address(interface.name, address)
        self._routes = {net: route for net, route in self._routes.items() if route.interface != interface.name}
        self._neighbours = {each for each in self._neighbours if each[0] != interface.name}

    def apply(self, routes: Sequence[Route]) -> None:
        """Make these the routes that the lab has set here, and name the neighbours of each interface."""
        wanted = {route.network: route for route in routes}
        for network, route in list(self._routes.items()):
            if network not in wanted:
                # A route may have gone with its interface's address.
                try:
                    self.netlink.delete_route(str(network), route.gateway.packed, route.interface)
                except NetlinkError as error:
                    if error.number not in (3, 101):  # ESRCH, ENETUNREACH
                        raise
                del self._routes[network]
        for interface in self.interfaces:
            far = interface.link.far(self)
            for address in far.addresses:
                key = (interface.name, address, far.mac)
                on_link = any(address.ip in own.network for own in interface.addresses)
                if on_link and key not in self._neighbours:
                    self.netlink.add_neighbour(interface.name, address.packed, far.mac)
                    self._neighbours.add(key)
        for network, route in wanted.items():
            if self._routes.get(network) != route:
                self.netlink.add_route(str(network), route.gateway.packed, route.interface)
                self._routes[network] = route

    def describe(self) -> dict[str, Any]:
        """Return what `wesper lab show` tells of this node."""
        return {
            "name": self.name,
            "kind": self.kind,
            "interfaces": [
                {
                    "name": each.name,
                    "mac": each.mac.hex(":"),
                    "mtu": each.mtu,
                    "addresses": [str(address) for address in each.addresses],
                    "link": each.link.name,
                }
                for each in self.interfaces
            ],
            "routes": [
                {"network": str(route.network), "gateway": str(route.gateway.ip), "interface": route.interface}
                for route in self._routes.values()
            ],
        }

    def close(self) -> None:
        """Let go of the namespace."""
        self.netlink.close()
        os.close(self.namespace)

    def _socket(self, family: int, kind: int, protocol: int) -> Socket:
        return self.lab.client.socket(self.name, family, kind, protocol)

    def _first(self) -> Interface:
        if not self.interfaces:
            raise ConfigError(f"{self.name} has no link yet", key="address")
        return self.interfaces[0]


def _read(address: str) -> Address:
    try:
        return ip_interface(address)
    except ValueError as error:
        raise ConfigError(str(error), key="address", expected='"192.0.2.1/24" and the like') from None


class Host(Node):
    """A node that keeps to itself: it forwards nothing."""


class Router(Node):
    """A node that forwards between its interfaces."""

    kind = "router"

    def __init__(self, lab: Lab, name: str, number: int) -> None:
        super().__init__(lab, name, number)
        failed = lab.client.sysctl(name, _FORWARDING)
        if not Path("/proc/sys/net/ipv6").exists():
            failed.pop("net/ipv6/conf/all/forwarding", None)
        if failed:
            raise UnsupportedError("a router", f"{', '.join(failed)} can't be set; is /proc/sys read-only here?")

    def masquerade(self, link: Link, *, random_ports: bool = False) -> None:
        """Hide what is behind this router from a link: what leaves by it takes the router's address there.

        random_ports: each flow gets a new port, instead of its own if that is free.   Raises UnsupportedError.
        """
        self.lab.masquerade(self, self.interface(link), random_ports=random_ports)

    def forget_flows(self) -> None:
        """Forget all masqueraded flows, as a NAT that restarts: with random ports, each goes on from another."""
        netfilter = Netlink(self._socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER))
        try:
            forget_flows(netfilter)
        finally:
            netfilter.close()
