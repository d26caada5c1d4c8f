"""wireguard-go, configured as `wg` would: over its control socket.

Source: the cross-platform userspace protocol, https://www.wireguard.com/xplatform/.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from .tunnel import INSIDE, MTU, Tunnel, TunnelFailed, find, first_line, give_inside

_INTERFACE = "wg0"
_PORT = 51820
_READY_S = 10.0


class WireGuardGo(Tunnel):
    """The userspace WireGuard in Go, ChaCha20-Poly1305 as always."""

    name = "wireguard-go"
    programs = (("wireguard-go", "wireguard-go"),)

    def version(self) -> str:
        """Return what `--version` says."""
        return first_line([find("wireguard-go") or "", "--version"])

    def _bring_up(self) -> None:
        hosts = self.hosts
        keys = [X25519PrivateKey.generate() for _ in hosts]
        for host in hosts:
            command = [find("wireguard-go") or "", "--foreground", _INTERFACE]
            self._start_daemon(host, command, {"LOG_LEVEL": "error"})
        for place, host in enumerate(hosts):
            far = hosts[1 - place]
            configure(
                self._folder_of(host) / "wireguard" / f"{_INTERFACE}.sock",
                {
                    "private_key": keys[place].private_bytes_raw().hex(),
                    "listen_port": str(_PORT),
                    "public_key": keys[1 - place].public_key().public_bytes_raw().hex(),
                    "endpoint": f"{far.address}:{_PORT}",
                    "allowed_ip": f"{INSIDE[1 - place]}/32",
                },
            )
            give_inside(host, _INTERFACE, INSIDE[place], mtu=MTU)


def configure(path: Path, settings: dict[str, str]) -> None:
    """Send settings, in order, to the control socket of an interface.   Raises TunnelFailed."""
    until = time.monotonic() + _READY_S
    request = "set=1\n" + "".join(f"{key}={value}\n" for key, value in settings.items()) + "\n"
    while True:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(_READY_S)
            try:
                control.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > until:
                    raise TunnelFailed("wireguard-go has opened no control socket") from None
                time.sleep(0.02)
                continue
            control.sendall(request.encode())
            answer = control.recv(4096).decode()
        if "errno=0" not in answer.split("\n"):
            raise TunnelFailed(f"wireguard-go refused its settings: {answer.strip()}")
        return
