"""Any octets as a packet behind any link type: fields inside it, no two at one place, and diagrams of 32 bits a row."""

from __future__ import annotations

import sys

from wesper.cli.packet_view import drawn
from wesper.keying import StaticSA
from wesper.pcap import LinkType
from wesper.pcap.dissect import Keyring, dissect
from wesper.protocols.reassembly import Reassembler

LINK_TYPES = sorted(LinkType)
# Integrity without encryption, so that the fuzzer gets inside by the corpus's packets
KEYS = [
    *(
        StaticSA("null+hmac-sha2-256-128", 0x1000, b"", b"", bytes(range(32)), esn=False, protocol=protocol)
        for protocol in ("esp", "wesp", "wespv2")
    ),
    StaticSA("aes-gmac", 0x3000, bytes(range(16)), bytes(4), protocol="eesp"),
]
# Their octets stand in the header's field `options` or `iv`, too.
SHOWN_TWICE = ("wespv2.flow", "eesp.crypt_offset", "eesp.stateless", "eesp.stateless_iv")


def one_input(octets: bytes) -> None:
    """Run one input: its first octet chooses the link type. An exception is a finding."""
    if not octets:
        return
    packet = octets[1:]
    Reassembler().add(packet, 0)
    dissection = dissect(packet, LINK_TYPES[octets[0] % len(LINK_TYPES)], Keyring(KEYS))
    taken = 0
    shown_once = [layer for layer in dissection.layers if layer.name not in SHOWN_TWICE]
    for value in (value for layer in shown_once for value in layer.values):
        place = ((1 << value.bits) - 1) << value.bit
        assert value.bit + value.bits <= 8 * len(packet)
        assert not taken & place, value
        taken |= place
    for layer in dissection.layers:
        assert all(len(line) <= 65 for line in drawn(layer))


def main() -> None:
    """Fuzz until libFuzzer's arguments say stop."""
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
