"""PSP packet (PSP Architecture Specification of April 2022, "PSP Header Version 0" and "PSP Trailer").

Field names in filters are those that google/psp's dissector and Scapy use.
"""

from __future__ import annotations

from typing import Final

from .format import Header, bits, octets
from .numbers import PROTOCOL_NAMES

PORT: Final = 1000  # UDP destination port
ICV: Final = 16  # octets; the whole tag, never cut
COOKIE: Final = 8  # octets of the virtualization cookie
VERSION_NAMES: Final[dict[int, str]] = {0: "AES-128-GCM", 1: "AES-256-GCM", 2: "AES-128-GMAC", 3: "AES-256-GMAC"}

_SOURCE: Final = "PSP Header Version 0"


def _cookie_octets(header: PSP) -> int:
    return COOKIE * header.cookie_present


def _extension_octets(header: PSP) -> int:
    return 8 * (header.header_units - 1) - _cookie_octets(header)


class PSP(Header, name="psp", title="PSP Security Protocol", source=_SOURCE):
    """What stands between UDP header and payload; the ICV comes after the payload.

    cookie, extension: what Crypt Offset does not leave in clear of them is encrypted on the wire.
    """

    next_header: int = bits(8, _SOURCE, "what the payload is", names=PROTOCOL_NAMES, wire_name="nexthdr")
    header_units: int = bits(
        8,
        _SOURCE,
        "Hdr Ext Len: length without the first 8 octets",
        default=1,
        unit="x 8 octets",
        wire_name="hdrextlen",
    )
    reserved: int = bits(2, _SOURCE, "sent zero, ignored, authenticated")
    crypt_offset_words: int = bits(
        6, _SOURCE, "where encryption begins, from the end of the IV", unit="x 4 octets", wire_name="cryptoffset"
    )
    sample: int = bits(1, _SOURCE, "S: sample at the receiver")
    drop: int = bits(1, _SOURCE, "D: drop after sampling")
    version: int = bits(4, _SOURCE, "cipher and key length", names=VERSION_NAMES)
    cookie_present: int = bits(1, _SOURCE, "V: the virtualization cookie is there", wire_name="is_virt")
    always_one: int = bits(1, _SOURCE, "always 1", default=1, wire_name="one_bit")
    spi: int = bits(32, "PSP Security Association", "index of the SA; top bit: which device key", form="hex")
    iv: int = bits(64, "PSP IV Generation", "unique for each packet of an SA", form="hex")
    cookie: bytes = octets(_SOURCE, "virtualization cookie", length=_cookie_octets, wire_name="vc")
    extension: bytes = octets(_SOURCE, "further extension octets", length=_extension_octets, wire_name="ext")
