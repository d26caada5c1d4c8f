"""Every protocol's layout, by name."""

from __future__ import annotations

from typing import Final

from .esp import ESP
from .layout import Layout, Part
from .numbers import ESP as ESP_PROTOCOL
from .psp import ICV, PORT, PSP
from .udp import IPSEC_NAT_T_PORT

# The GMAC versions, 2 and 3, encrypt nothing: a length past any packet's end.
_ALL: Final = 1 << 16

LAYOUTS: Final[dict[str, Layout]] = {
    layout.name: layout
    for layout in (
        Layout(
            "esp",
            "Encapsulating Security Payload",
            "RFC 4303",
            (Part(ESP),),
            ip_protocol=ESP_PROTOCOL,
            udp_port=IPSEC_NAT_T_PORT,
        ),
        Layout(
            "psp",
            "PSP Security Protocol",
            "PSP Architecture Specification of April 2022",
            (Part(PSP),),
            udp_port=PORT,
            icv=ICV,
            clear=lambda h: 16 + 4 * h.crypt_offset_words + _ALL * (h.version // 2),
            next_header="next_header",
        ),
    )
}
