"""The bits of rtnetlink that labs and tunnels need, over a socket that someone opened in the right network namespace.

Constants: include/uapi/linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h, if.h, veth.h, fib_rules.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_network

from ..errors import WesperError

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x100, 0x200, 0x400
NLA_F_NESTED = 0x8000
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLMSG_ERROR, _NLM_F_CAPPED, _NLM_F_ACK_TLVS, _NLMSGERR_ATTR_MSG = 2, 0x100, 0x200, 1
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_DELADDR = 16, 17, 18, 20, 21
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE, _RTM_NEWRULE, _RTM_DELRULE = 24, 25, 26, 32, 33
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_TXQLEN, _IFLA_LINKINFO, _IFLA_IFALIAS = 1, 3, 4, 13, 18, 20
_IFLA_STATS64 = 23
_IFLA_AF_SPEC, _IFLA_NET_NS_FD, _IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 26, 28, 1, 2, 1
_IFLA_INET6_ADDR_GEN_MODE, _IN6_ADDR_GEN_MODE_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_METRICS, _RTA_TABLE, _RTAX_MTU = 1, 4, 5, 7, 8, 15, 2
_FRA_DST, _FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_FWMASK = 1, 6, 10, 14, 15, 16
_FRA_OIFNAME, _FRA_IP_PROTO, _FRA_SPORT_RANGE, _FRA_DPORT_RANGE = 17, 22, 23, 24
_FR_ACT_TO_TBL, _FIB_RULE_INVERT = 1, 2
RT_TABLE_UNSPEC, RT_TABLE_MAIN = 0, 254
_RTPROT_STATIC, _RTN_UNICAST, _RTN_LOCAL = 4, 1, 2
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RT_SCOPE_NOWHERE = 0, 253, 255
_IFF_UP, _IFF_RUNNING, _IFF_NOARP = 1, 0x40, 0x80
_STATS64 = ("rx_packets", "tx_packets", "rx_octets", "tx_octets", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped")

Address = IPv4Interface | IPv6Interface


class NetlinkError(WesperError):
    """The kernel refused a change of the network.   number: errno."""

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
        try:
            self.request(f"interface {name}", _RTM_DELLINK, 0, struct.pack("BxHiII", 0, 0, self.index(name), 0, 0))
        finally:
            self._indexes.pop(name, None)

    def set_up(self, name: str, up: bool = True) -> None:
        """Bring an interface up or down."""
        body = struct.pack("BxHiII", 0, 0, self.index(name), _IFF_UP if up else 0, _IFF_UP)
        self.request(f"interface {name}", _RTM_NEWLINK, 0, body)

    def has_carrier(self, name: str) -> bool:
        """Tell whether an interface is up and may send."""
        body = self.request(name, _RTM_GETLINK, 0, struct.pack("BxHiII", 0, 0, self.index(name), 0, 0))
        return bool(struct.unpack_from("I", body, 8)[0] & _IFF_RUNNING)

    def without_neighbours(self, name: str) -> None:
        """Have an interface ask nobody for MAC addresses: its frames go to its own (net/ipv4/arp.c:arp_constructor)."""
        body = struct.pack("BxHiII", 0, 0, self.index(name), _IFF_NOARP, _IFF_NOARP)
        self.request(f"interface {name}", _RTM_NEWLINK, 0, body)

    def set_alias(self, name: str, alias: str) -> None:
        """Note on an interface whose it is."""
        body = struct.pack("BxHiII", 0, 0, self.index(name), 0, 0) + attribute(_IFLA_IFALIAS, alias.encode())
        self.request(f"alias of {name}", _RTM_NEWLINK, 0, body)

    def whose(self, name: str) -> tuple[str, bytes] | None:
        """Return the note on an interface, "" without one, and its MAC; None if there is no such interface."""
        self._indexes.pop(name, None)  # another one may have the name now
        try:
            body = self.request(name, _RTM_GETLINK, 0, struct.pack("BxHiII", 0, 0, self.index(name), 0, 0))
        except NetlinkError as error:  # perhaps it went between the two questions
            if error.number == errno.ENODEV:
                self._indexes.pop(name, None)
                return None
            raise
        found = dict(_attributes(body[16:]))
        alias = found.get(_IFLA_IFALIAS, b"").rstrip(b"\0").decode("utf-8", "replace")
        return alias, found.get(_IFLA_ADDRESS, b"")

    def set_queue_length(self, name: str, packets: int) -> None:
        """Change how many packets may wait to be sent by an interface."""
        body = struct.pack("BxHiII", 0, 0, self.index(name), 0, 0) + attribute(_IFLA_TXQLEN, struct.pack("I", packets))
        self.request(f"queue of {name}", _RTM_NEWLINK, 0, body)

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
        body = struct.pack("BBBBBBBBI", family_of(address.packed), 8 * len(address.packed), 0, 0, 0, 0, 0, 0, 0)
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

    def add_route(
        self, network: str, gateway: bytes, name: str, *, table: int = RT_TABLE_MAIN, source: bytes = b"", mtu: int = 0
    ) -> None:
        """Send what goes to a network through an interface.

        gateway: who is behind it, b"" if the network itself is.   source: address that this host's own packets take.
        mtu: octets; 0: the interface's.
        """
        more = attribute(_RTA_PREFSRC, source) if source else b""
        if mtu:
            more += attribute(_RTA_METRICS | NLA_F_NESTED, attribute(_RTAX_MTU, struct.pack("I", mtu)))
        self._route(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, network, gateway, name, table, more)

    def delete_route(self, network: str, gateway: bytes, name: str, *, table: int = RT_TABLE_MAIN) -> None:
        """Undo `add_route`."""
        self._route(_RTM_DELROUTE, 0, network, gateway, name, table, b"")

    def add_rule(self, rule: Rule) -> None:
        """Have packets looked up in another table."""
        self._rule(_RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule)

    def delete_rule(self, rule: Rule) -> None:
        """Undo `add_rule`."""
        self._rule(_RTM_DELRULE, 0, rule)

    def _address(self, kind: int, flags: int, name: str, address: Address) -> None:
        octets = address.packed
        body = struct.pack(
            "BBBBI",
            family_of(octets),
            address.network.prefixlen,
            _IFA_F_NODAD if address.version == 6 else 0,
            0,
            self.index(name),
        )
        body += attribute(_IFA_LOCAL, octets) + attribute(_IFA_ADDRESS, octets)
        self.request(f"address {address} on {name}", kind, flags, body)

    def _route(self, kind: int, flags: int, network: str, gateway: bytes, name: str, table: int, more: bytes) -> None:
        to = ip_network(network)
        octets = to.network_address.packed
        scope = _RT_SCOPE_UNIVERSE if gateway or len(octets) == 16 else _RT_SCOPE_LINK
        if kind == _RTM_DELROUTE:
            scope = _RT_SCOPE_NOWHERE  # whatever it is
        body = struct.pack(
            "BBBBBBBBI",
            family_of(octets), to.prefixlen, 0, 0, RT_TABLE_UNSPEC, _RTPROT_STATIC, scope, _RTN_UNICAST, 0,
        )  # fmt: skip
        body += attribute(_RTA_DST, octets) if to.prefixlen else b""
        body += attribute(_RTA_GATEWAY, gateway) if gateway else b""
        body += attribute(_RTA_OIF, struct.pack("i", self.index(name))) + attribute(_RTA_TABLE, struct.pack("I", table))
        self.request(f"route to {network} on {name}", kind, flags, body + more)

    def _rule(self, kind: int, flags: int, rule: Rule) -> None:
        family = socket.AF_INET if rule.version == 4 else socket.AF_INET6
        inverted = _FIB_RULE_INVERT if rule.inverted else 0
        to = ip_network(rule.to) if rule.to else None
        length = to.prefixlen if to else 0
        body = struct.pack("BBBBBBBBI", family, length, 0, 0, RT_TABLE_UNSPEC, 0, 0, _FR_ACT_TO_TBL, inverted)
        values = [(_FRA_PRIORITY, rule.priority), (_FRA_TABLE, rule.table)]
        if rule.mark:
            values += [(_FRA_FWMARK, rule.mark), (_FRA_FWMASK, 0xFFFFFFFF)]
        if rule.suppress is not None:
            values.append((_FRA_SUPPRESS_PREFIXLEN, rule.suppress))
        for number, value in values:
            body += attribute(number, struct.pack("I", value))
        if to is not None:
            body += attribute(_FRA_DST, to.network_address.packed)
        if rule.out_interface:
            body += attribute(_FRA_OIFNAME, rule.out_interface.encode() + b"\0")
        if rule.ip_protocol:
            body += attribute(_FRA_IP_PROTO, struct.pack("B", rule.ip_protocol))
        for number, port in ((_FRA_SPORT_RANGE, rule.source_port), (_FRA_DPORT_RANGE, rule.destination_port)):
            if port:
                body += attribute(number, struct.pack("HH", port, port))
        self.request(f"rule {rule.priority}", kind, flags, body)


@dataclass(frozen=True, slots=True)
class Rule:
    """What has a mark, or, inverted, what has it not, is looked up in a table (`ip rule`).   mark: 0: all packets.

    suppress: routes with prefixes of at most this length are passed over.   to: a network, "" for any.
    out_interface: of sockets that are bound to it.   ip_protocol, source_port, destination_port: 0 for any.
    To delete a rule is to delete the first one that has what is given, whatever else it has.
    """

    version: int
    priority: int
    mark: int
    table: int
    inverted: bool = False
    suppress: int | None = None
    to: str = ""
    out_interface: str = ""
    ip_protocol: int = 0
    source_port: int = 0
    destination_port: int = 0


def _veth_end(name: str, mac: bytes, mtu: int) -> bytes:
    named = attribute(_IFLA_IFNAME, name.encode() + b"\0")
    return named + attribute(_IFLA_ADDRESS, mac) + attribute(_IFLA_MTU, struct.pack("I", mtu))


def family_of(address: bytes) -> int:
    """Return the address family of 4 or 16 octets."""
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
