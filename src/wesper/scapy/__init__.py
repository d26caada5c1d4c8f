"""Scapy layers for formats that Scapy does not have, made from the declarations in `wire`.

    >>> from scapy.layers.inet import IP, UDP
    >>> from wesper.scapy import PSP
    >>> bytes(IP() / UDP() / PSP(spi=7, vc=bytes(8)))[28:36].hex()
    '0002000300000007'

A layer has Wireshark's field names; lengths left at None are worked out when a packet is built. Importing this binds
the layers to their IP protocols and UDP ports. Encryption is the engines' business: what a layer carries is octets.
"""

from __future__ import annotations

from ..wire.layouts import LAYOUTS
from .layers import bind, layer

PSP = layer(LAYOUTS["psp"].parts[0])

bind(LAYOUTS["psp"], (PSP,))

__all__ = ["PSP"]
