"""SAs of a tunnel as those of a key file, for captures: to decrypt what was on the wire, here or in Wireshark."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..keying import Encapsulated, PSPAssociation, StaticSA, write_toml
from ..keying.psp_toml import write_received
from ..protocols.ip import IPAddress
from ..psp import GatewaySA
from ..sa import SA, AddressRange, Direction
from .carrier import AnySA
from .file import TunnelFile


def static_sa(sa: SA, name: str, sequence: int = 0) -> StaticSA:
    """Return an SA as a key file has it.   name: what to call it.   sequence: the last number used.

    An address that is not known yet is left open.
    """
    profile = sa.profile
    outer = profile.outer
    around = profile.encapsulation
    return StaticSA(
        profile.suite,
        sa.spi,
        sa.key,
        sa.salt,
        sa.auth_key,
        name=name,
        protocol=profile.protocol,
        direction=sa.direction,
        mode=profile.mode,
        local=None if outer is None else _one(outer.local),
        remote=None if outer is None else _one(outer.remote),
        inner=profile.inner,
        encapsulation=Encapsulated.NEVER if around is None else around,
        esn=profile.esn,
        window=profile.window,
        sequence=sequence,
        selectors=profile.selectors,
        format=profile.format,
    )


def psp_association(sa: GatewaySA, name: str, port: int) -> PSPAssociation:
    """Return a PSP association as a key file has it.   port: the UDP port of this end, which inbound packets go to."""
    profile = sa.profile
    look = profile.look if sa.direction is Direction.OUT else replace(profile.look, port=port)
    return PSPAssociation(
        look, sa.spi, sa.key, name, sa.direction, _one(profile.local), _one(profile.remote), sa.sequence
    )


def key_file(sas: Iterable[tuple[AnySA, str, int]], port: int) -> str:
    """Return the TOML of a key file with SAs that may be of either protocol.

    sas: each with its name and the last number used.   port: UDP port that PSP comes to.
    """
    esp, psp = list[StaticSA](), list[tuple[PSPAssociation, str]]()
    for sa, name, sequence in sas:
        if isinstance(sa, GatewaySA):
            psp.append((psp_association(sa, name, port), ""))
        else:
            esp.append(static_sa(sa, name, sequence))
    return "".join(write_received(psp)) if psp else write_toml(esp)


def sas_of_file(file: TunnelFile) -> list[StaticSA]:
    """Return all SAs of a tunnel file without PSP, each pair's outbound one first; addresses as the file has them."""
    return [static_sa(sa, name) for sa, name in _of_file(file) if isinstance(sa, SA)]


def associations_of_file(file: TunnelFile) -> list[PSPAssociation]:
    """Return all associations of a PSP tunnel file, each pair's outbound one first."""
    return [psp_association(sa, name, file.psp_port) for sa, name in _of_file(file) if isinstance(sa, GatewaySA)]


def _of_file(file: TunnelFile) -> Iterable[tuple[AnySA, str]]:
    for tunnel in file.tunnels:
        profile = tunnel.profile(tunnel.local, tunnel.peer, None, 65535)
        for pair in tunnel.pairs:
            for way in Direction:
                yield tunnel.sa(pair, way, profile), f"{tunnel.name} {way.value}"


def _one(address: IPAddress) -> AddressRange | None:
    """Return a range of one address, None for the unspecified one."""
    return None if address.is_unspecified else AddressRange(address.version, int(address), int(address))
