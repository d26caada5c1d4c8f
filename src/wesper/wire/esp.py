"""ESP packet (RFC 4303 §2)."""

from __future__ import annotations

from .format import Header, bits, octets
from .numbers import PROTOCOL_NAMES


class ESP(Header, name="esp", title="Encapsulating Security Payload", source="RFC 4303 §2"):
    """What stands in the clear in front of the payload.   iv: its length is the suite's."""

    spi: int = bits(32, "RFC 4303 §2.1", "index of the SA in the receiver's space", form="hex")
    sequence: int = bits(32, "RFC 4303 §2.2", "low 32 bits of the sequence number")
    iv: bytes = octets("RFC 4303 §2.3", "initialization vector; its length is the suite's")


class ESPTrailer(Header, name="esp", title="ESP trailer", source="RFC 4303 §2.4"):
    """The last two plaintext octets; padding stands before them."""

    pad_length: int = bits(8, "RFC 4303 §2.5", "octets of padding", unit="octets", wire_name="pad_len")
    next_header: int = bits(8, "RFC 4303 §2.6", "what the payload is", names=PROTOCOL_NAMES, wire_name="protocol")


class BEETPseudoHeader(Header, name="beet", title="BEET pseudo header", source="RFC 7402 §B.1.7"):
    """Carries the IPv4 options of a BEET packet.   padding (NOP options) stands before the options."""

    next_header: int = bits(8, "RFC 7402 §B.1.7", "upper-layer protocol", names=PROTOCOL_NAMES, wire_name="nxt")
    length_units: int = bits(
        8, "RFC 7402 §B.1.7", "length without the first 8 octets", unit="x 8 octets", wire_name="len"
    )
    pad_length: int = bits(8, "RFC 7402 §B.1.7", "0 or 4 octets before the options", unit="octets", wire_name="pad_len")
    reserved: int = bits(8, "RFC 7402 §B.1.7", "sent zero, ignored")
    options: bytes = octets("RFC 7402 §B.1.7", "padding and options", length=lambda h: 8 * h.length_units + 4)
