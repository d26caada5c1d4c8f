"""WESP: a header in front of ESP that says whether its payload is encrypted (RFC 5840).

The header is not covered by the ICV; the receiver compares all of it with what the SA says instead (§2).
"""

from __future__ import annotations

from typing import Final

from ..crypto import Kind, Suite, Transform
from ..verdict import DropReason
from ..wire.numbers import WESP as WESP_PROTOCOL
from ..wire.udp import WESP_IDENTIFIER
from ..wire.wesp import PADDING, VERSION, WESP
from . import esp
from .encapsulation import Arrived, Encapsulation, Located, Opened, Outgoing, Terms

HEADER: Final = WESP.SIZE


class _WESP(Encapsulation):
    name = "wesp"

    def ip_protocol(self, terms: Terms) -> int:
        return WESP_PROTOCOL

    def marker(self) -> bytes:
        return WESP_IDENTIFIER  # §2.1

    def locate(self, body: bytes) -> Located | DropReason:
        if len(body) < HEADER + esp.HEADER:
            return DropReason.TRUNCATED_HEADER
        header = WESP.parse(body[:HEADER] + bytes(PADDING))
        if header.version != VERSION:
            return DropReason.BAD_VERSION
        found = esp.quoted(body, len(header))
        return found if found is not None and len(body) >= len(header) + esp.HEADER else DropReason.TRUNCATED_HEADER

    def quoted(self, body: bytes) -> Located | None:
        if len(body) < HEADER or body[3] >> 6 != VERSION:
            return None
        return esp.quoted(body, len(WESP.parse(body[:HEADER] + bytes(PADDING))))

    def read(
        self, terms: Terms, body: bytes, version: int, in_udp: bool, *, looking: bool = False
    ) -> Arrived | DropReason:
        header, suite = WESP.parse(body), terms.cipher
        refused = None if looking else _refused(suite, header, version, in_udp)
        return esp.read(suite, body, len(header)) if refused is None else refused

    def unseal(self, terms: Terms, keys: Transform, arrived: Arrived, sequence: int) -> bytes | DropReason:
        at = HEADER + (PADDING if WESP.parse(arrived.body).padding_present else 0)
        inside = Arrived(arrived.body[at:], arrived.number, arrived.payload_at - at, arrived.iv)
        return esp.unseal(terms, keys, inside, sequence, b"")

    def unwrap(self, terms: Terms, arrived: Arrived, content: bytes) -> Opened:
        opened = esp.without_trailer(terms, content, 0)
        if opened.reason is None and WESP.parse(arrived.body).next_header not in (0, opened.next_header):
            return Opened(opened.next_header, b"", DropReason.BAD_NEXT_HEADER)
        return opened

    def seal(self, terms: Terms, keys: Transform, out: Outgoing) -> bytes:
        suite, padded = terms.cipher, _is_padded(out.version, out.in_udp)
        header = WESP(
            next_header=0 if encrypts(suite) else out.next_header,
            hdrlen=_hdrlen(suite, HEADER + PADDING * padded),
            trailerlen=_trailerlen(suite),
            version=VERSION,
            encrypted=int(encrypts(suite)),
            padding_present=int(padded),
            padding=bytes(PADDING * padded),
        )
        return header.build() + esp.seal_packet(terms, keys, out, b"", 0)

    def inner_mtu(self, terms: Terms, version: int, in_udp: bool, room: int) -> int:
        return esp.inner_mtu(terms.cipher, room - HEADER - PADDING * _is_padded(version, in_udp))


PROTOCOL: Final[Encapsulation] = _WESP()


def encrypts(suite: Suite) -> bool:
    """Whether the payload can't be read: the E bit."""
    return suite.kind not in (Kind.GMAC, Kind.NULL_HMAC)


def _refused(suite: Suite, header: WESP, version: int, in_udp: bool) -> DropReason | None:
    if header.encrypted != encrypts(suite):
        return DropReason.BAD_ENCRYPTED_BIT
    # Padding has to be there with IPv6 and must not be with IPv4; with UDP over IPv6 the identifier aligns.
    if (version == 4 and header.padding_present) or (version == 6 and not in_udp and not header.padding_present):
        return DropReason.BAD_HDRLEN
    if header.hdrlen != _hdrlen(suite, len(header)):
        return DropReason.BAD_HDRLEN
    return None if header.trailerlen == _trailerlen(suite) else DropReason.BAD_TRAILERLEN


def _is_padded(version: int, in_udp: bool) -> bool:
    return version == 6 and not in_udp


def _hdrlen(suite: Suite, header_octets: int) -> int:
    return 0 if encrypts(suite) else header_octets + esp.HEADER + suite.iv_octets


def _trailerlen(suite: Suite) -> int:
    return 0 if encrypts(suite) else suite.icv_octets
