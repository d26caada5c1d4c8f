"""Any octets behind any link type: an offset inside them whose version nibble says IPv4 or IPv6, or None."""

from __future__ import annotations

import sys

from wesper.pcap import LinkType, ip_offset

LINK_TYPES = sorted(LinkType)


def one_input(octets: bytes) -> None:
    """Run one input: its first octet chooses the link type. An exception is a finding."""
    if not octets:
        return
    data = octets[1:]
    offset = ip_offset(LINK_TYPES[octets[0] % len(LINK_TYPES)], data)
    assert offset is None or data[offset] >> 4 in (4, 6)


def main() -> None:
    """Fuzz until libFuzzer's arguments say stop."""
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
