"""wesper's own tunnel, as `wesper keygen` and `wesper up` make it: ESP in UDP, AES-256-GCM, the native engine."""

from __future__ import annotations

import importlib.util

from ...engine import native_is_built
from ...errors import UnsupportedError
from .tunnel import Tunnel


class Wesper(Tunnel):
    """Two daemons of wesper."""

    name = "wesper"
    needs_tun = False  # where it can't be opened, a veth pair takes its place

    @classmethod
    def look_for_what_it_needs(cls) -> None:
        """Raise UnsupportedError if the native engine is not built."""
        super().look_for_what_it_needs()
        if importlib.util.find_spec("wesper.tunnel.daemon") is None:
            raise UnsupportedError(cls.name, "live tunnels, which this version has not")
        if not native_is_built():
            raise UnsupportedError(cls.name, "install Rust (rustup, or cargo-web and rustc-web), then make build")

    def _bring_up(self) -> None:
        raise UnsupportedError(self.name, "live tunnels, which this version has not")
