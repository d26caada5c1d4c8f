"""A link-layer header kept, and mended for another IP packet behind it."""

from __future__ import annotations

from .link import ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_PPPOE_SESSION, MAX_LENGTH_8023, LinkType

_BARE = frozenset((LinkType.RAW, LinkType.RAW_12, LinkType.RAW_14, LinkType.IPV4, LinkType.IPV6))
_ETHERTYPE = {4: ETHERTYPE_IPV4.to_bytes(2, "big"), 6: ETHERTYPE_IPV6.to_bytes(2, "big")}
_PPP = {4: b"\x00\x21", 6: b"\x00\x57"}
_FAMILY = {4: 2, 6: 30}
_SLL2_HEADER = 20


def outgoing_link_type(link_type: int) -> int:
    """Return the link type that packets of another IP version fit too: RAW for those without a link-layer header."""
    return LinkType.RAW if link_type in _BARE else link_type


def relink(link_type: int, head: bytes, packet: bytes) -> bytes:
    """Return the frame: head, with what it tells of its content put right, and packet.

    head: what stood before the IP header that `ip_offset` found.   packet: IPv4 or IPv6.

    >>> relink(LinkType.ETHERNET, bytes(12) + b"\\x08\\x00", b"\\x60")[12:].hex()
    '86dd60'
    """
    version = packet[0] >> 4
    if not head:
        return packet
    if link_type in (LinkType.NULL, LinkType.LOOP):
        if (version == 4) is (2 in head[:4]):
            return head + packet
        # The order is the capturing host's: the family's only octet that is not zero stands first or last
        return _FAMILY[version].to_bytes(4, "little" if head[0] else "big") + head[4:] + packet
    if link_type == LinkType.LINUX_SLL2 and len(head) == _SLL2_HEADER:
        return _ETHERTYPE[version] + head[2:] + packet
    if link_type == LinkType.ETHERNET and int.from_bytes(head[12:14], "big") <= MAX_LENGTH_8023:
        # Its length field ends at 1500, so LLC and SNAP give way to Ethernet II
        return head[:12] + _ETHERTYPE[version] + packet
    if head[-2:] in _ETHERTYPE.values():
        return head[:-2] + _ETHERTYPE[version] + packet
    if head[-2:] in _PPP.values() and head[-10:-8] == ETHERTYPE_PPPOE_SESSION.to_bytes(2, "big"):
        return head[:-4] + (len(packet) + 2).to_bytes(2, "big") + _PPP[version] + packet
    return head + packet  # MPLS: nothing in it names what follows (RFC 3032 §2.2)
