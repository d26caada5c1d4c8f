"""Settings of EESP: what IKEv2 would negotiate, or a key file says.

Source: draft-ietf-ipsecme-eesp-03, draft-ietf-ipsecme-eesp-ikev2-02 §3; EESP-SL-1 (docs/eesp.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final

from ..errors import ConfigError
from ..wire.eesp import CRYPT_OFFSET, IP_PROTOCOL, STATELESS_CONTEXT
from .crypt_offset import CryptOffset, check_octets
from .eesp_keys import MASTER, SSKDFS
from .encapsulation import Format
from .flow_identifier import FlowKind, FlowPolicy
from .options import Option, build

MAX_OPTIONS: Final = 252  # octets: eight bits, and a multiple of 4
_LAST_ID: Final = 0xFFFF
_OWN_ALIGNMENT: Final = 4  # the most padding that alignment adds
# IANA: what stands below is taken; 255 is reserved.
_FREE_PROTOCOLS: Final = (148, 254)


@dataclass(frozen=True, slots=True)
class SubSAs:
    """Sub SAs of one SA, each with its own key, sequence numbers and window (§2.9).

    kdf: hkdf-sha2-256, -384 or -512; the SA's key is then the root key, as long as that hash.
    max_id: the highest Sub SA ID that this end has announced.   peer_max_id: that the peer has; None: the same.
    key_octets: of a Sub SA's key, without salt.
    first_port: UDP source port of Sub SA 1, with those of the others behind it; 0: all have the SA's (§6).
    """

    kdf: str = "hkdf-sha2-256"
    max_id: int = _LAST_ID
    peer_max_id: int | None = None
    key_octets: int = 32
    first_port: int = 0

    def __post_init__(self) -> None:
        if self.kdf not in SSKDFS:
            raise ConfigError(f"KDF {self.kdf!r}", key="sub_sas.kdf", expected=" or ".join(SSKDFS))
        for key, number in (("max_id", self.max_id), ("peer_max_id", self.sendable_max_id)):
            if not 0 <= number <= _LAST_ID:
                raise ConfigError(f"Sub SA ID {number}", key=f"sub_sas.{key}", expected=f"0..{_LAST_ID}")
        last = self.first_port + self.sendable_max_id - 1
        if self.first_port and not (self.first_port > 0 and last <= 0xFFFF):
            raise ConfigError(
                f"ports from {self.first_port}", key="sub_sas.first_port", expected="one port for each Sub SA but 0"
            )

    @property
    def sendable_max_id(self) -> int:
        """The highest Sub SA ID that may be sent."""
        return self.max_id if self.peer_max_id is None else self.peer_max_id

    @property
    def root_key_octets(self) -> int:
        return SSKDFS[self.kdf][2]


@dataclass(frozen=True, slots=True)
class StatelessGroup:
    """A trust group whose receivers hold root keys and nothing of any sender (EESP-SL-1).

    device_id: who this sender is, 64 bits.
    indexes: of the root keys that are loaded: first the current one, which senders use, then those before and after it
    that are accepted meanwhile. The SA's key is one master key of 32 octets (`master_key`) for each of them, in this
    order. The SA's sequence number is epoch (16 bits) and counter (48 bits), and its SPI the group's.
    """

    device_id: int
    indexes: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not 0 <= self.device_id < 1 << 64:
            raise ConfigError(f"device {self.device_id}", key="stateless.device_id", expected="0..2^64-1")
        current = self.indexes[0] if self.indexes else 0
        near = [(current + step) % 256 for step in (-1, 0, 1)]
        if not self.indexes or len(set(self.indexes)) < len(self.indexes) or not set(self.indexes) <= set(near):
            raise ConfigError(
                f"root key indexes {self.indexes}",
                key="stateless.indexes",
                expected="the current one (0..255), and those one before and one after it if they are accepted",
            )

    @property
    def key_octets(self) -> int:
        return MASTER * len(self.indexes)

    def master(self, key: bytes, index: int) -> bytes:
        """Return the master key of an index that is loaded.   key: the SA's."""
        at = MASTER * self.indexes.index(index)
        return key[at : at + MASTER]


@dataclass(frozen=True, slots=True)
class EESPFormat(Format):
    """Settings of EESP.

    sequence_numbers: 64-bit numbers are sent; without, there is no anti-replay, and the IV is sent.
    crypt_offset: what a sender leaves readable, in the Crypt Offset option of every packet; None: no such option.
    max_crypt_offset_octets: what this end has announced, a multiple of 4 up to 252; None: nothing, so the option is
    forbidden.   peer_max_crypt_offset_octets: what the peer has; None: the same.
    session: how Session IDs are chosen; with Sub SAs it chooses among these.
    sub_sas, stateless: at most one of them.
    options: further ones, to be sent in this order; padding comes by itself.
    ip_protocol: the number in the IP header in front: 253, until IANA has assigned one.
    """

    protocol: ClassVar[str] = "eesp"

    sequence_numbers: bool = True
    crypt_offset: CryptOffset | None = None
    max_crypt_offset_octets: int | None = None
    peer_max_crypt_offset_octets: int | None = None
    session: FlowPolicy = field(default_factory=FlowPolicy)
    sub_sas: SubSAs | None = None
    stateless: StatelessGroup | None = None
    options: tuple[Option, ...] = ()
    ip_protocol: int = IP_PROTOCOL

    def __post_init__(self) -> None:
        for key in ("max_crypt_offset_octets", "peer_max_crypt_offset_octets"):
            check_octets(key, getattr(self, key) or 0)
        if self.crypt_offset is not None and self._peer_max is None:
            raise ConfigError(
                "a crypt offset that the peer has not allowed",
                key="crypt_offset",
                expected="max_crypt_offset_octets, or peer_max_crypt_offset_octets",
            )
        if self.sub_sas is not None and self.stateless is not None:
            raise ConfigError("Sub SAs in a stateless group", key="sub_sas", expected="one of them")
        if self.stateless is not None and self.sequence_numbers:
            raise ConfigError(
                "a stateless group with sequence numbers", key="sequence_numbers", expected="false: nobody has a window"
            )
        if self.stateless is not None and self.session != FlowPolicy():
            raise ConfigError("a session policy in a stateless group", key="session", expected="none: it is 0")
        highest = _LAST_ID if self.sub_sas is None else self.sub_sas.sendable_max_id
        if self.session.kind is FlowKind.FIXED and self.session.value > highest:
            raise ConfigError(f"Session ID {self.session.value}", key="session", expected=f"0..{highest}")
        reserved = {CRYPT_OFFSET} | ({STATELESS_CONTEXT} if self.stateless is not None else set())
        if any(option.type in reserved for option in self.options):
            raise ConfigError("an option that has a setting of its own", key="options", expected="other types")
        octets = len(build(self.options, 4)) + _OWN_ALIGNMENT
        octets += (4 if self.crypt_offset is not None else 0) + (12 if self.stateless is not None else 0)
        if octets > MAX_OPTIONS:
            raise ConfigError(f"{octets} octets of options", key="options", expected=f"at most {MAX_OPTIONS}")
        if not _FREE_PROTOCOLS[0] <= self.ip_protocol <= _FREE_PROTOCOLS[1]:
            raise ConfigError(
                f"IP protocol {self.ip_protocol}",
                key="ip_protocol",
                expected=f"{_FREE_PROTOCOLS[0]}..{_FREE_PROTOCOLS[1]}: numbers that no other protocol has",
            )

    @property
    def _peer_max(self) -> int | None:
        peer = self.peer_max_crypt_offset_octets
        return self.max_crypt_offset_octets if peer is None else peer

    @property
    def crypt_offset_limit(self) -> int:
        """What a sender may not exceed, in octets."""
        return self._peer_max or 0
