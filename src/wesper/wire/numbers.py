"""Names of the numbers that several headers share."""

from __future__ import annotations

from typing import Final

ICMP: Final = 1
IPV4: Final = 4
TCP: Final = 6
UDP: Final = 17
IPV6: Final = 41
HOP_BY_HOP: Final = 0
ROUTING: Final = 43
FRAGMENT: Final = 44
ESP: Final = 50
AH: Final = 51
ICMPV6: Final = 58
NO_NEXT_HEADER: Final = 59
DESTINATION_OPTIONS: Final = 60
BEET_PSEUDO_HEADER: Final = 94
DCCP: Final = 33
SCTP: Final = 132
MOBILITY: Final = 135
UDP_LITE: Final = 136
WESP: Final = 141
AGGFRAG: Final = 144

# IANA "Assigned Internet Protocol Numbers", those that a packet here may carry.
PROTOCOL_NAMES: Final[dict[int, str]] = {
    HOP_BY_HOP: "hop-by-hop options",
    ICMP: "ICMP",
    2: "IGMP",
    IPV4: "IPv4",
    TCP: "TCP",
    UDP: "UDP",
    DCCP: "DCCP",
    IPV6: "IPv6",
    ROUTING: "routing header",
    FRAGMENT: "fragment header",
    47: "GRE",
    ESP: "ESP",
    AH: "AH",
    ICMPV6: "ICMPv6",
    NO_NEXT_HEADER: "no next header",
    DESTINATION_OPTIONS: "destination options",
    89: "OSPF",
    BEET_PSEUDO_HEADER: "BEET pseudo header",
    SCTP: "SCTP",
    MOBILITY: "mobility header",
    UDP_LITE: "UDP-Lite",
    WESP: "WESP",
    AGGFRAG: "AGGFRAG",
}
ECN_NAMES: Final[dict[int, str]] = {0: "Not-ECT", 1: "ECT(1)", 2: "ECT(0)", 3: "CE"}
ETHERTYPE_NAMES: Final[dict[int, str]] = {
    0x0800: "IPv4",
    0x0806: "ARP",
    0x86DD: "IPv6",
    0x8100: "802.1Q",
    0x88A8: "802.1ad",
}
