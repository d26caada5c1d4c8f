"""Tunnels that wesper is held against, and its own: each between two hosts of a lab."""

from .openvpn import OpenVPN
from .ours import Wesper, WesperPSP
from .plain import PlainVeth
from .strongswan import StrongSwan
from .tunnel import MTU, Tunnel, TunnelFailed
from .wireguard_go import WireGuardGo

PLAIN: type[Tunnel] = PlainVeth
OURS: type[Tunnel] = Wesper
PSP: type[Tunnel] = WesperPSP
PEERS: tuple[type[Tunnel], ...] = (WireGuardGo, StrongSwan, OpenVPN)
"""Tunnels of others, from Debian's packages."""

__all__ = [
    "MTU",
    "OURS",
    "PEERS",
    "PLAIN",
    "PSP",
    "OpenVPN",
    "PlainVeth",
    "StrongSwan",
    "Tunnel",
    "TunnelFailed",
    "Wesper",
    "WesperPSP",
    "WireGuardGo",
]
