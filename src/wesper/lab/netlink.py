"""The bits of rtnetlink that a lab needs, over a socket that someone opened in the right network namespace.

Constants: include/uapi/linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h, neighbour.h, veth.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_network

from ..errors import WesperError

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x100, 0x200, 0x400
NLA_F_NESTED = 0x8000
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLMSG_ERROR, _NLM_F_CAPPED, _NLM_F_ACK_TLVS, _NLMSGERR_ATTR_MSG = 2, 0x100, 0x200, 1
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_DELADDR = 16, 17, 18, 20, 21
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE, _RTM_NEWNEIGH = 24, 25, 26, 28
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_STATS64 = 1, 3, 4, 18, 23
_IFLA_AF_SPEC, _IFLA_NET_NS_FD, _IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 26, 28, 1, 2, 1
_IFLA_INET6_ADDR_GEN_MODE, _IN6_ADDR_GEN_MODE_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_NDA_DST, _NDA_LLADDR, _NUD_PERMANENT = 1, 2, 0x80
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST, _RTN_LOCAL = 254, 4, 1, 2
_IFF_UP, _IFF_RUNNING = 1, 0x40
_STATS64 = ("rx_packets", "tx_packets", "rx_octets", "tx_octets", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped")

Address = IPv4Interface | IPv6Interface


class NetlinkError(WesperError):
    """The kernel refused a change of a lab's network.   number: errno."""

    exit_code = 4

    def __init__(self, what: str, number: int, said: str) -> None:
        self.number = number
        super().__init__(f"{what}: {os.strerror(number)}{f' ({said})' if said else ''}")


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute with its padding."""
    return struct.pack("HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return one message with its header."""
    return struct.pack("IHHII", len(body) + 16, kind, flags | NLM_F_REQUEST, sequence, 0) + body


class Netlink:
    """A netlink socket; it acts in the namespace where it was opened, whoever holds it."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sequence = 0
        self._indexes: dict[str, int] = {}

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def request(self, what: str, kind: int, flags: int, body: bytes) -> bytes:
        """Send one message and return the body of the answer, empty if it is a bare acknowledgement.

        Raises NetlinkError that begins with what.
        """
        self._sequence += 1
        self._socket.send(message(kind, flags | NLM_F_ACK, self._sequence, body))
        return self.answer(what, self._sequence)

    def send(self, messages: bytes) -> None:
        """Send messages that the caller has made, numbered by the caller."""
        self._socket.send(messages)

    def answer(self, what: str, last: int) -> bytes:
        """Read until the message numbered last is acknowledged.   Returns the body of the last answer that has one."""
        data = b""
        while True:
            for kind, flags, sequence, body in _messages(self._socket.recv(1 << 16)):
                if kind != _NLMSG_ERROR:
                    data = body if sequence == last else data
                    continue
                (number,) = struct.unpack_from("i", body)
                if number:
                    raise NetlinkError(what, -number, _explanation(flags, body))
                if sequence == last:
                    return data

    def index(self, name: str) -> int:
        """Return the number of an interface."""
        if name not in self._indexes:
            body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
            self._indexes[name] = struct.unpack_from("i", self.request(name, _RTM_GETLINK, 0, body), 4)[0]
        return self._indexes[name]

    def statistics(self, name: str) -> dict[str, int]:
        """Return what the kernel counted on an interface."""
        body = self.request(name, _RTM_GETLINK, 0, struct.pack("BxHiII", 0, 0, self.index(name), 0, 0))
        found = dict(_attributes(body[16:]))[_IFLA_STATS64]
        return dict(zip(_STATS64, struct.unpack_from(f"{len(_STATS64)}Q", found), strict=True))

    def add_veth(self, name: str, mac: bytes, peer: str, peer_mac: bytes, peer_namespace: int, mtu: int) -> None:
        """Make a pair of interfaces, one here, its peer in the namespace of a descriptor; both down."""
        far = struct.pack("BxHiII", 0, 0, 0, 0, 0) + _veth_end(peer, peer_mac, mtu)
        far += attribute(_IFLA_NET_NS_FD, struct.pack("I", peer_namespace))
        data = attribute(_IFLA_INFO_DATA | NLA_F_NESTED, attribute(_VETH_INFO_PEER | NLA_F_NESTED, far))
        info = attribute(_IFLA_LINKINFO | NLA_F_NESTED, attribute(_IFLA_INFO_KIND, b"veth\0") + data)
        body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + _veth_end(name, mac, mtu) + info
        self.request(f"interface {name}", _RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)

    def delete(self, name: str) -> None:
        """Delete an interface, and its peer."""
        self.request(f"interface {name}", _RTM_DELLINK, 0, struct.pack("BxHiII", 0, 0, self.index(name), 0, 0))
        del self._indexes[name]

    def set_up(self, name: str, up: bool = True) -> None:
        """Bring an interface up or down."""
        body = struct.pack("BxHiII", 0, 0, self.index(name), _IFF_UP if up else 0, _IFF_UP)
        self.request(f"interface {name}", _RTM_NEWLINK, 0, body)

    def has_carrier(self, name: str) -> bool:
        """Tell whether an interface is up and may send."""
        body = self.request(name, _RTM_GETLINK, 0, struct.pack("BxHiII", 0, 0, self.index(name), 0, 0))
        return bool(struct.unpack_from("I", body, 8)[0] & _IFF_RUNNING)

    def set_mtu(self, name: str, mtu: int) -> None:
        """Change the MTU of an interface."""
        body = struct.pack("BxHiII", 0, 0, self.index(name), 0, 0) + attribute(_IFLA_MTU, struct.pack("I", mtu))
        self.request(f"MTU {mtu} of {name}", _RTM_NEWLINK, 0, body)

    def without_link_local(self, name: str) -> None:
        """Keep the kernel from giving an interface an IPv6 address of its own, so that wires are quiet."""
        mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, struct.pack("B", _IN6_ADDR_GEN_MODE_NONE))
        spec = attribute(_IFLA_AF_SPEC | NLA_F_NESTED, attribute(socket.AF_INET6 | NLA_F_NESTED, mode))
        self.request(f"interface {name}", _RTM_NEWLINK, 0, struct.pack("BxHiII", 0, 0, self.index(name), 0, 0) + spec)

    def add_address(self, name: str, address: Address) -> None:
        """Give an interface an address; IPv6 without duplicate detection, so that it can be used at once."""
        self._address(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, name, address)

    def has_address(self, address: Address) -> bool:
        """Tell whether packets to an address are taken here; IPv6 needs a moment for that when a link comes up."""
        body = struct.pack("BBBBBBBBI", _family(address.packed), 8 * len(address.packed), 0, 0, 0, 0, 0, 0, 0)
        try:
            answer = self.request(
                f"route to {address.ip}", _RTM_GETROUTE, 0, body + attribute(_RTA_DST, address.packed)
            )
        except NetlinkError:
            return False
        return answer[7] == _RTN_LOCAL

    def delete_address(self, name: str, address: Address) -> None:
        """Take an address from an interface."""
        self._address(_RTM_DELADDR, 0, name, address)

    def add_route(self, network: str, gateway: bytes, name: str) -> None:
        """Send what goes to a network through a gateway behind an interface."""
        self._route(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, network, gateway, name)

    def delete_route(self, network: str, gateway: bytes, name: str) -> None:
        """Undo `add_route`."""
        self._route(_RTM_DELROUTE, 0, network, gateway, name)

    def add_neighbour(self, name: str, address: bytes, mac: bytes) -> None:
        """Tell who has an address, so that nobody needs to ask."""
        body = struct.pack("BxxxiHBB", _family(address), self.index(name), _NUD_PERMANENT, 0, 0)
        body += attribute(_NDA_DST, address) + attribute(_NDA_LLADDR, mac)
        self.request(f"neighbour on {name}", _RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)

    def _address(self, kind: int, flags: int, name: str, address: Address) -> None:
        octets = address.packed
        body = struct.pack(
            "BBBBI",
            _family(octets),
            address.network.prefixlen,
            _IFA_F_NODAD if address.version == 6 else 0,
            0,
            self.index(name),
        )
        body += attribute(_IFA_LOCAL, octets) + attribute(_IFA_ADDRESS, octets)
        self.request(f"address {address} on {name}", kind, flags, body)

    def _route(self, kind: int, flags: int, network: str, gateway: bytes, name: str) -> None:
        to = ip_network(network)
        body = struct.pack(
            "BBBBBBBBI", _family(gateway), to.prefixlen, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, 0, _RTN_UNICAST, 0
        )
        body += attribute(_RTA_DST, to.network_address.packed) if to.prefixlen else b""
        body += attribute(_RTA_GATEWAY, gateway) + attribute(_RTA_OIF, struct.pack("i", self.index(name)))
        self.request(f"route to {network} on {name}", kind, flags, body)


def _veth_end(name: str, mac: bytes, mtu: int) -> bytes:
    named = attribute(_IFLA_IFNAME, name.encode() + b"\0")
    return named + attribute(_IFLA_ADDRESS, mac) + attribute(_IFLA_MTU, struct.pack("I", mtu))


def _family(address: bytes) -> int:
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind, flags, sequence = struct.unpack_from("IHHI", data, at)
        yield kind, flags, sequence, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("HH", data, at)
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += max((length + 3) & ~3, 4)


def _explanation(flags: int, body: bytes) -> str:
    """Return the kernel's own sentence on an error, if it has one."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    # struct nlmsgerr: error, header of the request, and the request's body unless it was capped
    at = 20 if flags & _NLM_F_CAPPED else 4 + ((struct.unpack_from("I", body, 4)[0] + 3) & ~3)
    return dict(_attributes(body[at:])).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode("ascii", "replace")
