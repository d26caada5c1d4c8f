"""Every protocol's layout, by name."""

from __future__ import annotations

from typing import Final

from . import eesp, wesp, wespv2
from .eesp import EESP
from .esp import ESP
from .layout import Layout, Options, Part
from .numbers import ESP as ESP_PROTOCOL
from .numbers import WESP as WESP_PROTOCOL
from .psp import ICV, PORT, PSP
from .udp import IPSEC_NAT_T_PORT, WESP_IDENTIFIER
from .wesp import WESP
from .wespv2 import WESPv2

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
            "wesp",
            "Wrapped Encapsulating Security Payload",
            "RFC 5840",
            (Part(WESP), Part(ESP)),
            ip_protocol=WESP_PROTOCOL,
            udp_port=IPSEC_NAT_T_PORT,
            marker=WESP_IDENTIFIER,
            tell=("version", wesp.VERSION),
            clear=lambda h: _ALL * (1 - h.encrypted),
            next_header="next_header",
        ),
        Layout(
            "wespv2",
            "WESP version 2",
            wespv2.DRAFT,
            (
                Part(
                    WESPv2,
                    options=Options(
                        "options",
                        {wespv2.FLOW_IDENTIFIER: wespv2.FlowIdentifierOption},
                        first=wespv2.FLOW_IDENTIFIER,
                    ),
                ),
                Part(ESP, lengths={"iv": lambda h: h.hdrlen - h.optlen - WESPv2.SIZE - ESP.SIZE}),
            ),
            ip_protocol=WESP_PROTOCOL,
            udp_port=IPSEC_NAT_T_PORT,
            marker=WESP_IDENTIFIER,
            tell=("version", wespv2.VERSION),
            clear=lambda h: h.hdrlen + 4 * h.crypt_offset_words,
            next_header="next_header",
        ),
        Layout(
            "eesp",
            "Enhanced Encapsulating Security Payload",
            eesp.DRAFT,
            (
                Part(
                    EESP,
                    negotiated={"sequence_number": 8},
                    options=Options(
                        "options",
                        {
                            eesp.CRYPT_OFFSET: eesp.CryptOffsetOption,
                            eesp.STATELESS_CONTEXT: eesp.StatelessOption,
                        },
                    ),
                ),
            ),
            ip_protocol=eesp.IP_PROTOCOL,
            udp_port=IPSEC_NAT_T_PORT,
            tell=("always_one", 1),
            clear=lambda h: 4 * h.payload_offset_words + 4 * h.crypt_offset_words,
            next_header="next_header",
            payload_header=eesp.PayloadInfo,
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
