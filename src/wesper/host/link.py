"""The unprotected side: sockets that carry ESP and its kin, in UDP or as IP protocols.

What goes in and comes out is the whole outer packet, as an engine makes and takes it. A UDP socket keeps the IP and UDP
header of what it sends to itself; they say where the datagram goes, and with which TOS and TTL. In front of what it
receives they are written anew.

UDP_ENCAP is not set on the sockets: the kernel would look for an SA of its own.
Constants: include/uapi/linux/in.h, in6.h, udp.h, bpf_common.h; asm-generic/socket.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Literal, NamedTuple

from ..errors import ConfigError, PermissionNeeded

IPAddress = IPv4Address | IPv6Address
LinkKind = Literal["udp4", "udp6", "raw4", "raw6"]
LinkUse = Literal["both", "receive", "send"]

RECEIVE_BUFFER_OCTETS: Final = 8 << 20
_ESP = 50
_NAMES: Final = {_ESP: "esp", 141: "wesp", 253: "eesp"}
_IP_TOS, _IP_TTL, _IP_HDRINCL, _IP_PKTINFO, _IP_MTU_DISCOVER, _IP_RECVTTL, _IP_RECVTOS = 1, 2, 3, 8, 10, 12, 13
_IPV6_MTU_DISCOVER, _IPV6_HDRINCL, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 23, 36, 49, 50
_IPV6_RECVHOPLIMIT, _IPV6_HOPLIMIT, _IPV6_DONTFRAG, _IPV6_RECVTCLASS, _IPV6_TCLASS = 51, 52, 62, 66, 67
_PMTUDISC_DONT, _PMTUDISC_PROBE = 0, 3  # PROBE: DF is set, and what the kernel has learnt of the path is left alone
_UDP_NO_CHECK6_RX, _SO_ATTACH_FILTER, _BPF_RET = 102, 26, 6
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_ANCILLARY_OCTETS = 256
_MAX_PACKET = 65535
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_UDP = struct.Struct(">HHHH")
_INT = struct.Struct("i")
_TOO_BIG = frozenset((errno.EMSGSIZE,))
_FULL = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM))


@dataclass(eq=False)
class Link:
    """One socket of the unprotected side.

    fd: non-blocking.   local: what it is bound to; unspecified: any address of this host.
    port: of UDP; of raw sockets the IP protocol.
    mark: SO_MARK, by which rules tell its packets from those to be protected; 0: none.
    use: a link that only sends gets nothing.   group: sockets of the same port that take their part of what comes.
    """

    kind: LinkKind
    local: IPAddress
    port: int
    opened: socket.socket = field(repr=False)
    mark: int = 0
    use: LinkUse = "both"
    group: tuple[socket.socket, ...] = field(default=(), repr=False)
    _fragment: bool | None = field(default=None, repr=False)

    @property
    def fd(self) -> int:
        return self.opened.fileno()

    @property
    def version(self) -> int:
        """IP version."""
        return 6 if self.kind.endswith("6") else 4

    @property
    def is_udp(self) -> bool:
        return self.kind.startswith("udp")

    def __str__(self) -> str:
        at = f"[{self.local}]" if self.version == 6 else str(self.local)
        return f"udp {at}:{self.port}" if self.is_udp else f"{_NAMES.get(self.port, f'protocol {self.port}')} {at}"

    @property
    def receives(self) -> bool:
        """Whether anything comes by it."""
        return self.use != "send"

    def receive(self) -> bytes | None:
        """Return the next packet from its outer IP header on, None if none waits.

        Checksums in headers that are written anew are 0: the kernel has looked at the real ones.
        """
        try:
            octets, ancillary, _, source = self.opened.recvmsg(_MAX_PACKET, _ANCILLARY_OCTETS)
        except OSError:  # nothing there; or what an earlier packet met on its way (ICMP), which is told once
            return None
        return octets if self.kind == "raw4" else self._rebuilt(octets, ancillary, source)

    def send(self, packet: bytes) -> str | None:
        """Send a packet from its outer IP header on.   Returns None, or the name of the count that tells why not."""
        try:
            if self.kind == "raw4":
                self.opened.sendto(packet, (socket.inet_ntop(socket.AF_INET, packet[16:20]), 0))
            elif self.kind == "raw6":
                self.opened.sendto(packet, (socket.inet_ntop(socket.AF_INET6, packet[24:40]), 0))
            elif self.version == 4:
                self._send_udp4(packet)
            else:
                self._send_udp6(packet)
        except OSError as error:
            if error.errno in _FULL:
                return "link_full"
            return "link_too_big" if error.errno in _TOO_BIG else "link_unreachable"
        return None

    def path_mtu(self, remote: IPAddress) -> int | None:
        """Return what the kernel knows of the MTU towards an address, None if there is no route."""
        return path_mtu(remote, self.mark)

    def close(self) -> None:
        """Close the sockets."""
        for each in (self.opened, *self.group):
            each.close()

    def _rebuilt(self, octets: bytes, ancillary: list[tuple[int, int, bytes]], source: tuple[str, int]) -> bytes:
        tos, ttl, local = 0, 64, self.local.packed
        for level, kind, value in ancillary:
            if level == socket.IPPROTO_IP:
                if kind == _IP_TOS:
                    tos = value[0]
                elif kind == _IP_TTL:
                    ttl = value[0]
                elif kind == _IP_PKTINFO:
                    local = value[8:12]  # struct in_pktinfo: index, address that took it, header's destination
            elif level == socket.IPPROTO_IPV6:
                if kind == _IPV6_TCLASS:
                    (tos,) = _INT.unpack(value)
                elif kind == _IPV6_HOPLIMIT:
                    (ttl,) = _INT.unpack(value)
                elif kind == _IPV6_PKTINFO:
                    local = value[:16]
        if self.kind == "udp4":
            udp = _UDP.pack(source[1], self.port, 8 + len(octets), 0)
            remote = socket.inet_aton(source[0])
            return _IPV4.pack(0x45, tos, 28 + len(octets), 0, 0, ttl, 17, 0, remote, local) + udp + octets
        remote = socket.inet_pton(socket.AF_INET6, source[0].partition("%")[0])
        first = 6 << 28 | tos << 20
        if self.kind == "raw6":
            return _IPV6.pack(first, len(octets), self.port, ttl, remote, local) + octets
        udp = _UDP.pack(source[1], self.port, 8 + len(octets), 0)
        return _IPV6.pack(first, 8 + len(octets), 17, ttl, remote, local) + udp + octets

    def _send_udp4(self, packet: bytes) -> None:
        fragment = not packet[6] & 0x40
        if fragment is not self._fragment:
            self.opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT if fragment else _PMTUDISC_PROBE)
            self._fragment = fragment
        ancillary = [
            (socket.IPPROTO_IP, _IP_TOS, _INT.pack(packet[1])),
            (socket.IPPROTO_IP, _IP_TTL, _INT.pack(packet[8])),
        ]
        if not int(self.local) and any(packet[12:16]):
            ancillary.append((socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("i4s4s", 0, packet[12:16], bytes(4))))
        port = packet[22] << 8 | packet[23]
        to = (socket.inet_ntop(socket.AF_INET, packet[16:20]), port)
        self.opened.sendmsg((packet[28:],), ancillary, 0, to)

    def _send_udp6(self, packet: bytes) -> None:
        ancillary = [
            (socket.IPPROTO_IPV6, _IPV6_TCLASS, _INT.pack((packet[0] << 4 | packet[1] >> 4) & 0xFF)),
            (socket.IPPROTO_IPV6, _IPV6_HOPLIMIT, _INT.pack(packet[7])),
        ]
        if not int(self.local) and any(packet[8:24]):
            ancillary.append((socket.IPPROTO_IPV6, _IPV6_PKTINFO, struct.pack("16si", packet[8:24], 0)))
        port = packet[42] << 8 | packet[43]
        to = (socket.inet_ntop(socket.AF_INET6, packet[24:40]), port)
        self.opened.sendmsg((packet[48:],), ancillary, 0, to)


def open_link(
    kind: LinkKind, local: IPAddress, port: int = 0, *, mark: int = 0, use: LinkUse = "both", sockets: int = 1
) -> Link:
    """Open a socket of the unprotected side.

    local: an address of this host, or the unspecified one of its version.   port: UDP's; 0: one that the kernel gives;
    raw: the IP protocol, 0: ESP.
    use: "receive" takes datagrams without a checksum over IPv6 too, as PSP has them (RFC 6935 §5); "send" throws away
    what comes, in the kernel.
    sockets: of UDP, how many share the port; the kernel chooses by addresses and ports until it is told better.
    Raises ConfigError if the address is not this host's or the port is taken, PermissionNeeded for raw sockets and
    marks.
    """
    is_udp = kind.startswith("udp")
    opened = _open_socket(kind, local, port, mark, use)
    link = Link(kind, local, opened.getsockname()[1] if is_udp else port or _ESP, opened, mark, use)
    try:
        if is_udp and sockets > 1:
            # Only now: with it from the start, the port could be another program's too.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for _ in range(sockets - 1):
                link.group = (*link.group, _open_socket(kind, local, link.port, mark, use, shared=True))
    except BaseException:
        link.close()
        raise
    return link


def _open_socket(
    kind: LinkKind, local: IPAddress, port: int, mark: int, use: LinkUse, *, shared: bool = False
) -> socket.socket:
    family = socket.AF_INET6 if kind.endswith("6") else socket.AF_INET
    is_udp = kind.startswith("udp")
    try:
        if is_udp:
            opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        else:
            opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, port or _ESP)
    except PermissionError:
        raise PermissionNeeded("CAP_NET_RAW", "a raw socket for ESP") from None
    try:
        opened.setblocking(False)
        for force, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                opened.setsockopt(socket.SOL_SOCKET, force, RECEIVE_BUFFER_OCTETS)
            except OSError:  # without CAP_NET_ADMIN up to net.core.rmem_max
                opened.setsockopt(socket.SOL_SOCKET, plain, RECEIVE_BUFFER_OCTETS)
        if mark:
            try:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            except PermissionError:
                raise PermissionNeeded("CAP_NET_ADMIN", "marking packets (SO_MARK)") from None
        if family == socket.AF_INET:
            options = [(_IP_HDRINCL, 1)] if not is_udp else [(_IP_RECVTOS, 1), (_IP_RECVTTL, 1), (_IP_PKTINFO, 1)]
            for option, value in options:
                opened.setsockopt(socket.IPPROTO_IP, option, value)
        else:
            for option, value in (
                (_IPV6_RECVTCLASS, 1), (_IPV6_RECVHOPLIMIT, 1), (_IPV6_RECVPKTINFO, 1),
                (_IPV6_MTU_DISCOVER, _PMTUDISC_PROBE), (_IPV6_DONTFRAG, 1),
            ):  # fmt: skip
                opened.setsockopt(socket.IPPROTO_IPV6, option, value)
            opened.setsockopt(socket.IPPROTO_IPV6, *((socket.IPV6_V6ONLY, 1) if is_udp else (_IPV6_HDRINCL, 1)))
        if use == "receive" and family == socket.AF_INET6 and is_udp:
            opened.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_RX, 1)
        if use == "send":
            drop_all = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RET, 0, 0, 0), 8)  # keeps no octet
            filter = struct.pack("HxxxxxxP", 1, ctypes.addressof(drop_all))  # struct sock_fprog
            opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind((str(local), port if is_udp else 0))
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"{local} is no address of this host", key="local", expected="one of `ip address`"
            ) from None
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"UDP port {port} of {local} is taken", key="port", expected="a free one") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise PermissionNeeded("CAP_NET_BIND_SERVICE", f"UDP port {port}") from None
        raise
    except BaseException:
        opened.close()
        raise
    return opened


class Route(NamedTuple):
    """Where packets to an address go.   local: the address that they have here.   mtu: of the path, in octets."""

    local: IPAddress
    mtu: int


def route(remote: IPAddress, mark: int = 0) -> Route | None:
    """Ask the kernel for the route to an address, None if there is none.   mark: SO_MARK."""
    six = remote.version == 6
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        if mark:
            with contextlib.suppress(PermissionError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        try:
            probe.connect((str(remote), 9))
            level, option = (socket.IPPROTO_IPV6, 24) if six else (socket.IPPROTO_IP, 14)  # IPV6_MTU, IP_MTU
            return Route(ip_address(probe.getsockname()[0].partition("%")[0]), probe.getsockopt(level, option))
        except OSError:
            return None


def path_mtu(remote: IPAddress, mark: int = 0) -> int | None:
    """Return what the kernel knows of the MTU towards an address, None if there is no route.   mark: SO_MARK."""
    found = route(remote, mark)
    return None if found is None else found.mtu


def local_address(remote: IPAddress, mark: int = 0) -> IPAddress | None:
    """Return the address that this host's packets to another have, None if there is no route.   mark: SO_MARK."""
    found = route(remote, mark)
    return None if found is None else found.local
