"""Opening captures: which of the two file formats it is, and who closes the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Literal

from wesper.errors import CaptureError
from wesper.pcap.classic import MAGICS, PcapReader, PcapWriter, TruncationHandler
from wesper.pcap.pcapng import BlockHandler, PcapngReader
from wesper.pcap.pcapng_writer import PcapngWriter
from wesper.pcap.record import Interface, Record, Section
from wesper.pcap.stream import Readable, Sink, Source, Writable


class Capture:
    """An open capture, an iterator over its records. A context manager that closes the file.

    name: the path, `<stdin>` or the file object's name.   format: `pcap` or `pcapng`.
    Iterating twice goes on where the first time stopped. Memory: a window of a few MiB, whatever the file's size.
    """

    def __init__(self, source: Source, reader: PcapReader | PcapngReader) -> None:
        self.name = source.name
        self.format: Literal["pcap", "pcapng"] = "pcap" if isinstance(reader, PcapReader) else "pcapng"
        self._source = source
        self._reader = reader
        self._records = iter(reader)

    @property
    def interfaces(self) -> Sequence[Interface]:
        """Interfaces described so far; `Record.interface` is an index into them. pcapng may describe more later on."""
        return self._reader.interfaces

    @property
    def section(self) -> Section:
        """Header of the section that the last record is in."""
        return self._reader.section

    def close(self) -> None:
        """Close the file, unless it was handed over open."""
        self._source.close()

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_capture(
    source: str | os.PathLike[str] | Readable,
    *,
    on_block: BlockHandler | None = None,
    on_truncated: TruncationHandler | None = None,
) -> Capture:
    """Open a pcap or pcapng file, plain or gzipped, for reading.

    source: a path, `-` for standard input, or a binary file object, read forward only and not closed.
    on_block: called with each pcapng block that is no packet, interface or section, in file order between the records;
        without it such blocks are skipped.
    on_truncated: called once, after the last whole record, if the file ends inside a record; iteration then ends.
        Without it the error is raised there.

    Raises CaptureError if it is no capture (exit code 2), CaptureTruncated if not even its header is whole, and
    CaptureIOError (exit code 4 both); iteration raises the same for what comes later.

    >>> import io
    >>> empty = bytes.fromhex("a1b2c3d4 0002 0004 00000000 00000000 0000ffff 00000065")
    >>> with open_capture(io.BytesIO(empty)) as capture:
    ...     capture.format, capture.interfaces[0].link_type, list(capture)
    ('pcap', 101, [])
    """
    opened = Source(source)
    try:
        opened.need(4)
        magic = opened.data[:4]
        if magic in MAGICS:
            return Capture(opened, PcapReader(opened, on_truncated=on_truncated))
        if magic == b"\n\r\r\n":
            return Capture(opened, PcapngReader(opened, on_block=on_block, on_truncated=on_truncated))
        what = f"the file begins with {magic.hex(' ')}" if magic else "the file is empty"
        raise CaptureError(what, path=opened.name, offset=0, expected="a pcap or pcapng capture")
    except BaseException:
        opened.close()
        raise


def create_capture(
    target: str | os.PathLike[str] | Writable,
    *,
    format: Literal["pcap", "pcapng"] | None = None,
    nanoseconds: bool = True,
    comments: tuple[str, ...] = (),
) -> PcapWriter | PcapngWriter:
    """Create a capture file for writing; use it as a context manager.

    target: a path, `-` for standard output, or a binary file object, which is flushed but not closed. A regular file
        appears, or replaces the one of that name, only when it is complete.
    format: by default `pcap` for a path that ends in `.pcap` or `.cap`, else `pcapng`.
    nanoseconds: for pcap, whether timestamps keep nanoseconds (True) or microseconds; pcapng always keeps nanoseconds.
    comments: on the whole file; pcap has no place for them.

    >>> import io
    >>> from wesper.pcap import Interface, LinkType
    >>> file = io.BytesIO()
    >>> with create_capture(file) as out:
    ...     inner = out.add_interface(Interface(LinkType.RAW, name="decrypted"))
    ...     out.write(bytes.fromhex("45"), 1_000_000_000, interface=inner, original_octets=20)
    >>> list(open_capture(io.BytesIO(file.getvalue())))
    [Record(timestamp_ns=1000000000, original_octets=20, link_type=101, interface=0, data=b'E', options=())]
    """
    if format is None:
        suffix = os.path.splitext(target)[1].lower() if isinstance(target, (str, os.PathLike)) else ""
        format = "pcap" if suffix in {".pcap", ".cap"} else "pcapng"
    sink = Sink(target)
    if format == "pcap":
        return PcapWriter(sink, nanoseconds=nanoseconds)
    return PcapngWriter(sink, comments=comments)
