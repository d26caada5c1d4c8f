"""Ethernet II frames and VLAN tags (IEEE 802.3 §3.2, IEEE 802.1Q §9.6)."""

from __future__ import annotations

from .format import Header, bits, octets
from .numbers import ETHERTYPE_NAMES


class Ethernet(Header, name="eth", title="Ethernet II", source="IEEE 802.3 §3.2"):
    """Frame header."""

    destination: bytes = octets("IEEE 802.3 §3.2.4", "destination address", size=6, form="mac", wire_name="dst")
    source: bytes = octets("IEEE 802.3 §3.2.5", "source address", size=6, form="mac", wire_name="src")
    ethertype: int = bits(
        16, "IEEE 802.3 §3.2.6", "what the frame carries", form="hex", names=ETHERTYPE_NAMES, wire_name="type"
    )


class VLAN(Header, name="vlan", title="802.1Q tag", source="IEEE 802.1Q §9.6"):
    """Tag behind a TPID."""

    priority: int = bits(3, "IEEE 802.1Q §9.6", "priority")
    dei: int = bits(1, "IEEE 802.1Q §9.6", "drop eligible")
    vid: int = bits(12, "IEEE 802.1Q §9.6", "VLAN identifier", wire_name="id")
    ethertype: int = bits(
        16, "IEEE 802.1Q §9.6", "what the frame carries", form="hex", names=ETHERTYPE_NAMES, wire_name="etype"
    )
