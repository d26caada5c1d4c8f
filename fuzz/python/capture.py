"""Any octets as a capture file: records or one CaptureError, the same in one piece as in small ones, and what was read
can be written and read again."""

from __future__ import annotations

import io
import sys

from wesper.pcap import (
    Block,
    Capture,
    CaptureError,
    CaptureIOError,
    PcapngWriter,
    Record,
    create_capture,
    ip_offset,
    open_capture,
)


class Pieces:
    """A file object that gives three octets at a time, as a slow pipe may."""

    def __init__(self, octets: bytes) -> None:
        self._file = io.BytesIO(octets)

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 3))


def contents(file: io.BytesIO | Pieces) -> tuple[Capture | None, list[Record | Block], CaptureError | None]:
    """What a capture holds, and how reading it ended."""
    seen: list[Record | Block] = []
    capture = None
    try:
        capture = open_capture(file, on_block=seen.append)
        for record in capture:
            seen.append(record)
    except CaptureError as error:
        return capture, seen, error
    return capture, seen, None


def written_again(capture: Capture, records: list[Record]) -> list[Record]:
    """The records after one way through a pcapng file."""
    file = io.BytesIO()
    with create_capture(file) as out:
        assert isinstance(out, PcapngWriter)
        for interface in capture.interfaces:
            out.add_interface(interface)
        for record in records:
            out.write_record(record, interface=record.interface)
    return list(open_capture(io.BytesIO(file.getvalue())))


def one_input(octets: bytes) -> None:
    """Run one input; an exception is a finding."""
    capture, seen, error = contents(io.BytesIO(octets))
    if not isinstance(error, CaptureIOError):
        # A damaged gzip stream is noticed at a place that depends on how much of it was read at once
        _, again, error_again = contents(Pieces(octets))
        assert seen == again
        assert str(error) == str(error_again)
    if capture is None:
        assert not seen
        return
    records = [each for each in seen if isinstance(each, Record)]
    for record in records:
        offset = ip_offset(record.link_type, record.data)
        assert offset is None or record.data[offset] >> 4 in (4, 6)
    # Offsets and odd units of the file can lead out of the 64 bits that a timestamp has when it is written
    kept = [record for record in records if 0 <= record.timestamp_ns < 1 << 64]
    assert written_again(capture, kept) == kept


def main() -> None:
    """Fuzz until libFuzzer's arguments say stop."""
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
