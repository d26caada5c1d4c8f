"""Whom a host believes: its own certificate, those that it has pinned, an authority; and TLS contexts made of that."""

from __future__ import annotations

import ssl

from ..errors import ConfigError
from ..host.link import IPAddress
from . import identity
from .settings import HostSettings, PeerSettings


class Trust:
    """A host's certificates.   Raises ConfigError for files that are no certificate or key, OSError."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self.certificate = identity.read_certificate(settings.certificate)
        """This host's own, in DER."""
        self.fingerprint = identity.fingerprint(self.certificate)
        self._pins = {peer.fingerprint: peer for peer in settings.peers if peer.fingerprint is not None}
        self.server = self._context(ssl.PROTOCOL_TLS_SERVER)
        """For those who come: they have to show a certificate."""
        self.server.verify_mode = ssl.CERT_REQUIRED
        self.server.verify_flags |= ssl.VerifyFlags(0x80000)  # X509_V_FLAG_PARTIAL_CHAIN: a pinned one will do
        self.server.num_tickets = 0
        if settings.authority is not None:
            self._load_authority(self.server)

    def client(self, peer: PeerSettings) -> ssl.SSLContext:
        """Return a context to call a peer with.   Its fingerprint is to be looked at afterwards."""
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        if peer.fingerprint is None:
            context.verify_mode = ssl.CERT_REQUIRED
            self._load_authority(context)
        return context

    def introduce(self, der: bytes) -> bool:
        """Take a certificate for verification from now on, if its fingerprint is pinned; tell whether it is."""
        if identity.fingerprint(der) not in self._pins:
            return False
        self.server.load_verify_locations(cadata=der)
        return True

    def who(self, der: bytes, address: IPAddress) -> str | None:
        """Return whose a certificate is that has been verified, None for somebody whom this host does not know."""
        pinned = self._pins.get(identity.fingerprint(der))
        if pinned is not None:
            return pinned.name if pinned.address in (None, address) else None
        return None if self._settings.authority is None else identity.name_of(der) or None

    def _context(self, protocol: int) -> ssl.SSLContext:
        """Return a context with this host's certificate that verifies nobody."""
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            context.load_cert_chain(self._settings.certificate, self._settings.key)
        except ssl.SSLError:
            raise ConfigError(
                "no key, or another certificate's", path=str(self._settings.key), expected="the key of the certificate"
            ) from None
        return context

    def _load_authority(self, context: ssl.SSLContext) -> None:
        try:
            context.load_verify_locations(self._settings.authority)
        except ssl.SSLError:
            raise ConfigError(
                "no certificate", path=str(self._settings.authority), expected="an authority's certificate in PEM"
            ) from None
