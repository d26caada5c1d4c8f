from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.pcap import LinkType, ip_offset, link_type_name

V4, V6 = b"\x45" + bytes(19), b"\x60" + bytes(39)
MACS = bytes(12)


@pytest.mark.parametrize(
    ("link_type", "head", "ip"),
    [
        (LinkType.ETHERNET, MACS + b"\x08\x00", V4),
        (LinkType.ETHERNET, MACS + b"\x86\xdd", V6),
        (LinkType.ETHERNET, MACS + bytes.fromhex("8100 0007 0800"), V4),
        (LinkType.ETHERNET, MACS + bytes.fromhex("88a8 0009 8100 0007 86dd"), V6),
        (LinkType.ETHERNET, MACS + bytes.fromhex("9100 0009 9100 0008 8100 0007 0800"), V4),
        (LinkType.ETHERNET, MACS + bytes.fromhex("9200 0009 0800"), V4),
        (LinkType.ETHERNET, MACS + bytes.fromhex("0026 aaaa03 000000 0800"), V4),
        (LinkType.ETHERNET, MACS + bytes.fromhex("8847 00064040 00065140"), V4),
        (LinkType.ETHERNET, MACS + bytes.fromhex("8847 00065140"), V6),
        (LinkType.ETHERNET, MACS + bytes.fromhex("8100 0007 8864 1100 0005 0016 0021"), V4),
        (LinkType.ETHERNET, MACS + bytes.fromhex("8864 1100 0005 0016 0057"), V6),
        (LinkType.RAW, b"", V4),
        (LinkType.RAW, b"", V6),
        (LinkType.RAW_12, b"", V4),
        (LinkType.RAW_14, b"", V6),
        (LinkType.IPV4, b"", V4),
        (LinkType.IPV6, b"", V6),
        (LinkType.LINUX_SLL, bytes(14) + b"\x08\x00", V4),
        (LinkType.LINUX_SLL, bytes(14) + bytes.fromhex("8100 0007 86dd"), V6),
        (LinkType.LINUX_SLL, bytes(14) + bytes.fromhex("0004 aaaa03 000000 0800"), V4),
        (LinkType.LINUX_SLL2, b"\x86\xdd" + bytes(18), V6),
        (LinkType.NULL, bytes.fromhex("02000000"), V4),
        (LinkType.NULL, bytes.fromhex("00000002"), V4),
        (LinkType.NULL, bytes.fromhex("1e000000"), V6),
        (LinkType.LOOP, bytes.fromhex("00000002"), V4),
        (LinkType.LOOP, bytes.fromhex("00000018"), V6),
    ],
)
def test_offset_and_truncation_at_every_octet(link_type: int, head: bytes, ip: bytes) -> None:
    assert ip_offset(link_type, head + ip) == len(head)
    for cut in range(len(head) + 1):
        assert ip_offset(link_type, head[:cut]) is None
    assert ip_offset(link_type, head + ip[:1]) == len(head)
    # What lies there must be of the version that the link layer said, or at least of one
    assert ip_offset(link_type, head + b"\x55") is None


@pytest.mark.parametrize(
    ("link_type", "data"),
    [
        (LinkType.ETHERNET, MACS + b"\x08\x06" + V4),
        (LinkType.ETHERNET, MACS + b"\x08\x00" + V6),
        (LinkType.ETHERNET, MACS + b"\x86\xdd" + V4),
        (LinkType.ETHERNET, MACS + bytes.fromhex("8864 1100 0005 0016 c021") + V4),
        (LinkType.ETHERNET, MACS + bytes.fromhex("0026 424203") + V4),
        (LinkType.IPV4, V6),
        (LinkType.IPV6, V4),
        (LinkType.LOOP, bytes.fromhex("02000000") + V4),
        (LinkType.NULL, bytes.fromhex("07000000") + V4),
        (147, V4),
    ],
)
def test_no_ip(link_type: int, data: bytes) -> None:
    assert ip_offset(link_type, data) is None


@given(link_type=st.one_of(st.sampled_from(LinkType), st.integers(0, 65535)), data=st.binary(max_size=64))
def test_any_octets(link_type: int, data: bytes) -> None:
    offset = ip_offset(link_type, data)
    assert offset is None or data[offset] >> 4 in (4, 6)


def test_names() -> None:
    assert [link_type_name(number) for number in (1, 276, 147)] == ["ETHERNET", "LINUX_SLL2", "unknown(147)"]
