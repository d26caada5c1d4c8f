"""Scapy layers for formats that Scapy does not have, made from the declarations in `wire`.

    >>> from scapy.layers.inet import IP, UDP
    >>> from wesper.scapy import PSP
    >>> bytes(IP() / UDP() / PSP(spi=7, vc=bytes(8)))[28:36].hex()
    '0002000300000007'

A layer has Wireshark's field names; lengths left at None are worked out when a packet is built. Importing this binds
the layers to their IP protocols and UDP ports. WESP and WESPv2, which share a number, are told apart by their version;
behind UDP port 4500, where ESP, IKE, WESP and EESP meet, a look at the first octets says which it is: in UDP a
`WESPIdentifier` stands before WESP and WESPv2. Encryption is the engines' business: what a layer carries is octets.
"""

from __future__ import annotations

from .layers import EESP, PSP, WESP, WESPIdentifier, WESPv2

__all__ = ["EESP", "PSP", "WESP", "WESPIdentifier", "WESPv2"]
