"""The layers, and how Scapy finds them."""

from __future__ import annotations

from typing import Any, ClassVar

from scapy.fields import StrFixedLenField
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP
from scapy.packet import Packet, bind_bottom_up, bind_layers, bind_top_down, split_bottom_up

from ..wire.layouts import LAYOUTS
from ..wire.udp import IPSEC_NAT_T_PORT, WESP_IDENTIFIER
from .declared import layer

_VERSION_OCTET = 3  # of WESP and WESPv2 alike, the version in its two high bits

PSP = layer(LAYOUTS["psp"].parts[0])
WESP = layer(LAYOUTS["wesp"].parts[0])
WESPv2 = layer(LAYOUTS["wespv2"].parts[0])
EESP = layer(LAYOUTS["eesp"].parts[0])


class WESPIdentifier(Packet):
    """Stands between UDP and WESP or WESPv2 (RFC 5840 §2.1)."""

    name = "WESP identifier"
    fields_desc: ClassVar[list[Any]] = [StrFixedLenField("identifier", WESP_IDENTIFIER, len(WESP_IDENTIFIER))]


class _Wrapped(Packet):
    """WESP or WESPv2, as the version says."""

    @classmethod
    def dispatch_hook(cls, _pkt: bytes = b"", *_: Any, **__: Any) -> type[Packet]:
        return WESPv2 if len(_pkt) > _VERSION_OCTET and _pkt[_VERSION_OCTET] >> 6 == 1 else WESP


class _InUDP(Packet):
    """What shares port 4500: EESP has the first bit set, WESP its identifier, the rest is known to Scapy."""

    @classmethod
    def dispatch_hook(cls, _pkt: bytes = b"", *_: Any, **__: Any) -> Any:
        if _pkt.startswith(WESP_IDENTIFIER):
            return WESPIdentifier
        if len(_pkt) > 1 and _pkt[0] & 0x80:
            return EESP
        return ESP.dispatch_hook(_pkt)  # type: ignore[no-untyped-call]


# Scapy's own PSP, if somebody has loaded it, knows no versions 2 and 3 and reads cookies another way.
UDP.payload_guess = [each for each in UDP.payload_guess if each[1].__module__ != "scapy.contrib.psp"]
bind_layers(UDP, PSP, dport=LAYOUTS["psp"].udp_port)
for lower, number in ((IP, "proto"), (IPv6, "nh")):
    bind_layers(lower, EESP, **{number: LAYOUTS["eesp"].ip_protocol})
    bind_bottom_up(lower, _Wrapped, **{number: LAYOUTS["wesp"].ip_protocol})
    for upper in (WESP, WESPv2):
        bind_top_down(lower, upper, **{number: LAYOUTS["wesp"].ip_protocol})
for port in ("dport", "sport"):
    split_bottom_up(UDP, ESP, **{port: IPSEC_NAT_T_PORT})
    bind_bottom_up(UDP, _InUDP, **{port: IPSEC_NAT_T_PORT})
for upper in (EESP, WESPIdentifier):
    bind_top_down(UDP, upper, sport=IPSEC_NAT_T_PORT, dport=IPSEC_NAT_T_PORT)
bind_bottom_up(WESPIdentifier, _Wrapped)
bind_layers(WESP, ESP)
bind_layers(WESPv2, ESP)
