"""ESP: from payload to protected octets and back (RFC 4303 §2, §3.3, §3.4).

No state and no clock here: the sequence number, the IV and the keys come in; whether a number is fresh is the SA's
business. WESP and WESPv2 put their headers in front of the same packet and share what is here.
"""

from __future__ import annotations

import struct
from typing import Final

from ..crypto import InvalidTag, Kind, Suite, Transform
from ..verdict import DropReason
from ..wire.esp import ESP, ESPTrailer
from ..wire.numbers import ESP as ESP_PROTOCOL
from .encapsulation import Arrived, Encapsulation, Located, Opened, Outgoing, Terms

_PADDING: Final = bytes(range(1, 256))  # RFC 4303 §2.4: 1, 2, 3, ...
HEADER: Final = ESP.SIZE
TRAILER: Final = ESPTrailer.SIZE


class _ESP(Encapsulation):
    name = "esp"

    def ip_protocol(self, terms: Terms) -> int:
        return ESP_PROTOCOL

    def locate(self, body: bytes) -> Located | DropReason:
        if len(body) < HEADER:
            return DropReason.TRUNCATED_HEADER
        header = ESP.parse(body, iv=0)
        return Located(header.spi, header.sequence)

    def quoted(self, body: bytes) -> Located | None:
        return quoted(body, 0)

    def read(
        self, terms: Terms, body: bytes, version: int, in_udp: bool, *, looking: bool = False
    ) -> Arrived | DropReason:
        return read(terms.cipher, body, 0)

    def unseal(self, terms: Terms, keys: Transform, arrived: Arrived, sequence: int) -> bytes | DropReason:
        return unseal(terms, keys, arrived, sequence, b"")

    def unwrap(self, terms: Terms, arrived: Arrived, content: bytes) -> Opened:
        return without_trailer(terms, content, arrived.crypt_offset_octets)

    def seal(self, terms: Terms, keys: Transform, out: Outgoing) -> bytes:
        return seal_packet(terms, keys, out, b"", 0)

    def inner_mtu(self, terms: Terms, version: int, in_udp: bool, room: int) -> int:
        return inner_mtu(terms.cipher, room)


PROTOCOL: Final[Encapsulation] = _ESP()


def quoted(body: bytes, at: int) -> Located | None:
    """Return SPI and sequence number of the ESP packet that begins at body[at], as much as there is of it."""
    if len(body) < at + 4:
        return None
    low = body[at + 4 : at + 8]
    return Located(int.from_bytes(body[at : at + 4], "big"), int.from_bytes(low, "big") if len(low) == 4 else None)


def read(suite: Suite, body: bytes, at: int) -> Arrived | DropReason:
    """Take apart the ESP packet that begins at body[at].

    Drops: TRUNCATED: no room for IV, trailer and ICV, or no whole blocks between them.
    """
    sealed = len(body) - at - HEADER - suite.iv_octets - suite.icv_octets
    if sealed < suite.block or sealed % suite.block:
        return DropReason.TRUNCATED
    header = ESP.parse(body, at, iv=suite.iv_octets)
    return Arrived(body, header.sequence, at + len(header), header.iv)


def unseal(terms: Terms, keys: Transform, arrived: Arrived, sequence: int, front: bytes) -> bytes | DropReason:
    """Return payload, padding and trailer of what `read` has passed.   front: authenticated octets in front of ESP."""
    suite, body, at = terms.cipher, arrived.body, arrived.payload_at
    spi = int.from_bytes(body[len(front) : len(front) + 4], "big")
    clear = body[at : at + arrived.crypt_offset_octets]
    associated, suffix = authenticated(suite, spi, sequence, terms.esn, arrived.iv)
    iv = implicit_iv(sequence, terms.esn) if suite.implicit_iv else arrived.iv
    try:
        return clear + keys.open(iv, front + associated + clear, body[at + len(clear) :], suffix)
    except InvalidTag:
        return DropReason.AUTH


def without_trailer(terms: Terms, content: bytes, crypt_offset_octets: int) -> Opened:
    """Take padding and trailer off.   crypt_offset_octets: so many were not encrypted, so no padding is among them."""
    trailer = ESPTrailer.parse(content, len(content) - TRAILER)
    end = len(content) - TRAILER - trailer.pad_length
    padding = content[max(end, 0) : -TRAILER]
    if end < crypt_offset_octets or (terms.check_padding and padding != _PADDING[: trailer.pad_length]):
        return Opened(trailer.next_header, b"", DropReason.BAD_PADDING)
    return Opened(trailer.next_header, content[:end])


def seal_packet(terms: Terms, keys: Transform, out: Outgoing, front: bytes, crypt_offset_octets: int) -> bytes:
    """Return the ESP packet.   front: authenticated octets in front of it, not in what is returned."""
    suite = terms.cipher
    clear, rest = out.payload[:crypt_offset_octets], out.payload[crypt_offset_octets:]
    pad = padding_octets(suite, len(rest))
    plaintext = rest + _PADDING[:pad] + ESPTrailer(pad, out.next_header).build()
    sent_iv = b"" if suite.implicit_iv else out.iv
    associated, suffix = authenticated(suite, out.spi, out.sequence, terms.esn, sent_iv)
    header = ESP(out.spi, out.sequence & 0xFFFFFFFF, sent_iv).build()
    return header + clear + keys.seal(out.iv, front + associated + clear, plaintext, suffix)


def inner_mtu(suite: Suite, room: int) -> int:
    """Return the largest payload that an ESP packet of room octets holds."""
    sealed = room - HEADER - suite.iv_octets - suite.icv_octets
    return max(sealed - sealed % suite.block - TRAILER, 0)


def padding_octets(suite: Suite, payload: int) -> int:
    """Return the least padding that makes payload, padding, Pad Length and Next Header whole blocks (RFC 4303 §2.4)."""
    return -(payload + TRAILER) % suite.block


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
