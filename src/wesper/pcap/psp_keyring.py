"""PSP's keys for one packet at a time, as a dissection wants them."""

from __future__ import annotations

from collections.abc import Iterator

from ..crypto.psp import Version
from ..keying import PSPKeys
from ..protocols import ip
from ..protocols.ip import IPAddress
from ..protocols.psp import open_sealed


class PSPKeyring:
    """Associations and devices that open PSP packets."""

    def __init__(self, keys: PSPKeys) -> None:
        self._keys = keys
        self.ports = keys.ports

    def open(
        self, spi: int, version: Version, source: bytes, destination: bytes, port: int, sealed: bytes
    ) -> tuple[str, bytes | None]:
        """Return whose key it was, and header, extension and payload in clear.

        None in their place if no ICV fitted, and "" for whose if there is no key at all.   sealed: PSP header to ICV.
        """
        tried = ""
        for title, key in self._candidates(spi, version, ip.address(source), ip.address(destination), port):
            clear = open_sealed(version, key, sealed)
            if clear is not None:
                return title, clear
            tried = tried or title
        return tried, None

    def _candidates(
        self, spi: int, version: Version, source: IPAddress, destination: IPAddress, port: int
    ) -> Iterator[tuple[str, bytes]]:
        for association in self._keys.associations:
            if association.carries(spi, version.code, source, destination, port):
                yield association.title, association.key
        for device in self._keys.devices:
            if device.receives(destination, port):
                key = device.derive(spi, version.code)
                if key is not None:
                    yield f"{device.title}, device key {spi >> 31}", key
