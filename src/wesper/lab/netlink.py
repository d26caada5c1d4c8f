"""What a lab asks the kernel for, beyond what any program does to its network."""

from __future__ import annotations

import struct

from ..host import netlink
from ..host.netlink import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Address,
    NetlinkError,
    attribute,
    family_of,
    message,
)

# include/uapi/linux/rtnetlink.h, neighbour.h
_RTM_NEWNEIGH = 28
_NDA_DST, _NDA_LLADDR, _NUD_PERMANENT = 1, 2, 0x80


class Netlink(netlink.Netlink):
    """A netlink socket of a node."""

    def add_neighbour(self, name: str, address: bytes, mac: bytes) -> None:
        """Tell who has an address, so that nobody needs to ask."""
        body = struct.pack("BxxxiHBB", family_of(address), self.index(name), _NUD_PERMANENT, 0, 0)
        body += attribute(_NDA_DST, address) + attribute(_NDA_LLADDR, mac)
        self.request(f"neighbour on {name}", _RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


__all__ = [
    "NETLINK_NETFILTER",
    "NETLINK_ROUTE",
    "NLA_F_NESTED",
    "NLM_F_ACK",
    "NLM_F_CREATE",
    "Address",
    "Netlink",
    "NetlinkError",
    "attribute",
    "message",
]
