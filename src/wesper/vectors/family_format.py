"""What WESPv2's and EESP's entries say of their SA beyond what ESP's do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..protocols import PROTOCOLS, ip
from ..protocols.eesp_keys import SSKDFS, master_key
from ..protocols.udp import HEADER as UDP_HEADER
from ..sa import CryptOffset, EESPFormat, Exposure, FlowPolicy, Option, StatelessGroup, SubSAs, WESPv2Format
from ..wire.eesp import EESP, STATELESS_CONTEXT, StatelessOption
from ..wire.numbers import UDP
from ..wire.wespv2 import WESPv2
from .fields import FieldError, Fields

_MOST_WORDS: Final = 63
_STATELESS: Final = "EESP-SL-1 (ours)"


@dataclass(frozen=True, slots=True)
class Stateless:
    """A sender of a stateless group: what its SA begins with, and what its keys come from."""

    master: bytes
    device_id: int
    epoch: int
    counter: int

    @property
    def number(self) -> int:
        """Epoch and counter as one number."""
        return self.epoch << 48 | self.counter


def read_wespv2(params: Fields, *, whole: bool) -> WESPv2Format:
    """Read the settings of a WESPv2 SA.   whole: no field may be left to its default."""
    words = params.integer("crypt_offset", 0, _MOST_WORDS) if whole or params.has("crypt_offset") else 0
    limit = _MOST_WORDS
    if whole or params.has("max_crypt_offset"):
        limit = params.integer("max_crypt_offset", 0, _MOST_WORDS)
    return WESPv2Format(
        crypt_offset=_exactly(words) if words else CryptOffset(),
        max_crypt_offset_octets=4 * limit,
        options=_read_options(params, whole),
    )


def read_eesp(params: Fields, key_octets: int, *, whole: bool) -> tuple[EESPFormat, bytes | None, Stateless | None]:
    """Read the settings of an EESP SA, its root key if it has Sub SAs, and its stateless group if it has one.

    key_octets: of the keys that packets are protected with.   whole: no field may be left to its default.
    """
    numbers = not (whole or params.has("sn")) or params.word("sn", ("64", "none")) == "64"
    words = params.integer("crypt_offset", 0, _MOST_WORDS) if params.has("crypt_offset") else None
    limit = params.integer("max_crypt_offset", 0, _MOST_WORDS) if params.has("max_crypt_offset") else None
    session = params.integer("session_id", 0, 0xFFFF) if whole or params.has("session_id") else 0
    number = params.integer("ip_proto", 0, 255) if whole or params.has("ip_proto") else EESPFormat().ip_protocol
    options = _read_options(params, whole)
    sub_sas, root_key = _read_sub_sa(params, key_octets)
    group, stateless = _read_stateless(params)
    if group is not None:
        context = StatelessOption(root_key_index=group.indexes[0], device_id=group.device_id).build()
        options = tuple(o for o in options if o.type != STATELESS_CONTEXT or o.build() != context)
    # What only a receiver is tried with may be more than it announced.
    sendable = session if sub_sas is None else min(session, sub_sas.max_id)
    settings = EESPFormat(
        sequence_numbers=numbers,
        crypt_offset=None if words is None else _exactly(words),
        max_crypt_offset_octets=None if limit is None else 4 * limit,
        peer_max_crypt_offset_octets=None if words is None else 4 * _MOST_WORDS,
        session=FlowPolicy(value=sendable),
        sub_sas=sub_sas,
        stateless=group,
        options=options,
        ip_protocol=number,
    )
    return settings, root_key, stateless


def options_of(protocol: str, packet: bytes) -> bytes:
    """Return the options field of a packet.   packet: from its IP header.   Raises FieldError if there is none."""
    body = body_of(protocol, packet)
    if protocol == "wespv2":
        return WESPv2.parse(body).options
    return EESP.parse(body, sequence_number=0, iv=0).options


def body_of(protocol: str, packet: bytes) -> bytes:
    """Return a packet from its protocol's first octet on.   Raises FieldError if it is no IP packet."""
    datagram = ip.parse(packet)
    if datagram is None:
        raise FieldError("no IP packet to find options in")
    at = datagram.upper_at
    if datagram.upper == UDP:
        at += UDP_HEADER + len(PROTOCOLS[protocol].marker())
    return datagram.packet[at:]


def _exactly(words: int) -> CryptOffset:
    """Return the policy that leaves so many words readable, whatever they hold."""
    return CryptOffset(Exposure.OCTETS, 4 * words, expose_payload=True)


def _read_options(params: Fields, whole: bool) -> tuple[Option, ...]:
    if not whole and not params.has("options"):
        return ()
    return tuple(Option(each.integer("type", 0, 255), each.octets("data_hex")) for each in params.objects("options"))


def _read_sub_sa(params: Fields, key_octets: int) -> tuple[SubSAs | None, bytes | None]:
    if not params.has("sub_sa"):
        return None, None
    fields = params.object("sub_sa")
    kdf = fields.word("sskdf", tuple(SSKDFS))
    sub_sas = SubSAs(kdf, fields.integer("max_id", 0, 0xFFFF), key_octets=key_octets)
    return sub_sas, fields.octets("root_key_hex", secret=True)


def _read_stateless(params: Fields) -> tuple[StatelessGroup | None, Stateless | None]:
    if not params.has("stateless"):
        return None, None
    fields = params.object("stateless")
    fields.word("profile", (_STATELESS,))
    index = fields.integer("root_key_index", 0, 255)
    device = fields.octets("device_id_hex")
    if len(device) != 8:
        raise FieldError(f"{fields.name('device_id_hex')} has {len(device)} octets, not 8")
    master = master_key(fields.octets_list("root_keys_hex", secret=True))
    group = StatelessGroup(int.from_bytes(device, "big"), (index,))
    return group, Stateless(
        master, group.device_id, fields.integer("epoch", 0, 0xFFFF), fields.number("counter", 48, low=1)
    )
