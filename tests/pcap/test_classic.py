from __future__ import annotations

import io
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.errors import CaptureError
from wesper.pcap import CaptureTruncated, Interface, Record, create_capture, open_capture

from .octets import Order, pcap_header, pcap_record

ORDERS: tuple[Order, ...] = ("<", ">")


def read(octets: bytes) -> list[Record]:
    return list(open_capture(io.BytesIO(octets)))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("magic", "scale"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_parse(order: Order, magic: int, scale: int) -> None:
    octets = pcap_header(order, magic=magic) + pcap_record(order, 4_000_000_000, 123_456, b"\x45abc", 60)
    assert read(octets) == [Record(4_000_000_000 * 10**9 + 123_456 * scale, 60, 101, 0, b"\x45abc")]


def test_build() -> None:
    file = io.BytesIO()
    with create_capture(file, format="pcap") as out:
        out.add_interface(Interface(1, snap_octets=96))
        out.write(b"abc", 5_000_000_007, original_octets=9)
    assert file.getvalue() == pack("<IHHIIIIIIII", 0xA1B23C4D, 2, 4, 0, 0, 96, 1, 5, 7, 3, 9) + b"abc"


def test_build_microseconds_round_down() -> None:
    file = io.BytesIO()
    with create_capture(file, format="pcap", nanoseconds=False) as out:
        out.add_interface(Interface(1))
        out.write(b"", 1_000_001_999)
    assert file.getvalue()[24:32] == pack("<II", 1, 1)
    assert [record.timestamp_ns for record in read(file.getvalue())] == [1_000_001_000]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("version", "captured", "original", "expected"),
    [
        ((2, 4), 4, 60, (4, 60)),
        ((2, 9), 4, 60, (4, 60)),
        ((2, 3), 4, 60, (4, 60)),
        ((2, 3), 60, 4, (4, 60)),
        ((2, 2), 60, 4, (4, 60)),
        ((2, 0), 60, 4, (4, 60)),
        ((543, 0), 60, 4, (4, 60)),
    ],
)
def test_lengths_of_old_versions(
    order: Order, version: tuple[int, int], captured: int, original: int, expected: tuple[int, int]
) -> None:
    head = pack(order + "IIII", 1, 2, captured, original)
    (record,) = read(pcap_header(order, version=version) + head + b"\x45abc")
    assert (record.captured_octets, record.original_octets) == expected


@pytest.mark.parametrize("order", ORDERS)
def test_long_record_headers(order: Order) -> None:
    octets = pcap_header(order, magic=0xA1B2CD34)
    for data in (b"\x45a", b"\x60bc"):
        octets += pcap_record(order, 1, 2, data)[:16] + b"ifaceprt" + data
    assert [record.data for record in read(octets)] == [b"\x45a", b"\x60bc"]


def test_link_type_leaves_out_check_sequence_bits() -> None:
    capture = open_capture(io.BytesIO(pcap_header(link=0x24000001)))
    assert capture.interfaces[0].link_type == 1


@pytest.mark.parametrize("order", ORDERS)
def test_truncation_at_every_octet(order: Order) -> None:
    records = [pcap_record(order, 1, 2, b"\x45" * 5), pcap_record(order, 2, 3, b""), pcap_record(order, 3, 4, b"\x60")]
    octets = pcap_header(order) + b"".join(records)
    ends = [24]
    for record in records:
        ends.append(ends[-1] + len(record))
    for cut in range(len(octets)):
        if cut < 24:
            with pytest.raises(CaptureError) as refused:
                open_capture(io.BytesIO(octets[:cut]))
            assert isinstance(refused.value, CaptureTruncated) == (cut >= 4)
            continue
        whole = [record for record, end in zip(read(octets), ends[1:], strict=True) if end <= cut]
        got: list[Record] = []
        if cut in ends:
            got.extend(open_capture(io.BytesIO(octets[:cut])))
        else:
            with pytest.raises(CaptureTruncated) as error:
                got.extend(open_capture(io.BytesIO(octets[:cut])))
            assert error.value.offset == max(end for end in ends if end < cut)
            assert error.value.exit_code == 4
            events: list[CaptureTruncated] = []
            assert list(open_capture(io.BytesIO(octets[:cut]), on_truncated=events.append)) == whole
            assert [event.offset for event in events] == [error.value.offset]
        assert got == whole


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("captured", [262_145, 2**32 - 1])
def test_hostile_length(order: Order, captured: int) -> None:
    octets = pcap_header(order) + pcap_record(order, 1, 2, b"\x45") + pack(order + "IIII", 1, 2, captured, captured)
    records = iter(open_capture(io.BytesIO(octets + bytes(400_000))))
    assert next(records).data == b"\x45"
    with pytest.raises(CaptureError, match=rf"at octet 49: captured length {captured} \(expected at most 262144\)"):
        next(records)


@pytest.mark.parametrize("version", [(1, 0), (3, 0), (0x0200, 0x0400)])
def test_foreign_version(version: tuple[int, int]) -> None:
    with pytest.raises(CaptureError, match="expected version 2"):
        open_capture(io.BytesIO(pcap_header(version=version)))


def test_writer_refuses_what_the_format_cannot_hold() -> None:
    with create_capture(io.BytesIO(), format="pcap") as out:
        with pytest.raises(CaptureError, match="expected one that add_interface has returned"):
            out.write(b"", 0)
        with pytest.raises(CaptureError, match="65536"):
            out.add_interface(Interface(65536))
        assert out.add_interface(Interface(101, name="outer")) == out.add_interface(Interface(101, name="inner"))
        with pytest.raises(CaptureError, match="pcapng takes several"):
            out.add_interface(Interface(1))
        for timestamp_ns, octets, original in (
            (2**32 * 10**9, 1, 1),
            (-1, 1, 1),
            (0, 262_145, 1),
            (0, 1, 2**32),
            (0, 1, -1),
        ):
            with pytest.raises(CaptureError):
                out.write(bytes(octets), timestamp_ns, original_octets=original)
        out.write(bytes(262_144), 2**32 * 10**9 - 1, original_octets=2**32 - 1)


@given(
    packets=st.lists(st.tuples(st.binary(max_size=80), st.integers(0, 2**32 * 10**9 - 1), st.integers(0, 2**32 - 1))),
    link_type=st.integers(0, 65535),
)
def test_round_trip(packets: list[tuple[bytes, int, int]], link_type: int) -> None:
    file = io.BytesIO()
    with create_capture(file, format="pcap") as out:
        out.add_interface(Interface(link_type))
        for data, timestamp_ns, original in packets:
            out.write(data, timestamp_ns, original_octets=original)
    expected = [Record(timestamp_ns, original, link_type, 0, data) for data, timestamp_ns, original in packets]
    assert read(file.getvalue()) == expected
