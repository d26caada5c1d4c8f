"""WESP header, in front of a whole ESP packet (RFC 5840 §2)."""

from __future__ import annotations

from typing import Final

from .format import Header, bits, octets
from .numbers import PROTOCOL_NAMES

VERSION: Final = 0
PADDING: Final = 4  # octets, if there is any

_SOURCE: Final = "RFC 5840 §2"


class WESP(Header, name="wesp", title="Wrapped Encapsulating Security Payload", source=_SOURCE):
    """What tells the network where things are in the ESP packet behind it.   Not covered by the ICV."""

    next_header: int = bits(8, _SOURCE, "the trailer's; 0 with encryption", names=PROTOCOL_NAMES, wire_name="nxt")
    hdrlen: int = bits(8, _SOURCE, "from here to the payload; 0 with encryption", unit="octets")
    trailerlen: int = bits(8, _SOURCE, "length of the ICV; 0 with encryption", unit="octets")
    version: int = bits(2, _SOURCE, "0", wire_name="ver")
    encrypted: int = bits(1, _SOURCE, "E: the payload is encrypted")
    padding_present: int = bits(1, _SOURCE, "P: padding follows, for IPv6", wire_name="pad")
    reserved: int = bits(4, _SOURCE, "sent zero, ignored")
    padding: bytes = octets(_SOURCE, "sent zero, ignored", length=lambda h: PADDING * h.padding_present)
