"""Link types, and where the IP header lies behind their headers."""

from __future__ import annotations

from enum import IntEnum


class LinkType(IntEnum):
    """Link types that `ip_offset` knows. A capture may have any other number, which is carried as it is.

    Source: the LINKTYPE registry of draft-ietf-opsawg-pcaplinktype. 12 and 14 are what other systems call DLT_RAW.
    """

    NULL = 0
    ETHERNET = 1
    RAW_12 = 12
    RAW_14 = 14
    RAW = 101
    LOOP = 108
    LINUX_SLL = 113
    IPV4 = 228
    IPV6 = 229
    LINUX_SLL2 = 276


def link_type_name(link_type: int) -> str:
    """Name of a link type, `unknown(N)` for those not listed.

    >>> link_type_name(113), link_type_name(147)
    ('LINUX_SLL', 'unknown(147)')
    """
    try:
        return LinkType(link_type).name
    except ValueError:
        return f"unknown({link_type})"


def ip_offset(link_type: int, data: bytes) -> int | None:
    """Offset of the IPv4 or IPv6 header in a captured packet; None if there is none or its first octet is not captured.

    data: bytes-like, any length, any octets.
    Walks VLAN tags (802.1Q, 802.1ad and the older QinQ), LLC/SNAP, MPLS labels and PPPoE sessions. The version nibble
    at the offset agrees with what the link layer announced; nothing else of the IP header is checked.

    >>> ip_offset(LinkType.ETHERNET, bytes(12) + bytes.fromhex("8100 0007 0800 45"))
    18
    """
    match link_type:
        case LinkType.ETHERNET:
            if len(data) < 14:
                return None
            ethertype = data[12] << 8 | data[13]
            if ethertype <= MAX_LENGTH_8023:
                return _behind_llc(data, 14)
            return _behind_ethertype(ethertype, data, 14)
        case LinkType.RAW | LinkType.RAW_12 | LinkType.RAW_14:
            return _if_version(data, 0, 4) if data and data[0] >> 4 == 4 else _if_version(data, 0, 6)
        case LinkType.IPV4:
            return _if_version(data, 0, 4)
        case LinkType.IPV6:
            return _if_version(data, 0, 6)
        case LinkType.LINUX_SLL:
            return _behind_sll(data, protocol_at=14, payload_at=16)
        case LinkType.LINUX_SLL2:
            return _behind_sll(data, protocol_at=0, payload_at=20)
        case LinkType.NULL:
            # The family is in the byte order of the capturing host, which the file's order need not be
            return _behind_family(data, {int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big")})
        case LinkType.LOOP:
            return _behind_family(data, {int.from_bytes(data[:4], "big")})
    return None


def _if_version(data: bytes, at: int, version: int) -> int | None:
    return at if at < len(data) and data[at] >> 4 == version else None


def _behind_ethertype(ethertype: int, data: bytes, at: int) -> int | None:
    while ethertype in VLAN_ETHERTYPES:
        if len(data) < at + 4:
            return None
        ethertype = data[at + 2] << 8 | data[at + 3]
        at += 4
    if ethertype == ETHERTYPE_IPV4:
        return _if_version(data, at, 4)
    if ethertype == ETHERTYPE_IPV6:
        return _if_version(data, at, 6)
    if ethertype in MPLS_ETHERTYPES:
        return _behind_mpls(data, at)
    if ethertype == ETHERTYPE_PPPOE_SESSION and len(data) >= at + 8:
        # RFC 2516 §4: 6 octets of PPPoE, then the PPP protocol number
        version = PPP_VERSIONS.get(data[at + 6] << 8 | data[at + 7])
        return None if version is None else _if_version(data, at + 8, version)
    return None


def _behind_llc(data: bytes, at: int) -> int | None:
    # RFC 1042: LLC AA-AA-03, organisation 00-00-00, then an Ethertype
    if data[at : at + 6] != b"\xaa\xaa\x03\0\0\0" or len(data) < at + 8:
        return None
    return _behind_ethertype(data[at + 6] << 8 | data[at + 7], data, at + 8)


def _behind_mpls(data: bytes, at: int) -> int | None:
    # RFC 3032 §2.1: the lowest bit of an entry's third octet marks the bottom of the stack; nothing names what follows
    while at + 4 <= len(data):
        bottom = data[at + 2] & 1
        at += 4
        if bottom:
            return _if_version(data, at, 4) or _if_version(data, at, 6)
    return None


def _behind_sll(data: bytes, *, protocol_at: int, payload_at: int) -> int | None:
    if len(data) < payload_at:
        return None
    protocol = data[protocol_at] << 8 | data[protocol_at + 1]
    # In Linux cooked captures 4 stands for a frame that begins with 802.2 LLC
    if protocol == 4:
        return _behind_llc(data, payload_at)
    return _behind_ethertype(protocol, data, payload_at)


def _behind_family(data: bytes, families: set[int]) -> int | None:
    if AF_INET in families:
        return _if_version(data, 4, 4)
    if families & AF_INET6_VALUES:
        return _if_version(data, 4, 6)
    return None


MAX_LENGTH_8023 = 1500
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_PPPOE_SESSION = 0x8864
MPLS_ETHERTYPES = frozenset({0x8847, 0x8848})
VLAN_ETHERTYPES = frozenset({0x8100, 0x88A8, 0x9100, 0x9200})
PPP_VERSIONS = {0x0021: 4, 0x0057: 6}
AF_INET = 2
AF_INET6_VALUES = frozenset({10, 23, 24, 28, 30})
"""Linux, Windows, NetBSD and OpenBSD, FreeBSD, macOS."""
