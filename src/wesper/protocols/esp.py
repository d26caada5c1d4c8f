"""ESP: from payload to protected octets and back (RFC 4303 §2, §3.3, §3.4).

No state and no clock here: the sequence number, the IV and the keys come in; whether a number is fresh is the SA's
business.
"""

from __future__ import annotations

import struct
from typing import Final

from ..crypto import InvalidTag, Kind, Suite, Transform
from ..verdict import DropReason
from ..wire.esp import ESP
from ..wire.numbers import ESP as ESP_PROTOCOL
from .encapsulation import Encapsulation, Opened

_PADDING: Final = bytes(range(1, 256))  # RFC 4303 §2.4: 1, 2, 3, ...
_HEADER: Final = ESP.SIZE


class _ESP(Encapsulation):
    name = "esp"
    ip_protocol = ESP_PROTOCOL

    def locate(self, body: bytes) -> tuple[int, int] | DropReason:
        if len(body) < _HEADER:
            return DropReason.TRUNCATED_HEADER
        header = ESP.parse(body, iv=0)
        return header.spi, header.sequence

    def encapsulate(
        self,
        suite: Suite,
        keys: Transform,
        spi: int,
        sequence: int,
        esn: bool,
        iv: bytes,
        next_header: int,
        payload: bytes,
    ) -> bytes:
        pad = padding_octets(suite, len(payload))
        plaintext = payload + _PADDING[:pad] + bytes((pad, next_header))
        sent_iv = b"" if suite.implicit_iv else iv
        associated, suffix = authenticated(suite, spi, sequence, esn, sent_iv)
        header = ESP(spi, sequence & 0xFFFFFFFF, sent_iv).build()
        return header + keys.seal(iv, associated, plaintext, suffix)

    def fits(self, suite: Suite, body: bytes) -> bool:
        sealed = len(body) - _HEADER - suite.iv_octets - suite.icv_octets
        return sealed >= suite.block and sealed % suite.block == 0

    def decapsulate(
        self, suite: Suite, keys: Transform, body: bytes, sequence: int, esn: bool, check_padding: bool
    ) -> Opened | DropReason:
        header = ESP.parse(body, iv=suite.iv_octets)
        associated, suffix = authenticated(suite, header.spi, sequence, esn, header.iv)
        iv = implicit_iv(sequence, esn) if suite.implicit_iv else header.iv
        try:
            plaintext = keys.open(iv, associated, body[len(header) :], suffix)
        except InvalidTag:
            return DropReason.AUTH
        pad, next_header = plaintext[-2], plaintext[-1]
        end = len(plaintext) - 2 - pad
        if end < 0 or (check_padding and plaintext[end:-2] != _PADDING[:pad]):
            return Opened(next_header, b"", DropReason.BAD_PADDING)
        return Opened(next_header, plaintext[:end])

    def overhead(self, suite: Suite) -> int:
        return _HEADER + suite.iv_octets + suite.icv_octets

    def inner_mtu(self, suite: Suite, room: int) -> int:
        sealed = room - self.overhead(suite)
        return max(sealed - sealed % suite.block - 2, 0)


PROTOCOL: Final[Encapsulation] = _ESP()


def padding_octets(suite: Suite, payload: int) -> int:
    """Return the least padding that makes payload, padding, Pad Length and Next Header whole blocks (RFC 4303 §2.4)."""
    return -(payload + 2) % suite.block


def implicit_iv(sequence: int, esn: bool) -> bytes:
    """Return the 8-octet IV that is not sent: the sequence number (RFC 8750 §4)."""
    return struct.pack(">Q", sequence if esn else sequence & 0xFFFFFFFF)


def authenticated(suite: Suite, spi: int, sequence: int, esn: bool, iv: bytes) -> tuple[bytes, bytes]:
    """Return what stands before the ciphertext in the ICV's input, and what comes after it.

    iv: as sent.   AEAD: SPI, [high half,] low half (RFC 4106 §5); GMAC adds the IV (RFC 4543 §3.3); with a separate
    HMAC the high half comes last (RFC 4303 §3.3.2.1).
    """
    if not suite.is_aead:
        head = struct.pack(">II", spi, sequence & 0xFFFFFFFF) + iv
        return head, struct.pack(">I", sequence >> 32) if esn else b""
    head = struct.pack(">IQ", spi, sequence) if esn else struct.pack(">II", spi, sequence & 0xFFFFFFFF)
    return (head + iv if suite.kind is Kind.GMAC else head), b""
