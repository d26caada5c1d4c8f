"""EESP packet (draft-ietf-ipsecme-eesp-03 §2), and what stateless encryption adds (our profile EESP-SL-1).

The next revision of the draft is a file like this one.
"""

from __future__ import annotations

from typing import Final

from .format import Header, bits, octets
from .numbers import PROTOCOL_NAMES

DRAFT: Final = "draft-ietf-ipsecme-eesp-03"
STATELESS_DRAFT: Final = "draft-xia-ipsecme-eesp-stateless-encryption-02"
VERSION: Final = 0
IP_PROTOCOL: Final = 253  # RFC 3692 §2.1: for experiments, until IANA assigns one
CRYPT_OFFSET: Final = 2  # option type
STATELESS_CONTEXT: Final = 224  # option type of EESP-SL-1, of the private range
STATELESS_PROFILE: Final = 1

_BASE: Final = f"{DRAFT} §2.2.1"


class EESP(Header, name="eesp", title="Enhanced Encapsulating Security Payload", source=f"{DRAFT} §2"):
    """What stands in the clear in front of the payload; all of it is authenticated.

    sequence_number: 8 octets, or none where it was not agreed on.   iv: its length is the suite's.
    """

    always_one: int = bits(1, _BASE, "1: not ESP, whose SPIs in UDP begin with 0", default=1)
    version: int = bits(4, _BASE, "0", wire_name="ver")
    reserved: int = bits(3, _BASE, "zero, else the packet is dropped")
    opt_len: int = bits(8, _BASE, "options with their padding", unit="octets", wire_name="optlen")
    session_id: int = bits(16, _BASE, "Sub SA ID, or opaque")
    spi: int = bits(32, _BASE, "index of the SA in the receiver's space", form="hex")
    options: bytes = octets(f"{DRAFT} §2.2.2", "type, length, data; Pad1, PadN", length=lambda h: h.opt_len)
    sequence_number: bytes = octets(f"{DRAFT} §2.3.1", "all 64 bits, or nothing", wire_name="sequence")
    iv: bytes = octets(f"{DRAFT} §2.3.2", "initialization vector; its length is the suite's")


class CryptOffsetOption(Header, name="eesp.crypt_offset", title="EESP Crypt Offset option", source=f"{DRAFT} §3.1.2"):
    """Says that the first octets of the payload can be read."""

    type: int = bits(8, f"{DRAFT} §3.1.2", "2", default=CRYPT_OFFSET)
    length: int = bits(8, f"{DRAFT} §3.1.2", "of what follows", default=2, unit="octets")
    payload_offset_words: int = bits(
        6, f"{DRAFT} §3.1.2", "where the payload begins, from the start of EESP", unit="x 4 octets"
    )
    crypt_offset_words: int = bits(
        6, f"{DRAFT} §3.1.2", "where encryption begins, from the start of the payload", unit="x 4 octets"
    )
    reserved: int = bits(4, f"{DRAFT} §3.1.2", "sent zero, ignored")


class PayloadInfo(Header, name="eesp.info", title="EESP Payload Info Header", source=f"{DRAFT} §2.4.1"):
    """Begins the payload of the full format.   nibble: 0, so that it is no IP header."""

    nibble: int = bits(4, f"{DRAFT} §2.4.1", "0: neither IPv4 nor IPv6")
    reserved: int = bits(12, f"{DRAFT} §2.4.1", "sent zero, ignored")
    next_header: int = bits(8, f"{DRAFT} §2.4.1", "what the payload is", names=PROTOCOL_NAMES, wire_name="nxt")
    pad_length: int = bits(8, f"{DRAFT} §2.4.1", "octets of padding", unit="octets", wire_name="pad_len")


class StatelessOption(
    Header, name="eesp.stateless", title="EESP-SL-1 context option", source=f"EESP-SL-1, after {STATELESS_DRAFT}"
):
    """What a receiver derives the key from that it holds no state for."""

    type: int = bits(8, "EESP-SL-1", "224", default=STATELESS_CONTEXT)
    length: int = bits(8, "EESP-SL-1", "of what follows", default=10, unit="octets")
    profile: int = bits(8, "EESP-SL-1", "1", default=STATELESS_PROFILE)
    root_key_index: int = bits(8, "EESP-SL-1", "generation of the group's root keys")
    device_id: int = bits(64, "EESP-SL-1", "who sends", form="hex")


class StatelessIV(Header, name="eesp.stateless_iv", title="EESP-SL-1 IV", source=f"EESP-SL-1, after {STATELESS_DRAFT}"):
    """The IV of a stateless SA, whose epoch is an input of the key derivation."""

    epoch: int = bits(16, "EESP-SL-1", "another epoch, another key")
    counter: bytes = octets("EESP-SL-1", "never twice in an epoch of a device", size=6)
