"""Streams: the host's own TCP, through an interface whose packets come to us instead of going to a card.

A stream's socket is bound to that interface, so that what it sends goes there or nowhere, and what it takes came from
there. Rules lead there what the kernel sends when the socket is gone (a reset, for one), so that nothing of a
stream is ever on the wire in clear. There is a rule for each peer and service, not for each stream. They name a
table of their own; what a daemon that was killed has left is taken away by the next.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

from ..errors import ConfigError, PermissionNeeded, UnsupportedError
from ..host.netlink import NETLINK_ROUTE, Netlink, NetlinkError, Rule
from ..host.tun import Device, DeviceKind, open_device
from ..wire.numbers import TCP

OVERHEAD: Final = 40  # octets that PSP adds to a segment: UDP, PSP header, ICV
PRIORITY: Final = 5100  # of the rules: before those of tunnels
TABLE: Final = 0x57505350
_MTU: Final = 65535 - OVERHEAD
_LEAST_MTU: Final = 576
_SO_BINDTODEVICE: Final = 25
_BATCH: Final = 64

Side = Literal["client", "server"]


class StreamInterface:
    """The interface, its rules, and the sockets made for it.   name: of the interface.   kind: see host/tun.py.

    Raises PermissionNeeded where none can be made, with what to do; ConfigError if the name is taken; OSError.
    """

    def __init__(self, name: str, kind: DeviceKind = "auto") -> None:
        self.name = name
        self._services: Counter[tuple[str, Side, int]] = Counter()
        self._peers: dict[str, int] = {}
        try:
            self.device: Device = open_device(name, _MTU, kind=kind)
        except (PermissionNeeded, UnsupportedError) as error:
            raise PermissionNeeded(
                "CAP_NET_ADMIN and /dev/net/tun, or a daemon that was started by root; datagrams need neither",
                f"a TUN device for PSP streams ({error})",
            ) from None
        self._opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._netlink = Netlink(self._opened)
        self._versions: list[int] = []
        try:
            self._netlink.set_up(name)
            for version, everything in ((4, "0.0.0.0/0"), (6, "::/0")):
                try:
                    self._forget_rules(version)
                    self._netlink.add_route(everything, b"", name, table=TABLE)
                    self._netlink.add_rule(Rule(version, PRIORITY, 0, TABLE, out_interface=name))
                except NetlinkError as error:
                    if version == 6 and error.number in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES):
                        continue  # a host without IPv6
                    raise
                self._versions.append(version)
        except BaseException:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """What to wait for: segments of this host's kernel."""
        return self.device.fd

    def segments(self) -> list[bytes]:
        """Return the packets that wait, at most a batch.   Raises OSError if the interface is gone."""
        out = []
        for _ in range(_BATCH):
            packet = self.device.read()
            if packet is None:
                break
            if packet:
                out.append(packet)
        return out

    def deliver(self, packet: bytes) -> bool:
        """Give this host's kernel a packet; returns whether it took it."""
        return self.device.write(packet) is None

    def hold(self, peer: str, side: Side, port: int, path_mtu: int) -> Callable[[], None]:
        """Lead TCP of a service to the interface, and return what undoes it.

        side: whether this host is the service's client or server.   path_mtu: octets of an outer packet to the peer.
        """
        version = 6 if ":" in peer else 4
        if version not in self._versions:
            raise UnsupportedError(f"IPv{version}", "a kernel that has it")
        mtu = max(path_mtu - OVERHEAD, _LEAST_MTU)
        if self._peers.get(peer) != mtu:
            length = 32 if version == 4 else 128
            self._netlink.add_route(f"{peer}/{length}", b"", self.name, table=TABLE, mtu=mtu)
            self._peers[peer] = mtu
        service = (peer, side, port)
        self._services[service] += 1
        if self._services[service] == 1:
            with contextlib.suppress(NetlinkError):  # EEXIST: one that somebody has copied
                self._netlink.add_rule(self._rule(*service))
        held = True

        def let_go() -> None:
            nonlocal held
            if not held:
                return
            held = False
            self._services[service] -= 1
            if not self._services[service]:
                del self._services[service]
                with contextlib.suppress(NetlinkError):
                    self._netlink.delete_rule(self._rule(*service))

        return let_go

    def client(self, local: str) -> socket.socket:
        """Return a TCP socket of an address of this host, with a port, that is not yet connected."""
        opened = socket.socket(_family(local), socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            opened.bind((local, 0))
            opened.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, self.name.encode())
        except BaseException:
            opened.close()
            raise
        return opened

    def listener(self, host: str, port: int, backlog: int) -> socket.socket:
        """Return a listening TCP socket that nothing in clear gets into.

        host: an address of this host, "" for all of them.   port: 0 for any.   Raises ConfigError if it is taken.
        """
        both = not host and 6 in self._versions
        family = socket.AF_INET6 if both else _family(host)
        opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            opened.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, self.name.encode())
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
            opened.bind((host or ("::" if both else "0.0.0.0"), port))
            opened.listen(backlog)
        except OSError as error:
            opened.close()
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(f"TCP port {port} is taken", key="port", expected="a free one") from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise ConfigError(f"{host} is no address of this host", key="host") from None
            if error.errno in (errno.EACCES, errno.EPERM):
                raise PermissionNeeded("CAP_NET_BIND_SERVICE", f"TCP port {port}") from None
            raise
        return opened

    def close(self) -> None:
        """Take away rules and interface; the routes go with it."""
        for version in self._versions:
            with contextlib.suppress(NetlinkError):
                self._forget_rules(version)
        self._versions = []
        self._opened.close()
        self.device.close()

    def _rule(self, peer: str, side: Side, port: int) -> Rule:
        version, length = (6, 128) if ":" in peer else (4, 32)
        to = f"{peer}/{length}"
        if side == "client":
            return Rule(version, PRIORITY, 0, TABLE, to=to, ip_protocol=TCP, destination_port=port)
        return Rule(version, PRIORITY, 0, TABLE, to=to, ip_protocol=TCP, source_port=port)

    def _forget_rules(self, version: int) -> None:
        """Delete all rules of ours, also those of a daemon that was killed."""
        with contextlib.suppress(NetlinkError):
            while True:
                self._netlink.delete_rule(Rule(version, PRIORITY, 0, TABLE))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
