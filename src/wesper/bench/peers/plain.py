"""No tunnel at all: the veth pair that all tunnels run over, with the MTU that they have inside."""

from __future__ import annotations

from ...lab import Lab, pair
from .tunnel import MTU, Tunnel


class PlainVeth(Tunnel):
    """A plain link."""

    name = "plain veth"
    needs_tun = False

    @property
    def inside(self) -> tuple[str, str]:
        """Addresses of the link itself."""
        a, b = self.hosts
        return a.address, b.address

    def _make_lab(self) -> Lab:
        return pair(mtu=MTU)

    def _bring_up(self) -> None:
        """Do nothing: the lab has it all."""
