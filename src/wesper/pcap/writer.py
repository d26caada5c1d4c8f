"""What writers of both file formats have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Literal, Self

from wesper.errors import CaptureError
from wesper.pcap.record import Interface, Option, Record
from wesper.pcap.stream import Sink


class CaptureWriter(ABC):
    """A capture being written. Left as a context manager it completes the file, or abandons it if an exception passes.

    Records are collected and written in large pieces that end with a whole record; `flush` sends them earlier.
    """

    format: ClassVar[Literal["pcap", "pcapng"]]

    def __init__(self, sink: Sink) -> None:
        self.name = sink.name
        self._sink = sink

    @abstractmethod
    def add_interface(self, interface: Interface) -> int:
        """Describe an interface, before its first packet. Returns its number for `write`."""

    @abstractmethod
    def write(
        self,
        data: bytes,
        timestamp_ns: int,
        *,
        interface: int = 0,
        original_octets: int | None = None,
        options: tuple[Option, ...] = (),
    ) -> None:
        """Append one packet.

        data: 0..262144 octets.   timestamp_ns: since 1970-01-01 UTC.   interface: what `add_interface` returned.
        original_octets: length on the network, that of `data` if None.   options: comments and others of pcapng.
        Raises CaptureError for what the format can't hold, and CaptureIOError if the disk is full or the pipe closed.
        """

    def write_record(self, record: Record, *, interface: int = 0) -> None:
        """Append a record that was read, for an interface of this writer."""
        self.write(
            record.data,
            record.timestamp_ns,
            interface=interface,
            original_octets=record.original_octets,
            options=record.options,
        )

    def flush(self) -> None:
        """Hand the records so far to the operating system.   Raises CaptureIOError."""
        self._sink.flush()

    def close(self) -> None:
        """Complete the file; a regular file has its name from now on.   Raises CaptureIOError."""
        self._sink.close()

    def abandon(self) -> None:
        """Give up: a regular file stays as it was before, a pipe ends with the last whole record."""
        self._sink.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _refused(self, what: str, expected: str) -> CaptureError:
        return CaptureError(what, path=self.name, offset=self._sink.offset, expected=expected)
