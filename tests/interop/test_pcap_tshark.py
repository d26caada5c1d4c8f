"""What tshark says of a capture, and what the reader and writers of wesper.pcap say."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Literal

import pytest

from wesper.pcap import Interface, LinkType, Option, Record, create_capture, open_capture

DATA = Path(__file__).parent.parent / "data" / "pcap"
FOREIGN = sorted(path for path in DATA.iterdir() if ".pcap" in path.name)
CORPUS = DATA.parents[2] / "fuzz" / "corpus" / "capture"
HAND_MADE = [CORPUS / f"version-2.3-{order}-endian.pcap" for order in ("little", "big")]

pytestmark = pytest.mark.needs_tool("tshark", "tshark")

FIELDS = ("frame.time_epoch", "frame.len", "frame.cap_len", "frame.interface_id", "frame.comment")


def tshark(path: Path, *fields: str) -> list[list[str]]:
    """Values of fields, a row per packet."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", *(word for field in fields for word in ("-e", field))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def as_tshark_says(record: Record, pcapng: bool) -> list[str]:
    seconds, fraction = divmod(record.timestamp_ns, 1_000_000_000)
    return [
        f"{seconds}.{fraction:09}",
        str(record.original_octets),
        str(record.captured_octets),
        str(record.interface) if pcapng else "",
        ",".join(record.comments),
    ]


@pytest.mark.parametrize("path", FOREIGN + HAND_MADE, ids=lambda path: path.name)
def test_foreign_captures(path: Path) -> None:
    with open_capture(path) as capture:
        ours = [as_tshark_says(record, capture.format == "pcapng") for record in capture]
    assert ours
    assert tshark(path, *FIELDS) == ours


@pytest.mark.parametrize("order", ["little", "big"])
def test_every_kind_of_packet_block(order: str) -> None:
    path = CORPUS / f"all-blocks-{order}-endian.pcapng"
    with open_capture(path) as capture:
        ours = [as_tshark_says(record, True) for record in capture]
    *theirs, custom = tshark(path, *FIELDS)
    # Wireshark lists a custom block like a packet, without time and interface; to us it is a block that is no packet
    assert (custom[0], custom[3]) == ("", "")
    # A simple packet block has no time: tshark leaves the field empty
    assert [row[0] for row in theirs] == [ours[0][0], "", ours[2][0]]
    assert [row[1:] for row in theirs] == [row[1:] for row in ours]


PACKETS: list[tuple[int, int, bytes, int | None, tuple[Option, ...]]] = [
    (
        0,
        1_700_000_000_123_456_789,
        bytes.fromhex("4500001c00010000401100 00c0000201c6336402 1194003500080000"),
        None,
        (),
    ),
    (0, 1, bytes.fromhex("4500001c00010000401100 00c0000201c6336402 1194003500080000"), 1400, ((1, b"outer"),)),
    (
        1,
        4_102_444_800_999_999_999,
        bytes.fromhex("6000000000083b40") + bytes(32) + bytes(8),
        None,
        ((1, b"in"), (1, b"n")),
    ),
]


@pytest.mark.parametrize("format", ["pcap", "pcapng"])
def test_captures_we_write(tmp_path: Path, format: Literal["pcap", "pcapng"]) -> None:
    path = tmp_path / "out"
    with create_capture(path, format=format, comments=("made by a test",)) as out:
        numbers = [out.add_interface(Interface(LinkType.RAW, name=name)) for name in ("wan0", "decrypted")]
        for interface, timestamp_ns, data, original, options in PACKETS:
            out.write(data, timestamp_ns, interface=numbers[interface], original_octets=original, options=options)
    with open_capture(path) as capture:
        ours = [as_tshark_says(record, format == "pcapng") for record in capture]
    assert tshark(path, *FIELDS) == ours
    assert [row[0] for row in ours] == ["1700000000.123456789", "0.000000001", "4102444800.999999999"]
    names = [row[0] for row in tshark(path, "frame.interface_name")]
    assert names == (["wan0", "wan0", "decrypted"] if format == "pcapng" else ["", "", ""])
    versions = [[row[0] != "", row[1] != ""] for row in tshark(path, "ip.src", "ipv6.src")]
    assert versions == [[True, False], [True, False], [False, True]]


def test_a_cut_file_is_noticed_by_both(tmp_path: Path) -> None:
    path = tmp_path / "cut.pcapng"
    path.write_bytes((DATA / "ethernet.pcapng").read_bytes()[:-5])
    whole = []
    with open_capture(path, on_truncated=lambda error: None) as capture:
        whole = [as_tshark_says(record, True) for record in capture]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-e", "frame.number"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "cut short" in done.stderr
    assert len(done.stdout.splitlines()) == len(whole) == 7
