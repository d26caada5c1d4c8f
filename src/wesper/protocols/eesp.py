"""EESP: one authenticated header, whole sequence numbers or none, Sub SAs, no trailer.

Source: draft-ietf-ipsecme-eesp-03; where it is unclear, docs/eesp.md says how it is read.
"""

from __future__ import annotations

import struct
from typing import Final

from ..crypto import InvalidTag, Suite, Transform
from ..errors import ConfigError
from ..verdict import DropReason
from ..wire.eesp import (
    CRYPT_OFFSET,
    EESP,
    STATELESS_CONTEXT,
    STATELESS_PROFILE,
    VERSION,
    CryptOffsetOption,
    PayloadInfo,
    StatelessOption,
)
from ..wire.numbers import AGGFRAG, IPV4, IPV6, NO_NEXT_HEADER
from . import options
from .crypt_offset import UNIT, offset_octets
from .eesp_format import EESPFormat
from .eesp_keys import stateless_key, sub_sa_key
from .encapsulation import Arrived, Encapsulation, KeySizes, Located, Opened, Outgoing, Terms
from .flow_identifier import FlowPolicy
from .modes import Mode, inner_length
from .options import Found, Option

HEADER: Final = EESP.SIZE
_NUMBER: Final = 8
_INFO: Final = PayloadInfo.SIZE
_MOST_PADDING: Final = 255
_COUNTER_BITS: Final = 48


class _EESP(Encapsulation):
    name = "eesp"
    format = EESPFormat
    whole_numbers = True
    takes_tfc = False

    def ip_protocol(self, terms: Terms) -> int:
        return _settings(terms).ip_protocol

    def check(self, terms: Terms) -> None:
        settings, suite = _settings(terms), terms.cipher
        if not suite.is_aead:
            raise ConfigError(f"{suite.name} with EESP", key="suite", expected="a combined-mode suite")
        if not terms.esn:
            raise ConfigError("EESP with 32-bit sequence numbers", key="esn", expected="true: its numbers have 64 bits")
        if settings.sequence_numbers and 0 < terms.window < 64:
            raise ConfigError(f"window {terms.window}", key="window", expected="0, or 64 and more")
        if not settings.sequence_numbers and suite.implicit_iv:
            raise ConfigError(
                f"{suite.name} without sequence numbers", key="suite", expected="a suite that sends its IV"
            )
        if not settings.sequence_numbers and terms.window:
            raise ConfigError(
                f"window {terms.window} without sequence numbers", key="window", expected="0: there is nothing to check"
            )
        if settings.sub_sas is not None and settings.sub_sas.key_octets not in suite.key_octets:
            raise ConfigError(
                f"Sub SA keys of {settings.sub_sas.key_octets} octets for {suite.name}",
                key="sub_sas.key_octets",
                expected=" or ".join(map(str, suite.key_octets)),
            )
        if settings.stateless is not None and suite.name != "aes-gcm-16":
            raise ConfigError(f"{suite.name} in a stateless group", key="suite", expected="aes-gcm-16")

    def key_sizes(self, terms: Terms) -> KeySizes:
        settings = _settings(terms)
        if settings.sub_sas is not None:
            return KeySizes((settings.sub_sas.root_key_octets,), 0, 0)
        if settings.stateless is not None:
            return KeySizes((settings.stateless.key_octets,), 0, 0)
        return super().key_sizes(terms)

    def can_send_dummies(self, terms: Terms) -> bool:
        # The optimized format has no Next Header to say it with.
        return terms.mode is not Mode.TUNNEL or _settings(terms).crypt_offset is not None

    # In

    def locate(self, body: bytes) -> Located | DropReason:
        if len(body) < HEADER:
            return DropReason.TRUNCATED_HEADER
        header = _base(body)
        if not header.always_one:
            return DropReason.NOT_EESP
        if header.version != VERSION:
            return DropReason.BAD_VERSION
        if header.reserved:
            return DropReason.BAD_RESERVED
        return Located(header.spi, None, header.session_id)

    def quoted(self, body: bytes) -> Located | None:
        if len(body) < HEADER or not body[0] & 0x80:
            return None
        header, at = _base(body), HEADER + body[1]
        low = body[at + 4 : at + _NUMBER]
        return Located(header.spi, int.from_bytes(low, "big") if len(low) == 4 else None, header.session_id)

    def shown_flow(self, body: bytes) -> int | None:
        return body[2] << 8 | body[3]

    def read(
        self, terms: Terms, body: bytes, version: int, in_udp: bool, *, looking: bool = False
    ) -> Arrived | DropReason:
        settings, suite = _settings(terms), terms.cipher
        at = HEADER + body[1] + _peer_header(settings, suite)
        if body[1] % 4 or at + suite.icv_octets > len(body):
            return DropReason.BAD_OPTLEN
        number_octets = _NUMBER if settings.sequence_numbers else 0
        header = EESP.parse(body, sequence_number=number_octets, iv=suite.iv_octets)
        if not looking and settings.sub_sas is not None and header.session_id > settings.sub_sas.max_id:
            return DropReason.BAD_SESSION
        found = options.walk(header.options)
        if found is None and not looking:
            return DropReason.BAD_OPTION
        found = found or []
        key_info = _key_info(settings, header, found)
        if isinstance(key_info, DropReason):
            return key_info
        shown = [option for option in found if option.type == CRYPT_OFFSET]
        offset, broken = 0, None
        if len(shown) > 1 or (shown and len(shown[0].data) != 2):
            return DropReason.BAD_OPTION
        if shown:
            option = CryptOffsetOption.parse(header.options, shown[0].at)
            offset = UNIT * option.crypt_offset_words
            if not looking and UNIT * option.payload_offset_words != at:
                return DropReason.BAD_PAYLOAD_OFFSET
            if settings.max_crypt_offset_octets is None or offset > settings.max_crypt_offset_octets:
                broken = DropReason.BAD_CRYPT_OFFSET
        content = len(body) - at - suite.icv_octets
        if content == 0 or content % 4:
            return DropReason.TRUNCATED
        if offset > content:
            return DropReason.BAD_CRYPT_OFFSET
        return Arrived(
            body,
            int.from_bytes(header.sequence_number, "big") if settings.sequence_numbers else None,
            at,
            header.iv,
            flow=header.session_id,
            sub_sa=header.session_id if settings.sub_sas is not None else 0,
            key_info=key_info,
            crypt_offset_octets=offset,
            has_crypt_offset=bool(shown),
            broken=broken,
        )

    def unseal(self, terms: Terms, keys: Transform, arrived: Arrived, sequence: int) -> bytes | DropReason:
        body, begin = arrived.body, arrived.payload_at + arrived.crypt_offset_octets
        iv = struct.pack(">Q", sequence) if terms.cipher.implicit_iv else arrived.iv
        try:
            return body[arrived.payload_at : begin] + keys.open(iv, body[:begin], body[begin:])
        except InvalidTag:
            return DropReason.AUTH

    def unwrap(self, terms: Terms, arrived: Arrived, content: bytes) -> Opened:
        if arrived.broken is not None:
            return Opened(0, b"", arrived.broken, tear_down=True)
        nibble = content[0] >> 4
        announced = _settings(terms).max_crypt_offset_octets is not None
        if terms.mode is Mode.TUNNEL and not arrived.has_crypt_offset:
            if nibble:
                return _optimized(terms, content)
            if not announced:
                return Opened(0, b"", DropReason.FORMAT_MISMATCH)
        if nibble:
            is_packet = terms.mode is Mode.TUNNEL and nibble in (4, 6)
            return Opened(0, b"", DropReason.FORMAT_MISMATCH if is_packet else DropReason.BAD_PAYLOAD_INFO)
        return _full(terms, content, arrived.crypt_offset_octets)

    # Out

    def flow(self, terms: Terms, flow: int) -> int:
        settings = _settings(terms)
        if settings.sub_sas is not None:
            return flow % (settings.sub_sas.sendable_max_id + 1)
        return flow & 0xFFFF

    def flow_policy(self, terms: Terms) -> FlowPolicy | None:
        return _settings(terms).session

    def source_port(self, terms: Terms, flow: int, port: int) -> int:
        sub_sas = _settings(terms).sub_sas
        if sub_sas is None or not sub_sas.first_port or not flow:
            return port
        return sub_sas.first_port + flow - 1

    def seal(self, terms: Terms, keys: Transform, out: Outgoing) -> bytes:
        settings, suite = _settings(terms), terms.cipher
        full = _is_full(terms)
        lead = PayloadInfo(next_header=out.next_header, pad_length=-len(out.payload) % 4).build() if full else b""
        content = lead + out.payload + bytes(-len(out.payload) % 4)
        offset = 0
        if settings.crypt_offset is not None:
            offset = offset_octets(
                settings.crypt_offset, out.datagram, out.payload_octets, _INFO, settings.crypt_offset_limit
            )
        inner = 0 if out.datagram is None else out.datagram.version
        area = _options(terms, 8 if 6 in (out.version, inner) else 4, offset)
        head = EESP(
            opt_len=len(area),
            session_id=out.flow,
            spi=out.spi,
            options=area,
            sequence_number=struct.pack(">Q", out.sequence) if settings.sequence_numbers else b"",
            iv=b"" if suite.implicit_iv else out.iv,
        ).build()
        return head + content[:offset] + keys.seal(out.iv, head + content[:offset], content[offset:])

    def inner_mtu(self, terms: Terms, version: int, in_udp: bool, room: int) -> int:
        # Which alignment it will be, the inner packet decides where the IP header in front is IPv4.
        fixed = version == 4 and terms.mode in (Mode.TRANSPORT, Mode.IPTFS)
        units = (8,) if version == 6 else (4,) if fixed else (4, 8)
        octets = HEADER + max(len(_options(terms, unit, 0)) for unit in units)
        octets += _peer_header(_settings(terms), terms.cipher) + terms.cipher.icv_octets
        left = room - octets - (_INFO if _is_full(terms) else 0)
        return max(left - left % 4, 0)

    # Derived keys

    def sends_numbers(self, terms: Terms) -> bool:
        return _settings(terms).sequence_numbers

    def has_sub_sas(self, terms: Terms) -> bool:
        return _settings(terms).sub_sas is not None

    def key_info(self, terms: Terms, spi: int, sequence: int, flow: int) -> bytes:
        settings = _settings(terms)
        if settings.sub_sas is not None:
            return struct.pack(">H", flow)
        if settings.stateless is not None:
            group = settings.stateless
            return struct.pack(">BIQH", group.indexes[0], spi, group.device_id, sequence >> _COUNTER_BITS)
        return b""

    def derive(self, terms: Terms, key: bytes, key_info: bytes) -> tuple[bytes, bytes]:
        settings, suite = _settings(terms), terms.cipher
        if settings.sub_sas is not None:
            return sub_sa_key(settings.sub_sas.kdf, key, key_info, settings.sub_sas.key_octets, suite.salt_octets)
        assert settings.stateless is not None
        master = settings.stateless.master(key, key_info[0])
        return stateless_key(master, key_info[1:])


PROTOCOL: Final[Encapsulation] = _EESP()


def _settings(terms: Terms) -> EESPFormat:
    assert isinstance(terms.format, EESPFormat)
    return terms.format


def _base(body: bytes) -> EESP:
    """Return the fixed base header.   body: 8 octets and more."""
    return EESP.parse(bytes((body[0], 0)) + body[2:HEADER], sequence_number=0, iv=0)


def _peer_header(settings: EESPFormat, suite: Suite) -> int:
    """Return the octets of sequence number and IV."""
    return (_NUMBER if settings.sequence_numbers else 0) + suite.iv_octets


def _is_full(terms: Terms) -> bool:
    """§2.8: a tunnel has the optimized format, but packets with a crypt offset need the full one (§3.1.2)."""
    return terms.mode is not Mode.TUNNEL or _settings(terms).crypt_offset is not None


def _options(terms: Terms, unit: int, crypt_offset_octets: int) -> bytes:
    """Return the options with padding, Crypt Offset first: its word then stands at octets 10 and 11 of every packet.

    unit: what the next layer's header is aligned to, counted from the first octet of EESP (§2.5).
    """
    settings = _settings(terms)
    wanted = list(settings.options)
    if settings.stateless is not None:
        group = settings.stateless
        built = StatelessOption(root_key_index=group.indexes[0], device_id=group.device_id).build()
        wanted.insert(0, Option(STATELESS_CONTEXT, built[2:]))
    if settings.crypt_offset is not None:
        wanted.insert(0, Option(CRYPT_OFFSET, bytes(2)))
    around = HEADER + _peer_header(settings, terms.cipher)
    area = options.build(wanted, unit, rest=-(around + (_INFO if _is_full(terms) else 0)) % unit)
    if settings.crypt_offset is None:
        return area
    option = CryptOffsetOption(
        payload_offset_words=(around + len(area)) // UNIT, crypt_offset_words=crypt_offset_octets // UNIT
    )
    return option.build() + area[CryptOffsetOption.SIZE :]


def _key_info(settings: EESPFormat, header: EESP, found: list[Found]) -> bytes | DropReason:
    """Return what a packet's keys are derived with."""
    if settings.sub_sas is not None:
        return struct.pack(">H", header.session_id)
    if settings.stateless is None:
        return b""
    contexts = [option for option in found if option.type == STATELESS_CONTEXT]
    if len(contexts) != 1 or len(contexts[0].data) != StatelessOption.SIZE - 2:
        return DropReason.BAD_OPTION
    context = StatelessOption.parse(header.options, contexts[0].at)
    if context.profile != STATELESS_PROFILE or context.root_key_index not in settings.stateless.indexes:
        return DropReason.NO_SA
    return struct.pack(">BIQ", context.root_key_index, header.spi, context.device_id) + header.iv[:2]


def _optimized(terms: Terms, content: bytes) -> Opened:
    """Cut an IP packet out of its zero padding."""
    next_header = {4: IPV4, 6: IPV6}.get(content[0] >> 4, NO_NEXT_HEADER)
    total = inner_length(next_header, content)
    if total is None:
        return Opened(next_header, b"", DropReason.BAD_INNER)
    if len(content) - total > _MOST_PADDING or (terms.check_padding and any(content[total:])):
        return Opened(next_header, b"", DropReason.BAD_PADDING)
    return Opened(next_header, content[:total])


def _full(terms: Terms, content: bytes, crypt_offset_octets: int) -> Opened:
    """Take Payload Info Header and padding off."""
    info = PayloadInfo.parse(content)
    end = len(content) - info.pad_length

    def refused(reason: DropReason) -> Opened:
        return Opened(info.next_header, b"", reason)

    if end < _INFO or (terms.check_padding and any(content[end:])):
        return refused(DropReason.BAD_PADDING)
    if crypt_offset_octets > end:
        return refused(DropReason.BAD_CRYPT_OFFSET)
    payload = content[_INFO:end]
    if info.next_header != NO_NEXT_HEADER:
        if terms.mode is Mode.TUNNEL and inner_length(info.next_header, payload) != len(payload):
            return refused(DropReason.BAD_INNER)
        if terms.mode is Mode.IPTFS and info.next_header != AGGFRAG:
            return refused(DropReason.BAD_PAYLOAD_INFO)  # RFC 9347 §2.3: nothing else
    return Opened(info.next_header, payload)
