"""What must survive an end of the process: how far IVs, and SPIs of device keys that outlive it, have been used.

A mark lies ahead of every number used: it is on disk before the first number below it is. A start goes on at the mark.
The file holds fingerprints of device keys, never keys.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from ..errors import ConfigError, KeyMaterialError

_KIND: Final = b"wesper-psp-mark1"
_RECORD: Final = struct.Struct(">16sQII")  # name, mark, 0, CRC of the rest: never across a disk's sector
_MOST: Final = 1 << 16  # records of a file
_IV: Final = b"iv".ljust(16, b"\0")


def fingerprint(device_key: bytes) -> bytes:
    """Return 16 octets that tell a device key from all others and do not tell it."""
    return hashlib.sha256(b"wesper psp device key 1\0" + device_key).digest()[:16]


class Marks(ABC):
    """Marks by name.   Not for several threads: the device sees to that."""

    @property
    def iv(self) -> int:
        """Every IV used so far is below."""
        return self._read(_IV) or 0

    def raise_iv(self, to: int) -> None:
        """Put the mark of IVs there.   Raises OSError, and then nothing beyond the former one may be used."""
        self._write(_IV, to)

    def spi(self, key: bytes) -> int | None:
        """Return the index below which all SPIs of a device key may be given away; None for a key never seen.

        key: its fingerprint.
        """
        return self._read(key)

    def raise_spi(self, key: bytes, to: int) -> None:
        """Put the mark of a device key's SPIs up.   Raises OSError."""
        self._write(key, to)

    def close(self) -> None:
        """Let go of what holds the marks."""
        return

    @abstractmethod
    def _read(self, name: bytes) -> int | None: ...

    @abstractmethod
    def _write(self, name: bytes, mark: int) -> None: ...


class MemoryMarks(Marks):
    """Marks that end with the process: for keys that do too."""

    def __init__(self) -> None:
        self._marks: dict[bytes, int] = {}

    def _read(self, name: bytes) -> int | None:
        return self._marks.get(name)

    def _write(self, name: bytes, mark: int) -> None:
        self._marks[name] = mark


class FileMarks(Marks):
    """Marks in a file of fixed records, written in place and synced; of one process at a time.

    path: made if it is not there, with mode 0600; its directory too.
    Raises ConfigError if another process has it, KeyMaterialError if it is damaged, OSError.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._places, self._marks = self._load()
        except BlockingIOError:
            os.close(self._fd)
            raise ConfigError("another process has these marks", path=self.path, expected="a file of its own") from None
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _load(self) -> tuple[dict[bytes, int], dict[bytes, int]]:
        size = os.fstat(self._fd).st_size
        if size > _MOST * _RECORD.size:
            raise self._damaged(0)
        data = os.pread(self._fd, size, 0)
        if not any(data):
            os.posix_fallocate(self._fd, 0, 4 * _RECORD.size)  # a disk that fills up later stops no mark
            self._put(0, _KIND, 0)
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
            return {}, {}
        places, marks = {}, {}
        for place in range(0, size - _RECORD.size + 1, _RECORD.size):
            record = data[place : place + _RECORD.size]
            if not any(record):
                continue
            name, mark, _, check = _RECORD.unpack(record)
            if check != zlib.crc32(record[:-4]) or (place == 0) != (name == _KIND):
                raise self._damaged(place)
            if place:
                places[name], marks[name] = place, mark
        return places, marks

    def _read(self, name: bytes) -> int | None:
        return self._marks.get(name)

    def _write(self, name: bytes, mark: int) -> None:
        if self._fd < 0:
            raise OSError(f"{self.path} is closed")
        place = self._places.get(name) or _RECORD.size * (1 + len(self._places))
        self._put(place, name, mark)
        self._places[name], self._marks[name] = place, mark

    def _put(self, place: int, name: bytes, mark: int) -> None:
        head = _RECORD.pack(name, mark, 0, 0)[:-4]
        record = head + zlib.crc32(head).to_bytes(4, "big")
        if os.pwrite(self._fd, record, place) != len(record):
            raise OSError(f"{self.path}: a record was written in part")
        os.fdatasync(self._fd)

    def _damaged(self, place: int) -> KeyMaterialError:
        return KeyMaterialError(
            f"damaged at octet {place}: nobody knows which IVs and SPIs have been used",
            path=self.path,
            expected="new keys at both ends, then remove this file",
        )
