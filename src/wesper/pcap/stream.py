"""The files below the formats: a source read in chunks, and a sink that only ever holds whole records."""

from __future__ import annotations

import contextlib
import gzip
import os
import secrets
import shutil
import stat
import sys
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol, cast

from wesper.pcap.errors import CaptureIOError

CHUNK_OCTETS = 1 << 20


class Readable(Protocol):
    """A binary file object to read from."""

    def read(self, size: int, /) -> bytes | None: ...


class Writable(Protocol):
    """A binary file object to write to."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int | None: ...


class Source:
    """A file read front to back through a window of memory.

    data: the octets held now.   position: index in `data` of the next octet, moved by whoever reads it.
    base: the file offset of `data[0]`.
    The window is two chunks, or the largest `need` of a caller if that is more. Memory grows with the octets that are
    really there, never with a length that a file claims. A gzip file is uncompressed on the way.
    """

    __slots__ = ("_file", "_owned", "_read", "base", "data", "name", "position")

    def __init__(self, source: str | os.PathLike[str] | Readable) -> None:
        self.data = b""
        self.position = 0
        self.base = 0
        self._owned = False
        if isinstance(source, (str, os.PathLike)):
            self.name = os.fspath(source)
            if self.name == "-":
                self.name = "<stdin>"
                self._file: Readable = sys.stdin.buffer
            else:
                try:
                    self._file = open(self.name, "rb", buffering=0)  # noqa: SIM115 (closed by close)
                except OSError as error:
                    raise _io_error(self.name, 0, "a file that can be read", error) from error
                self._owned = True
        else:
            self.name = str(getattr(source, "name", "<stream>"))
            self._file = source
        self._read = _chunk_reader(self._file)
        try:
            self._uncompress()
        except BaseException:
            self.close()
            raise

    @property
    def offset(self) -> int:
        """File offset of the next octet."""
        return self.base + self.position

    @property
    def held(self) -> int:
        """Octets in the window from `position` on."""
        return len(self.data) - self.position

    def need(self, octets: int) -> bool:
        """Read until `octets` octets are held; False if the file ends first.

        Mutates `data`, `base` and `position` if it has to read, and then `position` is 0.   Raises CaptureIOError.
        """
        have = len(self.data) - self.position
        if have >= octets:
            return True
        parts = [self.data[self.position :]]
        self.base += self.position
        self.position = 0
        while have < octets:
            chunk = self._next_chunk(self.base + have)
            if not chunk:
                break
            parts.append(chunk)
            have += len(chunk)
        self.data = b"".join(parts)
        return have >= octets

    def skip(self, octets: int) -> bool:
        """Pass over `octets` octets, holding one chunk of them at a time; False if the file ends first."""
        while octets > self.held:
            octets -= self.held
            self.base += len(self.data)
            self.position = 0
            self.data = self._next_chunk(self.base)
            if not self.data:
                return False
        self.position += octets
        return True

    def close(self) -> None:
        """Close the file if this object opened it."""
        if self._owned:
            cast(BinaryIO, self._file).close()

    def _next_chunk(self, offset: int) -> bytes:
        try:
            chunk = self._read(CHUNK_OCTETS)
        except (OSError, EOFError, zlib.error) as error:
            raise _io_error(self.name, offset, "readable octets", error) from error
        if chunk is None:
            raise CaptureIOError(
                "no data yet on a non-blocking file", path=self.name, offset=offset, expected="a blocking file"
            )
        return chunk

    def _uncompress(self) -> None:
        self.need(2)
        if self.data[:2] != b"\x1f\x8b":
            return
        compressed = cast(BinaryIO, _Rewound(self.data, self._read))
        self._read = gzip.GzipFile(fileobj=compressed, mode="rb").read1
        self.data = b""


class Sink:
    """A file written whole record by whole record.

    A regular file appears under its name only when `close` was reached: until then its octets are in a hidden file
    beside it, which `abandon` removes. A pipe, a device or a file object is written directly, in pieces that end where
    a record ends.
    """

    __slots__ = ("_broken", "_file", "_flushed", "_owned", "_part", "_pending", "_target", "name")

    def __init__(self, target: str | os.PathLike[str] | Writable) -> None:
        self._pending = bytearray()
        self._flushed = 0
        self._broken = False
        self._part = ""
        self._target = ""
        self._owned = False
        if not isinstance(target, (str, os.PathLike)):
            self.name = str(getattr(target, "name", "<stream>"))
            self._file: Writable = target
        elif os.fspath(target) == "-":
            self.name = "<stdout>"
            self._file = sys.stdout.buffer
        else:
            self.name = os.fspath(target)
            self._target = os.path.realpath(self.name)
            try:
                self._file = self._open()
            except OSError as error:
                raise _io_error(self.name, 0, "a file that can be written", error) from error
            self._owned = True

    @property
    def offset(self) -> int:
        """Octets written so far, those still in memory included."""
        return self._flushed + len(self._pending)

    def write(self, record: bytes) -> None:
        """Append one whole record.   Raises CaptureIOError."""
        self._pending += record
        if len(self._pending) >= CHUNK_OCTETS:
            self.flush()

    def flush(self) -> None:
        """Hand all records so far to the operating system.   Raises CaptureIOError, and does so again once it has."""
        if self._broken:
            # What was half written must stay the end of the file, where a reader notices it
            raise CaptureIOError("an earlier write failed", path=self.name, offset=self._flushed)
        pending, self._pending = self._pending, bytearray()
        self._flushed += len(pending)
        self._broken = True
        view = memoryview(pending)
        try:
            while view:
                # An unbuffered file may take less than it was given, and says how much
                taken = self._file.write(view)
                view = view[len(view) if taken is None else taken :]
            flush = getattr(self._file, "flush", None)
            if flush is not None:
                flush()
        except OSError as error:
            raise _io_error(self.name, 0, "room for the next records", error) from error
        self._broken = False

    def close(self) -> None:
        """Write what is pending, and give a regular file its name.   Raises CaptureIOError."""
        try:
            self.flush()
            if self._owned:
                self._owned = False
                cast(BinaryIO, self._file).close()
                if self._part:
                    os.replace(self._part, self._target)
        except OSError as error:
            self.abandon()
            raise _io_error(self.name, 0, "a file that can be completed", error) from error
        except CaptureIOError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Leave a regular file as it was before; a pipe or file object ends with the last whole record."""
        if not self._part:
            with contextlib.suppress(CaptureIOError):
                self.flush()
        with contextlib.suppress(OSError):
            if self._owned:
                cast(BinaryIO, self._file).close()
        self._owned = False
        if self._part:
            with contextlib.suppress(OSError):
                os.unlink(self._part)

    def _open(self) -> BinaryIO:
        try:
            mode = os.stat(self._target).st_mode
        except FileNotFoundError:
            mode = 0
        if mode and not stat.S_ISREG(mode):
            return cast(BinaryIO, open(self._target, "wb", buffering=0))
        folder, base = os.path.split(self._target)
        self._part = os.path.join(folder, f".{base}.{secrets.token_hex(4)}.part")
        file = open(self._part, "xb", buffering=0)  # noqa: SIM115 (closed by close and abandon)
        if mode:
            # A file that only its owner could read must not become readable by being rewritten
            shutil.copymode(self._target, self._part)
        return cast(BinaryIO, file)


class _Rewound:
    """A file object that begins with octets already read from it."""

    def __init__(self, first: bytes, read: Callable[[int], bytes | None]) -> None:
        self._first = first
        self._read = read

    def read(self, size: int = CHUNK_OCTETS) -> bytes:
        if self._first:
            octets, self._first = self._first[:size], self._first[size:]
            return octets
        return self._read(size) or b""


def _chunk_reader(file: Readable) -> Callable[[int], bytes | None]:
    # `read` of a buffered pipe waits for a full chunk; `read1` gives what has arrived, so that live captures flow
    return cast(Callable[[int], "bytes | None"], getattr(file, "read1", file.read))


def _io_error(name: str, offset: int, expected: str, error: BaseException) -> CaptureIOError:
    return CaptureIOError(getattr(error, "strerror", None) or str(error), path=name, offset=offset, expected=expected)
