"""A packet taken apart, with keys or without: who reads what is put together here."""

from __future__ import annotations

from collections.abc import Collection

from ..wire.psp import PORT
from .dissection import Dissection
from .esp_inside import ESPInside
from .headers import MAX_DEPTH, Walk
from .keyring import Keyring
from .link import LinkType
from .psp_inside import PSPInside


def dissect(
    packet: bytes,
    link_type: int = LinkType.RAW,
    keys: Keyring | None = None,
    psp_ports: Collection[int] = frozenset((PORT,)),
) -> Dissection:
    """Take a packet apart.

    packet: any octets, from the link-layer header of link_type on.   keys: to look into ESP, WESP, WESPv2, EESP and
    PSP.   psp_ports: UDP destination ports that are PSP's, besides those that keys name.   Never raises for what the
    octets are.
    """
    walk = _walk(packet, keys, psp_ports)
    walk.link(link_type)
    return walk.result


def _walk(packet: bytes, keys: Keyring | None, psp_ports: Collection[int]) -> Walk:
    walk = Walk(packet, lambda octets: _walk(octets, None, ()))
    psp = None if keys is None else keys.psp
    PSPInside(walk, psp, frozenset(psp_ports) | (frozenset() if psp is None else psp.ports))
    ESPInside(walk, keys)
    return walk


__all__ = ["MAX_DEPTH", "Keyring", "dissect"]
