"""wesper's own tunnels, as `wesper up` makes them: AES-256-GCM, the native engine, all else by default; ESP and PSP."""

from __future__ import annotations

import secrets
import sys
from typing import Final

from ...crypto.psp import DEVICE_KEY, DeviceKey
from ...crypto.psp import version as psp_version
from ...engine import native_is_built
from ...errors import UnsupportedError
from .tunnel import INSIDE, MTU, Tunnel

_INTERFACE: Final = "wesper0"
_SPIS: Final = (0x77650001, 0x77650002)  # to b, to a
_KEY_OCTETS: Final = 32 + 4  # AES-256 and GCM's salt

_FILE: Final = """
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
"""
_SA: Final = """
[[tunnel.sa]]
spi_out = {spi_out:#x}
spi_in = {spi_in:#x}
key_out = "out.key"
"""
_PSP_VERSION: Final = 1  # AES-256-GCM
_PSP: Final = f"""
[tunnel.psp]
version = {_PSP_VERSION}
"""


class Wesper(Tunnel):
    """Two daemons of wesper: ESP in UDP."""

    name = "wesper"
    needs_tun = False  # where it can't be opened, a veth pair takes its place

    @classmethod
    def look_for_what_it_needs(cls) -> None:
        """Raise UnsupportedError if the native engine is not built."""
        super().look_for_what_it_needs()
        if not native_is_built():
            raise UnsupportedError(cls.name, "install Rust (rustup, or cargo-web and rustc-web), then make build")

    def _bring_up(self) -> None:
        keys = self._keys()
        for place, host in enumerate(self.hosts):
            folder, far = self._folder_of(host), 1 - place
            for name, key in keys[place].items():
                path = folder / name
                path.touch(0o600)
                path.write_text(f"{key.hex()}\n")
            text = self._text().format(
                interface=_INTERFACE,
                inside=INSIDE[place],
                far_inside=INSIDE[far],
                mtu=MTU,
                here=host.address,
                there=self.hosts[far].address,
                spi_out=_SPIS[place],
                spi_in=_SPIS[far],
            )
            (folder / "wesper.toml").write_text(text)
            self._start_daemon(host, [sys.executable, "-P", "-m", "wesper", "up", "/run/wesper.toml", "--foreground"])

    def _keys(self) -> list[dict[str, bytes]]:
        """Return the key files of each end."""
        keys = [secrets.token_bytes(_KEY_OCTETS) for _ in _SPIS]
        return [{"out.key": keys[place], "in.key": keys[1 - place]} for place in (0, 1)]

    def _text(self) -> str:
        """Return the tunnel file of an end."""
        return _FILE + _SA + 'key_in = "in.key"\n'


class WesperPSP(Wesper):
    """The same with PSP, version 1."""

    name = "wesper, PSP"

    def _keys(self) -> list[dict[str, bytes]]:
        devices = [secrets.token_bytes(DEVICE_KEY) for _ in _SPIS]
        version = psp_version(_PSP_VERSION)
        return [
            {"device.key": devices[place], "out.key": DeviceKey(devices[1 - place]).derive(_SPIS[place], version)}
            for place in (0, 1)
        ]

    def _text(self) -> str:
        psp = _FILE.replace("[[tunnel]]\n", '[psp]\ndevice_keys = "device.key"\n\n[[tunnel]]\nprotocol = "psp"\n')
        return psp + _PSP + _SA
