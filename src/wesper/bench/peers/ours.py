"""wesper's own tunnel, as `wesper up` makes it: ESP in UDP, AES-256-GCM, the native engine, all else by default."""

from __future__ import annotations

import secrets
import sys

from ...engine import native_is_built
from ...errors import UnsupportedError
from .tunnel import INSIDE, MTU, Tunnel

_INTERFACE = "wesper0"
_SPIS = (0x77650001, 0x77650002)  # to b, to a
_KEY_OCTETS = 32 + 4  # AES-256 and GCM's salt

_FILE = """
[interface]
name = "{interface}"
addresses = ["{inside}/24"]
mtu = {mtu}
engine = "native"
state_dir = "state"
run_dir = "run"

[[tunnel]]
local = "{here}"
peer = "{there}"
networks = ["{far_inside}/32"]

[[tunnel.sa]]
spi_out = {spi_out:#x}
spi_in = {spi_in:#x}
key_out = "out.key"
key_in = "in.key"
"""


class Wesper(Tunnel):
    """Two daemons of wesper."""

    name = "wesper"
    needs_tun = False  # where it can't be opened, a veth pair takes its place

    @classmethod
    def look_for_what_it_needs(cls) -> None:
        """Raise UnsupportedError if the native engine is not built."""
        super().look_for_what_it_needs()
        if not native_is_built():
            raise UnsupportedError(cls.name, "install Rust (rustup, or cargo-web and rustc-web), then make build")

    def _bring_up(self) -> None:
        hosts = self.hosts
        keys = [secrets.token_hex(_KEY_OCTETS) for _ in _SPIS]
        for place, host in enumerate(hosts):
            folder, far = self._folder_of(host), 1 - place
            for name, key in (("out.key", keys[place]), ("in.key", keys[far])):
                path = folder / name
                path.touch(0o600)
                path.write_text(f"{key}\n")
            text = _FILE.format(
                interface=_INTERFACE,
                inside=INSIDE[place],
                far_inside=INSIDE[far],
                mtu=MTU,
                here=host.address,
                there=hosts[far].address,
                spi_out=_SPIS[place],
                spi_in=_SPIS[far],
            )
            (folder / "wesper.toml").write_text(text)
            self._start_daemon(host, [sys.executable, "-P", "-m", "wesper", "up", "/run/wesper.toml", "--foreground"])
