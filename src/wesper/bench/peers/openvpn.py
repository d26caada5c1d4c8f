"""OpenVPN between two points, its data channel in userspace."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from .tunnel import INSIDE, MTU, Tunnel, find, first_line


class OpenVPN(Tunnel):
    """OpenVPN over UDP with AES-256-GCM, without the kernel's data channel offload, which few kernels have."""

    name = "openvpn"
    programs = (("openvpn", "openvpn"),)

    def version(self) -> str:
        """Return the first line of `--version`."""
        return " ".join(first_line([find("openvpn") or "", "--version"]).split()[:2])

    def _bring_up(self) -> None:
        hosts = self.hosts
        made = [certificate(host.name) for host in hosts]
        for place, host in enumerate(hosts):
            far, (key, own, _), (_, _, fingerprint) = hosts[1 - place], made[place], made[1 - place]
            folder = self._folder_of(host)
            for name, text in (("key.pem", key), ("cert.pem", own)):
                path = folder / name
                path.touch(0o600)
                path.write_text(text)
            lines = [
                "dev tun0",
                "dev-type tun",
                "proto udp4",
                f"local {host.address}",
                f"remote {far.address}",
                f"ifconfig {INSIDE[place]} {INSIDE[1 - place]}",
                "tls-server" if place == 0 else "tls-client",
                *(["dh none"] if place == 0 else []),
                "key /run/key.pem",
                "cert /run/cert.pem",
                f"peer-fingerprint {fingerprint}",
                "data-ciphers AES-256-GCM",
                f"tun-mtu {MTU}",
                "mssfix 0",
                "disable-dco",
                "fast-io",  # one poll less a datagram
                "reneg-sec 0",
                "verb 1",
            ]
            (folder / "openvpn.conf").write_text("".join(f"{line}\n" for line in lines))
            self._start_daemon(host, [find("openvpn") or "", "--config", "/run/openvpn.conf"])


def certificate(name: str) -> tuple[str, str, str]:
    """Make a key and a certificate signed by itself.   Returns both as PEM, and the SHA-256 fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return private, made.public_bytes(Encoding.PEM).decode(), made.fingerprint(SHA256()).hex(":").upper()
