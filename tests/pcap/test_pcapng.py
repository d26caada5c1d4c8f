from __future__ import annotations

import io
import tracemalloc
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.errors import CaptureError
from wesper.pcap import Block, CaptureTruncated, Interface, PcapngWriter, Record, create_capture, open_capture

from .octets import Order, block, interface, obsolete_packet, option, packet, section, simple_packet

ORDERS: tuple[Order, ...] = ("<", ">")
NAMES = {"<": "little", ">": "big"}


def read(octets: bytes) -> list[Record]:
    return list(open_capture(io.BytesIO(octets)))


@pytest.mark.parametrize("order", ORDERS)
def test_parse(order: Order) -> None:
    octets = section(order, options=option(order, 1, b"note") + option(order, 4, b"tool") + bytes(4))
    octets += interface(
        order, link=1, snap=96, options=option(order, 2, b"eth0") + option(order, 3, b"left") + bytes(4)
    )
    octets += interface(order, link=101, options=option(order, 9, b"\x09"))
    options = (
        option(order, 2, pack(order + "I", 0x01020304)) + option(order, 1, "grün".encode()) + option(order, 99, b"xy")
    )
    octets += packet(order, 2**32 + 7, b"abc", original=60, options=options + bytes(4))
    octets += packet(order, 2**40, b"\x45", number=1)
    capture = open_capture(io.BytesIO(octets))
    first, second = capture
    assert first == Record(
        (2**32 + 7) * 1000, 60, 1, 0, b"abc", ((2, b"\x04\x03\x02\x01"), (1, "grün".encode()), (99, b"xy"))
    )
    assert first.comments == ("grün",)
    assert second == Record(2**40, 1, 101, 1, b"\x45")
    assert capture.interfaces == [Interface(1, 96, "eth0", "left"), Interface(101, tsresol=9)]
    assert (capture.section.byte_order, capture.section.application) == (NAMES[order], "tool")
    assert capture.section.comments == ("note",)


@pytest.mark.parametrize("order", ORDERS)
def test_simple_and_obsolete_packets(order: Order) -> None:
    octets = section(order) + interface(order, snap=4)
    octets += simple_packet(order, 3, b"\x45bc") + simple_packet(order, 1500, b"\x45bcd")
    octets += obsolete_packet(order, 9, b"\x45bcde", options=option(order, 2, pack(order + "I", 0x01020304)))
    assert read(octets) == [
        Record(0, 3, 101, 0, b"\x45bc"),
        Record(0, 1500, 101, 0, b"\x45bcd"),
        Record(9000, 5, 101, 0, b"\x45bcde", ((2, b"\x04\x03\x02\x01"),)),
    ]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("tsresol", "units", "expected"),
    [
        (0, 3, 3_000_000_000),
        (3, 3, 3_000_000),
        (6, 3, 3000),
        (9, 3, 3),
        (12, 3999, 3),
        (0x80, 3, 3_000_000_000),
        (0x81, 3, 1_500_000_000),
        (0xA0, 2**32 + 2**31, 1_500_000_000),
        (127, 2**64 - 1, 0),
        (255, 2**64 - 1, 0),
    ],
)
def test_time_units(order: Order, tsresol: int, units: int, expected: int) -> None:
    options = option(order, 9, bytes([tsresol])) + option(order, 14, pack(order + "q", -2))
    octets = (
        section(order)
        + interface(order, options=options)
        + packet(order, units, b"")
        + obsolete_packet(order, units, b"")
    )
    assert [record.timestamp_ns for record in read(octets)] == [expected - 2_000_000_000] * 2


def test_sections_number_interfaces_through() -> None:
    named = [option(order, 2, b"a") for order in ORDERS]
    octets = section("<") + interface("<", options=named[0]) + interface("<") + packet("<", 1, b"1", number=1)
    octets += section(">") + interface(">", options=named[1]) + interface(">", link=1) + packet(">", 2, b"2", number=1)
    octets += packet(">", 3, b"3")
    capture = open_capture(io.BytesIO(octets))
    assert [(record.interface, record.link_type) for record in capture] == [(1, 101), (2, 1), (0, 101)]
    assert capture.interfaces == [Interface(101, name="a"), Interface(101), Interface(1)]


def test_interface_of_an_earlier_section_is_gone() -> None:
    octets = section("<") + interface("<") + section("<") + packet("<", 1, b"")
    with pytest.raises(CaptureError, match="expected one of the 0 that the section has described"):
        read(octets)


@pytest.mark.parametrize("order", ORDERS)
def test_other_blocks_are_skipped_or_handed_over(order: Order) -> None:
    statistics = pack(order + "III", 0, 0, 1)
    octets = section(order) + block(order, 4, b"name") + interface(order) + block(order, 0x0BAD, b"pen.data")
    octets += (
        packet(order, 1, b"\x45")
        + block(order, 10, bytes(40))
        + block(order, 5, statistics)
        + packet(order, 2, b"\x60")
    )
    blocks: list[Block] = []
    capture = open_capture(io.BytesIO(octets), on_block=blocks.append)
    seen = [(record.data, len(blocks)) for record in capture]
    assert seen == [(b"\x45", 2), (b"\x60", 4)]
    assert [(each.type, each.body, each.interface) for each in blocks] == [
        (4, b"name", None),
        (0x0BAD, b"pen.data", None),
        (10, bytes(40), None),
        (5, statistics, 0),
    ]
    assert {each.byte_order for each in blocks} == {NAMES[order]}
    assert [record.data for record in read(octets)] == [b"\x45", b"\x60"]


@pytest.mark.parametrize("order", ORDERS)
def test_truncation_at_every_octet(order: Order) -> None:
    blocks = [
        section(order, options=option(order, 4, b"tool")),
        interface(order),
        packet(order, 1, b"\x45ab"),
        block(order, 10, b"secret"),
        packet(order, 2, b"\x60", options=option(order, 1, b"hi")),
        simple_packet(order, 2, b"\x45a"),
    ]
    octets = b"".join(blocks)
    ends = [0]
    for each in blocks:
        ends.append(ends[-1] + len(each))
    packets_behind = [0, 0, 0, 1, 1, 2, 3]
    everything = read(octets)
    for cut in range(len(octets)):
        behind = max(index for index, end in enumerate(ends) if end <= cut)
        got: list[Record] = []
        if cut == ends[behind] and cut > 0:
            got.extend(open_capture(io.BytesIO(octets[:cut])))
        else:
            with pytest.raises(CaptureError) as error:
                got.extend(open_capture(io.BytesIO(octets[:cut])))
            assert error.value.offset == ends[behind]
            assert isinstance(error.value, CaptureTruncated) == (cut >= 4)
        assert got == everything[: packets_behind[behind]]
        if cut >= ends[1]:
            events: list[CaptureTruncated] = []
            assert list(open_capture(io.BytesIO(octets[:cut]), on_truncated=events.append)) == got
            assert len(events) == (cut not in ends)


HEADS = section("<") + interface("<")


@pytest.mark.parametrize(
    ("octets", "offset", "message"),
    [
        (pack("<III", 0x0A0D0D0A, 28, 0x11223344), 8, "byte-order magic"),
        (pack("<III", 0x0A0D0D0A, 27, 0x1A2B3C4D), 4, "block length 27"),
        (block("<", 0x0A0D0D0A, pack("<I", 0x1A2B3C4D)), 4, "section header of 16 octets"),
        (section("<", version=(2, 0)), 12, "pcapng version 2.0"),
        (section("<", options=pack("<HH", 1, 5)), 24, "option"),
        (section("<") + block("<", 1, bytes(4)), 32, "interface description of 16 octets"),
        (HEADS + block("<", 6, bytes(16)), 52, "packet block of 28 octets"),
        (HEADS + block("<", 2, bytes(16)), 52, "packet block of 28 octets"),
        (HEADS + block("<", 3, b""), 52, "simple packet block of 12 octets"),
        (HEADS + packet("<", 1, b"", number=1), 56, "interface 1"),
        (HEADS + block("<", 6, pack("<IIIII", 0, 0, 0, 5, 5) + bytes(4)), 68, "captured length 5"),
        (HEADS + block("<", 6, pack("<IIIII", 0, 0, 0, 2**32 - 1, 5) + bytes(4)), 68, "captured length 4294967295"),
        (HEADS + block("<", 6, pack("<IIIII", 0, 0, 0, 262_145, 5) + bytes(300_000)), 68, "captured length 262145"),
        (HEADS + simple_packet("<", 9, b"12345678"), 56, "packet of 9 octets"),
        (HEADS + packet("<", 1, b"", options=pack("<HH", 1, 9) + bytes(8)), 76, "option"),
        (HEADS + packet("<", 1, b"")[:-4] + pack("<I", 36), 76, "block length 32 before and 36 after"),
        (HEADS + block("<", 10, b"")[:-4] + pack("<I", 16), 56, "block length 12 before and 16 after"),
        (HEADS + pack("<III", 6, 8, 0), 52, "block length 8"),
        (HEADS + pack("<III", 6, 2**32 - 4, 0), 52, "type 6 with 4294967292 octets"),
    ],
)
def test_malformed(octets: bytes, offset: int, message: str) -> None:
    with pytest.raises(CaptureError, match=message) as error:
        read(octets)
    assert error.value.offset == offset
    assert error.value.exit_code == 2


def test_skipped_and_hostile_blocks_take_no_memory() -> None:
    class Endless:
        """A file that goes on and on; counts what was taken."""

        def __init__(self, first: bytes, octets: int) -> None:
            self.first, self.left = first, octets

        def read(self, size: int) -> bytes:
            if self.first:
                chunk, self.first = self.first[:size], self.first[size:]
                return chunk
            taken = min(size, self.left)
            self.left -= taken
            return bytes(taken)

    claimed = pack("<III", 10, 2**32 - 4, 0)
    tracemalloc.start()
    try:
        with pytest.raises(CaptureTruncated):
            list(open_capture(Endless(HEADS + claimed, 64 << 20)))
        # The reader's window, not the 64 MiB that were there, let alone the 4 GiB that were claimed
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(CaptureError, match="expected at most 16777216"):
        list(open_capture(Endless(HEADS + claimed, 64 << 20), on_block=lambda _: None))


def test_interfaces_without_end_are_refused() -> None:
    with pytest.raises(CaptureError, match="fewer"):
        read(section() + interface() * 40_000)
    name = interface(options=option("<", 2, bytes(60_000)))
    with pytest.raises(CaptureError, match="fewer"):
        read(section() + b"".join(interface(options=option("<", 2, b"%d" % n)) + name for n in range(300)))


def test_build() -> None:
    file = io.BytesIO()
    with create_capture(file, comments=("why",)) as out:
        assert out.add_interface(Interface(1, 96, "eth0", "left", ("c",), tsresol=6)) == 0
        assert out.add_interface(Interface(101, name="decrypted")) == 1
        out.write(b"abc", 2**32 + 7, interface=1, original_octets=60, options=((1, b"hello"),))
    nine, end = option("<", 9, b"\x09"), bytes(4)
    options = option("<", 1, b"c") + option("<", 2, b"eth0") + option("<", 3, b"left") + nine + end
    assert file.getvalue() == (
        section(options=option("<", 1, b"why") + option("<", 4, b"wesper") + end)
        + interface(link=1, snap=96, options=options)
        + interface(options=option("<", 2, b"decrypted") + nine + end)
        + packet("<", 2**32 + 7, b"abc", number=1, original=60, options=option("<", 1, b"hello") + end)
    )


def test_carried_blocks_are_written_back() -> None:
    tail = block("<", 10, b"secret!!") + block("<", 0x0BAD, b"pen.") + block("<", 0x40000BAD, b"pen.")
    statistics = pack("<III", 0, 5, 6)
    file = io.BytesIO()
    with create_capture(file) as out:
        assert isinstance(out, PcapngWriter)
        out.add_interface(Interface(1))
        out.add_interface(Interface(101))
        head = len(file.getvalue()), out._sink.offset
        source = section() + interface() + tail + block("<", 5, statistics)
        list(open_capture(io.BytesIO(source), on_block=lambda each: out.write_block(each, interface=1)))
    # The block that may not be copied is gone, the statistics are about interface 1 of the new file
    expected = block("<", 10, b"secret!!") + block("<", 0x0BAD, b"pen.") + block("<", 5, pack("<III", 1, 5, 6))
    assert file.getvalue()[head[1] :] == expected


def test_writer_refuses_what_the_format_cannot_hold() -> None:
    with create_capture(io.BytesIO()) as out:
        assert isinstance(out, PcapngWriter)
        with pytest.raises(CaptureError, match="interface 0"):
            out.write(b"", 0)
        with pytest.raises(CaptureError, match="link type 65536"):
            out.add_interface(Interface(65536))
        with pytest.raises(CaptureError, match="an option"):
            out.add_interface(Interface(1, name="x" * 65536))
        assert out.add_interface(Interface(1)) == 0
        for timestamp_ns, octets, original in ((2**64, 1, 1), (-1, 1, 1), (0, 262_145, 1), (0, 1, 2**32), (0, 1, -1)):
            with pytest.raises(CaptureError):
                out.write(bytes(octets), timestamp_ns, original_octets=original)
        with pytest.raises(CaptureError, match="big-endian"):
            out.write_block(Block(10, bytes(8), "big"))
        with pytest.raises(CaptureError, match="multiple of 4"):
            out.write_block(Block(10, bytes(7), "little"))
        with pytest.raises(CaptureError, match="interface 1"):
            out.write_block(Block(5, bytes(12), "little", interface=1))
        with pytest.raises(CaptureError, match="options"):
            out.write(b"", 0, options=((1, bytes(65_535)),) * 17)
        out.write(bytes(262_144), 2**64 - 1, original_octets=2**32 - 1)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
interfaces_strategy = st.builds(
    Interface,
    link_type=st.integers(0, 65535),
    snap_octets=st.integers(0, 2**32 - 1),
    name=texts,
    description=texts,
    comments=st.lists(texts.filter(bool), max_size=2).map(tuple),
    tsresol=st.just(9),
)


@given(
    interfaces=st.lists(interfaces_strategy, min_size=1, max_size=4),
    packets=st.lists(
        st.tuples(
            st.binary(max_size=80),
            st.integers(0, 2**64 - 1),
            st.integers(0, 2**32 - 1),
            st.integers(0, 3),
            st.lists(st.tuples(st.integers(1, 65535), st.binary(max_size=12)), max_size=3).map(tuple),
        )
    ),
)
def test_round_trip(
    interfaces: list[Interface], packets: list[tuple[bytes, int, int, int, tuple[tuple[int, bytes], ...]]]
) -> None:
    file = io.BytesIO()
    expected = []
    with create_capture(file) as out:
        assert [out.add_interface(each) for each in interfaces] == list(range(len(interfaces)))
        for data, timestamp_ns, original, wish, options in packets:
            number = wish % len(interfaces)
            record = Record(timestamp_ns, original, interfaces[number].link_type, number, data, options)
            out.write_record(record, interface=number)
            expected.append(record)
    capture = open_capture(io.BytesIO(file.getvalue()))
    assert list(capture) == expected
    assert capture.interfaces == interfaces
