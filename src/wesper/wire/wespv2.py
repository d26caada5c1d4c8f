"""WESPv2 header, in front of an ESP packet that may be readable in part (draft-klassert-ipsecme-wespv2-01 §2.1).

The next revision of the draft is a file like this one.
"""

from __future__ import annotations

from typing import Final

from .format import Header, bits, octets
from .numbers import PROTOCOL_NAMES

DRAFT: Final = "draft-klassert-ipsecme-wespv2-01"
VERSION: Final = 1
FLOW_IDENTIFIER: Final = 27  # of the private range, since the draft assigns no type

_SOURCE: Final = f"{DRAFT} §2.1"


class WESPv2(Header, name="wespv2", title="WESP version 2", source=_SOURCE):
    """All of it is authenticated, options too."""

    next_header: int = bits(8, _SOURCE, "the trailer's; 59 with crypt offset 0", names=PROTOCOL_NAMES, wire_name="nxt")
    hdrlen: int = bits(8, _SOURCE, "from here to the first octet behind the IV", unit="octets")
    crypt_offset_words: int = bits(
        6, _SOURCE, "where encryption begins, from the end of the IV", unit="x 4 octets", wire_name="cryptoffset"
    )
    reserved: int = bits(2, _SOURCE, "sent zero, ignored, authenticated")
    version: int = bits(2, _SOURCE, "1", default=VERSION, wire_name="ver")
    optlen: int = bits(6, _SOURCE, "options with their padding", unit="octets")
    options: bytes = octets(f"{DRAFT} §2.2", "type, length, data; Pad1, PadN", length=lambda h: h.optlen)


class FlowIdentifierOption(
    Header, name="wespv2.flow", title="WESPv2 flow identifier option", source=f"{DRAFT} §2.2, with a type of our own"
):
    """Names the flow; the first option, so that it stands at the same place in every packet of an SA."""

    type: int = bits(8, f"{DRAFT} §2.2.2", "27", default=FLOW_IDENTIFIER)
    length: int = bits(8, f"{DRAFT} §2.2.2", "of what follows: 4, 6 or 8", unit="octets")
    identifier: bytes = octets(f"{DRAFT} §2.2", "the same for all packets of a flow", length=lambda h: h.length)
