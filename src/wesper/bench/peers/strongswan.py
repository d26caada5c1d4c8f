"""strongSwan whose ESP runs in its own process: charon with the plugin kernel-libipsec."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from ipaddress import ip_interface

from ...lab import Node
from .tunnel import INSIDE, MTU, Tunnel, TunnelFailed, find, first_line

_READY_S = 10.0
_INTERFACE = "ipsec0"  # src/libcharon/plugins/kernel_libipsec/kernel_libipsec_router.c
_PLUGINS_FOLDER = "/usr/lib/ipsec/plugins"
_PLUGINS = "random nonce aesni openssl hmac kdf kernel-libipsec kernel-netlink socket-default vici"

_STRONGSWAN_CONF = """
charon {{
  load = {plugins}
  install_virtual_ip = no
  plugins {{
    vici {{
      socket = unix:///run/charon.vici
    }}
    kernel-libipsec {{
      load = yes
    }}
  }}
  filelog {{
    stderr {{
      default = 0
    }}
  }}
}}
"""
_SWANCTL_CONF = """
connections {{
  peer {{
    version = 2
    local_addrs = {here}
    remote_addrs = {there}
    proposals = aes256gcm16-prfsha256-ecp256
    rekey_time = 0
    local {{
      auth = psk
      id = {name}
    }}
    remote {{
      auth = psk
      id = {far}
    }}
    children {{
      inside {{
        local_ts = {inside}/32
        remote_ts = {far_inside}/32
        esp_proposals = aes256gcm16
        rekey_time = 0
      }}
    }}
  }}
}}
secrets {{
  ike {{
    secret = {secret}
  }}
}}
"""


class StrongSwan(Tunnel):
    """charon with kernel-libipsec: ESP in UDP with AES-256-GCM, keys by IKEv2 and a shared secret."""

    name = "strongswan"
    programs = (
        ("charon", "strongswan-charon"),
        ("swanctl", "strongswan-swanctl"),
        (f"{_PLUGINS_FOLDER}/libstrongswan-kernel-libipsec.so", "libcharon-extra-plugins"),
        (f"{_PLUGINS_FOLDER}/libstrongswan-aesni.so", "libstrongswan-standard-plugins"),
    )

    def version(self) -> str:
        """Return what `charon --version` says."""
        return first_line([find("charon") or "", "--version"])

    def _bring_up(self) -> None:
        hosts = self.hosts
        secret = f"0x{secrets.token_hex(32)}"
        for place, host in enumerate(hosts):
            folder, far = self._folder_of(host), hosts[1 - place]
            (folder / "strongswan.conf").write_text(_STRONGSWAN_CONF.format(plugins=_PLUGINS))
            path = folder / "swanctl.conf"
            path.touch(0o600)
            path.write_text(
                _SWANCTL_CONF.format(
                    here=host.address,
                    there=far.address,
                    name=host.name,
                    far=far.name,
                    inside=INSIDE[place],
                    far_inside=INSIDE[1 - place],
                    secret=secret,
                )
            )
            host.netlink.add_address("lo", ip_interface(f"{INSIDE[place]}/32"))
            self._start_daemon(host, [find("charon") or ""], {"STRONGSWAN_CONF": "/run/strongswan.conf"})
        for host in hosts:
            self._tell(host, "--load-all", "--file", str(self._folder_of(host) / "swanctl.conf"))
        self._tell(hosts[0], "--initiate", "--child", "inside")
        for host in hosts:
            host.netlink.set_mtu(_INTERFACE, MTU)

    def _tell(self, host: Node, *words: str) -> None:
        """Run swanctl against the charon of a host, which may still be starting.   Raises TunnelFailed."""
        folder = self._folder_of(host)
        until = time.monotonic() + _READY_S
        while not (folder / "charon.vici").exists():
            if time.monotonic() > until:
                raise TunnelFailed("charon has opened no control socket")
            time.sleep(0.02)
        done = subprocess.run(
            [find("swanctl") or "", *words, "--uri", f"unix://{folder / 'charon.vici'}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=20,
            env={**os.environ, "STRONGSWAN_CONF": str(folder / "strongswan.conf")},
        )
        if done.returncode:
            raise TunnelFailed(f"swanctl {words[0]}: {' '.join(done.stdout.split())}")
