"""SAs of a tunnel as those of a key file, for captures: to decrypt what was on the wire, here or in Wireshark."""

from __future__ import annotations

from ..keying import Encapsulated, StaticSA
from ..protocols.ip import IPAddress
from ..sa import SA, AddressRange, Direction
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
    )


def sas_of_file(file: TunnelFile) -> list[StaticSA]:
    """Return all SAs of a tunnel file, each pair's outbound one first; addresses as the file has them."""
    found = []
    for tunnel in file.tunnels:
        peer = tunnel.peer
        profile = tunnel.profile(tunnel.local, peer, None, 65535)
        for pair in tunnel.pairs:
            found += [static_sa(tunnel.sa(pair, way, profile), f"{tunnel.name} {way.value}") for way in Direction]
    return found


def _one(address: IPAddress) -> AddressRange | None:
    """Return a range of one address, None for the unspecified one."""
    return None if address.is_unspecified else AddressRange(address.version, int(address), int(address))
