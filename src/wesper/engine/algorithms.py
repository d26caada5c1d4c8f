"""The reference engine's algorithms, for known answers."""

from __future__ import annotations

import struct

from .. import crypto
from ..protocols import eesp_keys, esp
from .interface import Algorithms


class ReferenceAlgorithms(Algorithms):
    """What the reference engine's SAs run on."""

    def associated(self, suite: str, spi: int, sequence: int, esn: bool, iv: bytes) -> bytes:
        return esp.authenticated(crypto.suite(suite), spi, sequence, esn, iv)[0]

    def seal(
        self, suite: str, key: bytes, salt: bytes, auth_key: bytes, iv: bytes, associated: bytes, plaintext: bytes
    ) -> bytes:
        return crypto.transform(crypto.suite(suite), key, salt, auth_key).seal(iv, associated, plaintext)

    def open(
        self, suite: str, key: bytes, salt: bytes, auth_key: bytes, iv: bytes, associated: bytes, sealed: bytes
    ) -> bytes | None:
        try:
            return crypto.transform(crypto.suite(suite), key, salt, auth_key).open(iv, associated, sealed)
        except crypto.InvalidTag:
            return None

    def cbc(self, key: bytes, iv: bytes, data: bytes, *, decrypt: bool = False) -> bytes:
        return crypto.cbc(key, iv, data, decrypt=decrypt)

    def sub_sa_key(
        self, kdf: str, root_key: bytes, session_id: int, key_octets: int, salt_octets: int
    ) -> tuple[bytes, bytes]:
        return eesp_keys.sub_sa_key(kdf, root_key, struct.pack(">H", session_id), key_octets, salt_octets)

    def stateless_key(self, master: bytes, spi: int, device_id: int, epoch: int) -> tuple[bytes, bytes]:
        return eesp_keys.stateless_key(master, struct.pack(">IQH", spi, device_id, epoch))

    def hmac(self, suite: str, auth_key: bytes, data: bytes) -> bytes:
        return crypto.hmac_tag(crypto.suite(suite), auth_key, data)
