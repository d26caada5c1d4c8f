"""The sockets that PSP packets come in by and leave by.

They come to one UDP port. They leave by sockets of their own, sixteen for each IP version, and a flow's hash
chooses which: the specification's way (b) to spread flows over a network's paths, which needs no privilege.
Constants: include/uapi/linux/in.h, in6.h, filter.h.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from ..errors import ConfigError, PermissionNeeded
from ..host.link import IPAddress, Link, open_link
from .flows import FlowDrop

SENDERS: Final = 16
_TRIES: Final = 1000
_IP_TOS, _IP_PKTINFO, _IP_MTU_DISCOVER = 1, 8, 10
_IPV6_MTU_DISCOVER, _IPV6_PKTINFO, _IPV6_DONTFRAG, _IPV6_TCLASS = 23, 50, 62, 67
_PMTUDISC_DO, _SO_ATTACH_FILTER = 2, 26
_BATCH: Final = 64
_INT = struct.Struct("i")


def open_receivers(addresses: Sequence[IPAddress], port: int) -> list[Link]:
    """Return the sockets that take PSP packets.   addresses: of this host; none: all of both versions.

    Raises ConfigError, PermissionNeeded with the key to change.
    """
    wanted = list(addresses) or [ip_address("0.0.0.0"), ip_address("::")]
    opened: list[Link] = []
    try:
        for address in wanted:
            try:
                opened.append(open_link("udp4" if address.version == 4 else "udp6", address, port))
            except OSError as error:
                if addresses or address.version == 4 or error.errno != errno.EAFNOSUPPORT:
                    raise
            except ConfigError as error:
                if error.key != "local":
                    raise
                raise ConfigError(error.what, key="addresses", expected=error.expected) from None
    except PermissionNeeded:
        for each in opened:
            each.close()
        raise PermissionNeeded(
            "CAP_NET_BIND_SERVICE, or `port = ` of 1024 or more, or sysctl net.ipv4.ip_unprivileged_port_start",
            f"UDP port {port}",
        ) from None
    except BaseException:
        for each in opened:
            each.close()
        raise
    return opened


def waiting(link: Link) -> list[bytes]:
    """Return the packets that wait, at most a batch, each from its outer IP header on."""
    out = []
    for _ in range(_BATCH):
        packet = link.receive()
        if packet is None:
            break
        out.append(packet)
    return out


class Senders:
    """The sockets that packets leave by.   ports: of them, the same of both IP versions.   Raises ConfigError."""

    def __init__(self) -> None:
        self._sockets: dict[tuple[int, int], socket.socket] = {}
        has_ipv6 = socket.has_ipv6
        ports: list[int] = []
        try:
            for _ in range(_TRIES):
                if len(ports) == SENDERS:
                    break
                first = self._open(4, 0)
                port = first.getsockname()[1]
                second = None
                if has_ipv6:
                    try:
                        second = self._open(6, port)
                    except OSError as error:
                        if error.errno == errno.EADDRINUSE:
                            first.close()
                            continue
                        has_ipv6 = False
                self._sockets[4, port] = first
                if second is not None:
                    self._sockets[6, port] = second
                ports.append(port)
            else:
                raise ConfigError("no UDP port is free", key="ip_local_port_range", expected=f"{SENDERS} free ones")
        except BaseException:
            self.close()
            raise
        self.ports = tuple(ports)

    def send(self, packet: bytes, port: int) -> FlowDrop | None:
        """Send a packet from its outer IP header on.   port: where the peer takes PSP.   Returns why not, if not."""
        try:
            if packet[0] >> 4 == 4:
                self._send4(packet, port)
            else:
                self._send6(packet, port)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                return FlowDrop.TOO_BIG
            if error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM):
                return FlowDrop.LINK_FULL
            return FlowDrop.UNREACHABLE
        return None

    def close(self) -> None:
        """Close the sockets."""
        for each in self._sockets.values():
            each.close()

    def _send4(self, packet: bytes, port: int) -> None:
        ancillary = [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("i4s4s", 0, packet[12:16], bytes(4)))]
        if packet[1]:
            ancillary.append((socket.IPPROTO_IP, _IP_TOS, _INT.pack(packet[1])))
        to = (socket.inet_ntop(socket.AF_INET, packet[16:20]), port)
        self._sockets[4, packet[20] << 8 | packet[21]].sendmsg((packet[28:],), ancillary, 0, to)

    def _send6(self, packet: bytes, port: int) -> None:
        ancillary = [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, struct.pack("16si", packet[8:24], 0))]
        traffic_class = (packet[0] << 4 | packet[1] >> 4) & 0xFF
        if traffic_class:
            ancillary.append((socket.IPPROTO_IPV6, _IPV6_TCLASS, _INT.pack(traffic_class)))
        to = (socket.inet_ntop(socket.AF_INET6, packet[24:40]), port)
        self._sockets[6, packet[40] << 8 | packet[41]].sendmsg((packet[48:],), ancillary, 0, to)

    def _open(self, version: int, port: int) -> socket.socket:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            opened.setblocking(False)
            # The kernel then learns what the path takes, and says so at the next packet that does not fit.
            if version == 4:
                opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
            else:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
            _take_nothing(opened)
            opened.bind(("", port))
        except BaseException:
            opened.close()
            raise
        return opened


def _take_nothing(opened: socket.socket) -> None:
    """Have the kernel throw away what comes: nobody has anything to say to a sending port."""
    program = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K, 0 octets
    buffer = ctypes.create_string_buffer(program)
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(buffer)))
