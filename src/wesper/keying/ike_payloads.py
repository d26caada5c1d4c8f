"""IKEv2 payloads that negotiate WESP, WESPv2 and EESP: octets to values and back; no exchange.

Source: RFC 7296 §3, RFC 5840 §2.3, draft-klassert-ipsecme-wespv2-01 §3, draft-ietf-ipsecme-eesp-ikev2-02 §3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..crypto import suite
from ..errors import ConfigError, WesperError
from ..protocols.crypt_offset import UNIT, check_octets
from ..protocols.eesp_keys import SSKDFS
from ..wire.format import TruncatedHeader
from ..wire.ike import (
    AttributeHeader,
    NotifyHeader,
    PayloadHeader,
    ProposalHeader,
    TransformHeader,
    WESPv2ModeData,
)

USE_WESP_MODE: Final = 16415  # RFC 5840 §2.3
ENCR: Final = 1  # transform types (RFC 7296 §3.3.2)
SEQUENCE_NUMBERS: Final = 5
KEY_LENGTH: Final = 14  # attribute
_MORE_PROPOSALS: Final = 2
_MORE_TRANSFORMS: Final = 3


class MalformedPayload(WesperError):
    """A payload whose lengths and counts do not add up."""


@dataclass(frozen=True, slots=True)
class CodePoints:
    """Numbers that IANA has not assigned yet, from the private ranges; both ends have to agree on them.

    A vendor ID should guard them (draft-ietf-ipsecme-eesp-ikev2-02 §6 leaves all of them to be assigned).
    """

    eesp: int = 201  # Security Protocol ID EESPv0
    sskdf: int = 241  # transform type
    numbers_64: int = 1024  # transforms of type SEQUENCE_NUMBERS
    numbers_none: int = 1025
    max_sub_sa_id: int = 40970  # notify types
    max_crypt_offset: int = 40971
    use_wespv2_mode: int = 40972


PRIVATE: Final = CodePoints()


@dataclass(frozen=True, slots=True)
class Notify:
    """A Notify payload.   type: 0..65535.   protocol_id, spi: 0 and empty where it is about no SA."""

    type: int
    data: bytes = b""
    protocol_id: int = 0
    spi: bytes = b""
    next_payload: int = 0
    critical: bool = False

    def build(self) -> bytes:
        """Return the payload from its generic header on."""
        body = NotifyHeader(self.protocol_id, len(self.spi), self.type).build() + self.spi + self.data
        return _with_header(self.next_payload, self.critical, body)


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of a transform.   value: a number in short form, octets in long form."""

    type: int
    value: int | bytes

    def build(self) -> bytes:
        """Return its octets."""
        if isinstance(self.value, int):
            return AttributeHeader(1, self.type, self.value).build()
        return AttributeHeader(0, self.type, len(self.value)).build() + self.value


@dataclass(frozen=True, slots=True)
class Transform:
    """An algorithm of a proposal.   type, id: IKEv2's numbers."""

    type: int
    id: int
    attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """One way to protect traffic.   number: from 1 on.   spi: the sender's, 4 octets for Child SAs."""

    number: int
    protocol_id: int
    spi: bytes
    transforms: tuple[Transform, ...]


@dataclass(frozen=True, slots=True)
class SAPayload:
    """A Security Association payload."""

    proposals: tuple[Proposal, ...]
    next_payload: int = 0
    critical: bool = False

    def build(self) -> bytes:
        """Return the payload from its generic header on."""
        built = [_build_proposal(each, each is self.proposals[-1]) for each in self.proposals]
        return _with_header(self.next_payload, self.critical, b"".join(built))


def parse_notify(payload: bytes) -> Notify:
    """Read a Notify payload.   payload: from its generic header to its end.   Raises MalformedPayload."""
    header = _header(payload)
    try:
        notify = NotifyHeader.parse(payload, PayloadHeader.SIZE)
    except TruncatedHeader as error:
        raise MalformedPayload(str(error)) from None
    at = PayloadHeader.SIZE + NotifyHeader.SIZE
    if at + notify.spi_size > len(payload):
        raise MalformedPayload(f"Notify with an SPI of {notify.spi_size} octets, and {len(payload) - at} are left")
    spi, data = payload[at : at + notify.spi_size], payload[at + notify.spi_size :]
    return Notify(notify.type, data, notify.protocol_id, spi, header.next_payload, bool(header.critical))


def parse_sa(payload: bytes) -> SAPayload:
    """Read an SA payload.   payload: from its generic header to its end.   Raises MalformedPayload."""
    header = _header(payload)
    proposals, at = [], PayloadHeader.SIZE
    while True:
        try:
            found = ProposalHeader.parse(payload, at)
        except TruncatedHeader as error:
            raise MalformedPayload(str(error)) from None
        end = at + found.length
        if found.last not in (0, _MORE_PROPOSALS) or end > len(payload) or found.length < len(found):
            raise MalformedPayload(f"proposal {found.number}: its length or its place in the list is wrong")
        transforms = _parse_transforms(payload[at + len(found) : end])
        if len(transforms) != found.transforms:
            raise MalformedPayload(
                f"proposal {found.number}: {found.transforms} transforms said, {len(transforms)} there"
            )
        proposals.append(Proposal(found.number, found.protocol_id, found.spi, transforms))
        at = end
        if found.last == 0:
            break
    if at != len(payload):
        raise MalformedPayload(f"{len(payload) - at} octets behind the last proposal")
    return SAPayload(tuple(proposals), header.next_payload, bool(header.critical))


# What the notifies say


@dataclass(frozen=True, slots=True)
class WESPv2Mode:
    """What USE_WESPv2_MODE announces: the largest crypt offset that is accepted, and whether flows may be named."""

    max_crypt_offset_octets: int = 0
    flow_identifiers: bool = False

    def notify(self, code_points: CodePoints = PRIVATE) -> Notify:
        """Return the notify.   Raises ConfigError."""
        check_octets("max_crypt_offset_octets", self.max_crypt_offset_octets)
        data = WESPv2ModeData(0, int(self.flow_identifiers), self.max_crypt_offset_octets // UNIT)
        return Notify(code_points.use_wespv2_mode, data.build())


def use_wesp_mode() -> Notify:
    """Return the notify that asks for WESP, or accepts it."""
    return Notify(USE_WESP_MODE)


def wespv2_mode(notify: Notify) -> WESPv2Mode:
    """Read USE_WESPv2_MODE.   Without data: no offset, no flow identifiers; octets behind the first are ignored."""
    if not notify.data:
        return WESPv2Mode()
    data = WESPv2ModeData.parse(notify.data)
    return WESPv2Mode(UNIT * data.crypt_offset_words, bool(data.flow_identifiers))


def max_sub_sa_id_notify(max_id: int, code_points: CodePoints = PRIVATE) -> Notify:
    """Return EESP_MAX_SUB_SA_ID.   max_id: 0..65535.   Raises ConfigError."""
    if not 0 <= max_id <= 0xFFFF:
        raise ConfigError(f"Sub SA ID {max_id}", key="max_id", expected="0..65535")
    return Notify(code_points.max_sub_sa_id, max_id.to_bytes(2, "big"))


def max_sub_sa_id(notify: Notify) -> int:
    """Read EESP_MAX_SUB_SA_ID.   Raises MalformedPayload."""
    if len(notify.data) != 2:
        raise MalformedPayload(f"EESP_MAX_SUB_SA_ID with {len(notify.data)} octets of data, not 2")
    return int.from_bytes(notify.data, "big")


def max_crypt_offset_notify(max_crypt_offset_octets: int, code_points: CodePoints = PRIVATE) -> Notify:
    """Return EESP_MAX_CRYPT_OFFSET.   max_crypt_offset_octets: 4..252.   Raises ConfigError: 0 is not to be sent."""
    check_octets("max_crypt_offset_octets", max_crypt_offset_octets)
    if max_crypt_offset_octets == 0:
        raise ConfigError("a maximum of 0", key="max_crypt_offset_octets", expected="no notify at all")
    return Notify(code_points.max_crypt_offset, bytes((max_crypt_offset_octets // UNIT,)))


def max_crypt_offset_octets(notify: Notify) -> int:
    """Read EESP_MAX_CRYPT_OFFSET, in octets.   Raises MalformedPayload."""
    if len(notify.data) != 1 or notify.data[0] > 63:
        raise MalformedPayload("EESP_MAX_CRYPT_OFFSET that is not one octet of at most 63")
    return UNIT * notify.data[0]


def eesp_proposal(
    number: int,
    spi: int,
    suites: Sequence[tuple[str, int]],
    sskdfs: Sequence[str] = (),
    *,
    sequence_numbers: bool = True,
    code_points: CodePoints = PRIVATE,
) -> Proposal:
    """Return a proposal for EESP.

    suites: name and key octets, the best first, of combined mode.   sskdfs: names of `SSKDFS`; none: no Sub SAs.
    Raises ConfigError, UnsupportedError.
    """
    transforms = []
    for name, key_octets in suites:
        cipher = suite(name)
        if not cipher.is_aead or key_octets not in cipher.key_octets:
            raise ConfigError(f"{name} with a key of {key_octets} octets", key="suites", expected="an AEAD and its key")
        if cipher.implicit_iv and not sequence_numbers:
            raise ConfigError(f"{name} without sequence numbers", key="suites", expected="a suite that sends its IV")
        # RFC 7296 §3.3.5: not for ciphers of one key length.
        length = (Attribute(KEY_LENGTH, 8 * key_octets),) if len(cipher.key_octets) > 1 else ()
        transforms.append(Transform(ENCR, cipher.encr, length))
    transforms += [Transform(code_points.sskdf, SSKDFS[name][0]) for name in sskdfs]
    transforms.append(
        Transform(SEQUENCE_NUMBERS, code_points.numbers_64 if sequence_numbers else code_points.numbers_none)
    )
    return Proposal(number, code_points.eesp, spi.to_bytes(4, "big"), tuple(transforms))


def _header(payload: bytes) -> PayloadHeader:
    try:
        header = PayloadHeader.parse(payload)
    except TruncatedHeader as error:
        raise MalformedPayload(str(error)) from None
    if header.length != len(payload):
        raise MalformedPayload(f"a payload that says {header.length} octets and has {len(payload)}")
    return header


def _with_header(next_payload: int, critical: bool, body: bytes) -> bytes:
    return PayloadHeader(next_payload, int(critical), 0, PayloadHeader.SIZE + len(body)).build() + body


def _build_proposal(proposal: Proposal, is_last: bool) -> bytes:
    built = [_build_transform(each, each is proposal.transforms[-1]) for each in proposal.transforms]
    header = ProposalHeader(
        last=0 if is_last else _MORE_PROPOSALS,
        number=proposal.number,
        protocol_id=proposal.protocol_id,
        spi_size=len(proposal.spi),
        transforms=len(built),
        spi=proposal.spi,
    )
    header.length = len(header) + sum(map(len, built))
    return header.build() + b"".join(built)


def _build_transform(transform: Transform, is_last: bool) -> bytes:
    attributes = b"".join(attribute.build() for attribute in transform.attributes)
    header = TransformHeader(
        last=0 if is_last else _MORE_TRANSFORMS,
        length=TransformHeader.SIZE + len(attributes),
        type=transform.type,
        id=transform.id,
    )
    return header.build() + attributes


def _parse_transforms(octets: bytes) -> tuple[Transform, ...]:
    transforms, at, last = [], 0, False
    while at < len(octets):
        try:
            found = TransformHeader.parse(octets, at)
        except TruncatedHeader as error:
            raise MalformedPayload(str(error)) from None
        end = at + found.length
        if last or found.last not in (0, _MORE_TRANSFORMS) or end > len(octets) or found.length < TransformHeader.SIZE:
            raise MalformedPayload("a transform whose length or place in the list is wrong")
        attributes = _parse_attributes(octets[at + TransformHeader.SIZE : end])
        transforms.append(Transform(found.type, found.id, attributes))
        at, last = end, found.last == 0
    if transforms and not last:
        raise MalformedPayload("no transform says that it is the last")
    return tuple(transforms)


def _parse_attributes(octets: bytes) -> tuple[Attribute, ...]:
    attributes, at = [], 0
    while at < len(octets):
        try:
            found = AttributeHeader.parse(octets, at)
        except TruncatedHeader as error:
            raise MalformedPayload(str(error)) from None
        at += AttributeHeader.SIZE
        if found.short:
            attributes.append(Attribute(found.type, found.value))
            continue
        if at + found.value > len(octets):
            raise MalformedPayload("an attribute that reaches past its transform")
        attributes.append(Attribute(found.type, octets[at : at + found.value]))
        at += found.value
    return tuple(attributes)
