"""WESPv2: ESP behind a header with options, all of it authenticated, and a payload that may be readable in part.

Source: draft-klassert-ipsecme-wespv2-01; where it is unclear, docs/wespv2.md says how it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

from ..crypto import Transform
from ..errors import ConfigError
from ..verdict import DropReason
from ..wire.esp import ESP
from ..wire.numbers import NO_NEXT_HEADER
from ..wire.numbers import WESP as WESP_PROTOCOL
from ..wire.udp import WESP_IDENTIFIER
from ..wire.wespv2 import FLOW_IDENTIFIER, VERSION, WESPv2
from . import esp, options
from .crypt_offset import MAX_OCTETS, UNIT, CryptOffset, Exposure, check_octets, offset_octets
from .encapsulation import Arrived, Encapsulation, Format, Located, Opened, Outgoing, Terms
from .flow_identifier import FlowPolicy
from .modes import Mode, inner_length
from .options import Found, Option

HEADER: Final = WESPv2.SIZE
MAX_OPTIONS: Final = 60  # octets: six bits, and a multiple of 4
_MAY_CHANGE: Final = 0x20  # type bit: "may change en route", which no authenticated option can
_ACTION_SKIP: Final = 0  # the two highest bits of a type
_FLOW_SIZES: Final = (4, 6, 8)


@dataclass(frozen=True, slots=True)
class WESPv2Format(Format):
    """Settings of WESPv2.

    crypt_offset: what a sender leaves readable.
    max_crypt_offset_octets: what this end has announced that it accepts, a multiple of 4 up to 252; 0: none.
    peer_max_crypt_offset_octets: what the peer has; None: the same.
    flow_identifier: how flows are named in the first option; None: there is no such option.
    flow_identifier_octets: 4, 6 or 8.
    options: further ones, to be sent in this order; padding comes by itself.
    """

    protocol: ClassVar[str] = "wespv2"

    crypt_offset: CryptOffset = field(default_factory=CryptOffset)
    max_crypt_offset_octets: int = 0
    peer_max_crypt_offset_octets: int | None = None
    flow_identifier: FlowPolicy | None = None
    flow_identifier_octets: int = 8
    options: tuple[Option, ...] = ()

    def __post_init__(self) -> None:
        check_octets("max_crypt_offset_octets", self.max_crypt_offset_octets)
        check_octets("peer_max_crypt_offset_octets", self.crypt_offset_limit)
        if self.crypt_offset.exposure is not Exposure.NONE and not self.crypt_offset_limit:
            raise ConfigError(
                "a crypt offset that the peer does not accept",
                key="crypt_offset",
                expected="max_crypt_offset_octets, or peer_max_crypt_offset_octets, above 0",
            )
        if self.flow_identifier_octets not in _FLOW_SIZES:
            raise ConfigError(
                f"flow identifier of {self.flow_identifier_octets} octets",
                key="flow_identifier_octets",
                expected=" or ".join(map(str, _FLOW_SIZES)),
            )
        for option in self.options:
            if option.type & _MAY_CHANGE:
                raise ConfigError(f"option type {option.type}", key="options", expected="a type without the bit 0x20")
            if option.type == FLOW_IDENTIFIER and self.flow_identifier is not None:
                raise ConfigError("two flow identifiers", key="options", expected="flow_identifier alone")
        longest = max(len(_options(self, 0, version, in_udp)) for version in (4, 6) for in_udp in (False, True))
        if longest > MAX_OPTIONS:
            raise ConfigError(
                f"{longest} octets of options", key="options", expected=f"at most {MAX_OPTIONS}, padding included"
            )

    @property
    def crypt_offset_limit(self) -> int:
        """What a sender may not exceed, in octets."""
        peer = self.peer_max_crypt_offset_octets
        return self.max_crypt_offset_octets if peer is None else peer


class _WESPv2(Encapsulation):
    name = "wespv2"
    format = WESPv2Format

    def ip_protocol(self, terms: Terms) -> int:
        return WESP_PROTOCOL

    def marker(self) -> bytes:
        return WESP_IDENTIFIER  # §2.3, as RFC 5840 §2.1

    def locate(self, body: bytes) -> Located | DropReason:
        if len(body) < HEADER + esp.HEADER:
            return DropReason.TRUNCATED_HEADER
        if body[3] >> 6 != VERSION:
            return DropReason.BAD_VERSION
        optlen = body[3] & 0x3F
        if optlen % 4 or HEADER + optlen + esp.HEADER > len(body):
            return DropReason.BAD_OPTLEN
        found = esp.quoted(body, HEADER + optlen)
        assert found is not None
        return found

    def quoted(self, body: bytes) -> Located | None:
        if len(body) < HEADER or body[3] >> 6 != VERSION:
            return None
        return esp.quoted(body, HEADER + (body[3] & 0x3F))

    def shown_flow(self, body: bytes) -> int | None:
        return _flow(options.walk(body[HEADER : HEADER + (body[3] & 0x3F)]) or [])

    def read(
        self, terms: Terms, body: bytes, version: int, in_udp: bool, *, looking: bool = False
    ) -> Arrived | DropReason:
        settings, suite = _settings(terms), terms.cipher
        header = WESPv2.parse(body)
        at = len(header) + esp.HEADER + suite.iv_octets
        sealed = len(body) - at - suite.icv_octets
        if sealed < esp.TRAILER:
            return DropReason.BAD_OPTLEN
        # With UDP over IPv6 the identifier takes the place of four octets of padding.
        if not looking and (header.hdrlen != at or (version == 6 and not in_udp and at % 8)):
            return DropReason.BAD_HDRLEN
        found = options.walk(header.options)
        if not looking and (found is None or any(option.type & _MAY_CHANGE for option in found)):
            return DropReason.BAD_OPTION
        found = found or []
        offset = UNIT * header.crypt_offset_words
        if not looking and offset == 0 and header.next_header != NO_NEXT_HEADER:
            return DropReason.BAD_NEXT_HEADER
        limit = MAX_OCTETS if looking else settings.max_crypt_offset_octets
        if offset > min(limit, sealed - esp.TRAILER):
            return DropReason.BAD_CRYPT_OFFSET
        if sealed - offset < suite.block or (sealed - offset) % suite.block:
            return DropReason.TRUNCATED
        inside = ESP.parse(body, len(header), iv=suite.iv_octets)
        return Arrived(
            body,
            inside.sequence,
            at,
            inside.iv,
            flow=_flow(found) or 0,
            crypt_offset_octets=offset,
            option=next((replace(o, at=HEADER + o.at) for o in found if o.type >> 6 != _ACTION_SKIP), None),
        )

    def unseal(self, terms: Terms, keys: Transform, arrived: Arrived, sequence: int) -> bytes | DropReason:
        header = WESPv2.parse(arrived.body)
        return esp.unseal(terms, keys, arrived, sequence, arrived.body[: len(header)])

    def unwrap(self, terms: Terms, arrived: Arrived, content: bytes) -> Opened:
        header, offset = WESPv2.parse(arrived.body), arrived.crypt_offset_octets
        opened = esp.without_trailer(terms, content, offset)
        reason = opened.reason
        if arrived.option is not None:
            reason = DropReason.UNKNOWN_OPTION
        elif reason is None and offset and header.next_header != opened.next_header:
            reason = DropReason.BAD_NEXT_HEADER
        elif reason is None and terms.mode is Mode.TUNNEL and opened.next_header != NO_NEXT_HEADER:
            total = inner_length(opened.next_header, opened.payload)
            if total is not None and offset > total:
                reason = DropReason.BAD_CRYPT_OFFSET
        return opened if reason is None else Opened(opened.next_header, b"", reason)

    def flow(self, terms: Terms, flow: int) -> int:
        settings = _settings(terms)
        return 0 if settings.flow_identifier is None else flow % (1 << 8 * settings.flow_identifier_octets)

    def flow_policy(self, terms: Terms) -> FlowPolicy | None:
        return _settings(terms).flow_identifier

    def seal(self, terms: Terms, keys: Transform, out: Outgoing) -> bytes:
        settings = _settings(terms)
        area = _options(settings, out.flow, out.version, out.in_udp)
        offset = offset_octets(
            settings.crypt_offset, out.datagram, out.payload_octets, lead=0, limit=settings.crypt_offset_limit
        )
        header = WESPv2(
            next_header=out.next_header if offset else NO_NEXT_HEADER,
            hdrlen=HEADER + len(area) + esp.HEADER + terms.cipher.iv_octets,
            crypt_offset_words=offset // UNIT,
            version=VERSION,
            optlen=len(area),
            options=area,
        ).build()
        return header + esp.seal_packet(terms, keys, out, header, offset)

    def inner_mtu(self, terms: Terms, version: int, in_udp: bool, room: int) -> int:
        settings, suite = _settings(terms), terms.cipher
        left = room - HEADER - len(_options(settings, 0, version, in_udp))
        if suite.block == UNIT or settings.crypt_offset.exposure is Exposure.NONE:
            return esp.inner_mtu(suite, left)
        # Only what is behind the offset is whole blocks, so the payload that fits depends on it.
        offsets = range(0, suite.block, UNIT)
        return min(offset + esp.inner_mtu(suite, left - offset) for offset in offsets)


PROTOCOL: Final[Encapsulation] = _WESPv2()


def _settings(terms: Terms) -> WESPv2Format:
    assert isinstance(terms.format, WESPv2Format)
    return terms.format


def _options(settings: WESPv2Format, flow: int, version: int, in_udp: bool) -> bytes:
    """Return the options with padding: what follows them begins at a multiple of 4 or 8 octets of the IP packet."""
    wanted = list(settings.options)
    if settings.flow_identifier is not None:
        # In front, so that it stands at a fixed place: octets 6 and on of the header.
        wanted.insert(0, Option(FLOW_IDENTIFIER, flow.to_bytes(settings.flow_identifier_octets, "big")))
    unit = 8 if version == 6 else 4
    return options.build(wanted, unit, rest=4 if version == 6 and not in_udp else 0)


def _flow(found: list[Found]) -> int | None:
    """Return the flow identifier: the first option, or none."""
    first = found[0] if found else None
    if first is None or first.type != FLOW_IDENTIFIER or len(first.data) not in _FLOW_SIZES:
        return None
    return int.from_bytes(first.data, "big")
