"""What must survive an end of the daemon: numbers reserved ahead, the tops of windows, and which keys were ever used.

Static keys outlive a process, and a number used twice under one key gives both packets away (RFC 4106 §2). So a number
is used only when the disk knows of it: marks are reserved in blocks, and synced before the first of a block is used. A
start goes on above the mark. What an inbound SA has received is kept too, so that old packets stay old.

Two files in the state directory, both of fixed records, written in place:

- `NAME.state`: of one running file: its generation, and a mark or top for each key;
- `keys.ledger`: of all running files: each key that was ever used, and the last generation of the state that used it.

A key that the ledger knows, and whose state is gone or of an older generation (a backup put back), is refused: nobody
can tell any more which numbers it has used. Both files hold fingerprints, never keys.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import ConfigError, KeyMaterialError
from ..psp.gateway import GatewaySA
from ..sa import SA, Direction

BLOCK: Final = 1 << 20
"""Numbers reserved at once; half are left when the next block is, for a second at half a million packets a second."""
SHORT_BLOCK: Final = 1 << 16
"""The same without extended sequence numbers: 65,000 starts use up all 2^32."""

_STATE, _LEDGER = b"wesper-state-1\n\0", b"wesper-ledger-1\n"
_RECORD = struct.Struct(">16sQII")  # fingerprint, number, direction, CRC of the rest: never across a disk's sector
_OUT, _IN = 1, 2
_MAX_OCTETS: Final = 1 << 30
_NEW_KEYS: Final = "new keys for both ends: `wesper keygen`"


def fingerprint(sa: SA | GatewaySA, direction: Direction | None = None) -> bytes:
    """Return 16 octets that tell a key, used in one direction, from all others and do not tell it.

    Of what makes a nonce unique: suite, key and salt. The SPI is not among it: the same key under another SPI would
    repeat nonces just as well. Both ends of a tunnel may run on one host, so sending and receiving are two things.
    direction: instead of the SA's own.
    """
    digest = hashlib.sha256(b"wesper key fingerprint 1\0" + (direction or sa.direction).value.encode() + b"\0")
    for part in (sa.profile.suite.encode(), sa.key, sa.salt, sa.auth_key):
        digest.update(len(part).to_bytes(2, "big") + part)
    return digest.digest()[:16]


@dataclass(slots=True)
class _Kept:
    """One record.   number: outbound the last one reserved, inbound the last one known as received."""

    place: int
    number: int
    direction: int
    block: int = BLOCK
    last: int = (1 << 64) - 1


class State:
    """The numbers of one running file, on disk; of one process at a time.

    Use: `open`, `admit` and `resume` before an SA's first packet, then `top_up` and `save_tops`, at the end `settle`.
    """

    def __init__(self, path: Path, descriptor: int, generation: int, kept: dict[bytes, _Kept]) -> None:
        self.path, self.generation = path, generation
        self._fd, self._kept = descriptor, kept
        self._in_use: set[bytes] = set()

    @classmethod
    def open(cls, directory: Path, name: str) -> State:
        """Take over the state of a running file; it begins empty.

        Raises ConfigError if another process has it or it is damaged, OSError.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / f"{name}.state"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            generation, kept = 0, {}
            for place, mark, number, extra in _records(path, descriptor, _STATE):
                if not place:
                    generation = number
                elif extra in (_OUT, _IN) and mark not in kept:
                    kept[mark] = _Kept(place, number, extra)
                else:
                    raise _damaged(path, place)
            return cls(path, descriptor, generation, kept)
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigError(f"{name} is running already", path=path, expected=f"`wesper down {name}` first") from None
        except BaseException:
            os.close(descriptor)
            raise

    def admit(self, sas: Sequence[tuple[SA | GatewaySA, str]]) -> None:
        """Let SAs use this state, at a start and whenever new ones come; those in use already stay as they are.

        sas: each with what people call it.
        Raises KeyMaterialError for keys that may not be used (again), and then has written nothing; OSError.
        """
        with _Ledger(self.path.parent / "keys.ledger") as ledger:
            new = self._check(sas, ledger)
            if not self._in_use:
                self.generation = max(self.generation, *(ledger.known.get(each, 0) for each in new), 0) + 1
            self._add(new)
            ledger.note(new, self.generation)
        self._in_use.update(new)

    def _check(self, sas: Sequence[tuple[SA | GatewaySA, str]], ledger: _Ledger) -> dict[bytes, _Kept]:
        new: dict[bytes, _Kept] = {}
        end = max((kept.place for kept in self._kept.values()), default=0)
        seen: set[bytes] = set()
        for sa, title in sas:
            mark = fingerprint(sa)
            outbound = sa.direction is Direction.OUT
            direction = _OUT if outbound else _IN
            turned = fingerprint(sa, Direction.IN if outbound else Direction.OUT)
            kept, used = self._kept.get(mark), ledger.known.get(mark)
            if mark in seen or turned in seen:
                raise KeyMaterialError(f"{title} has the key of another SA", expected="a key of its own for every SA")
            seen.add(mark)
            if turned in self._kept:
                raise KeyMaterialError(f"{title}: its key was used in the other direction", expected=_NEW_KEYS)
            if mark in self._in_use:
                continue
            if used is not None and (kept is None or self.generation < used):
                gone = "is gone" if kept is None else "is older than their last use"
                raise KeyMaterialError(
                    f"{title}: its keys were used before, and the state that knows their last numbers {gone}",
                    path=self.path,
                    expected=_NEW_KEYS,
                )
            if kept is None:
                end += _RECORD.size
                kept = _Kept(end, sa.sequence, direction)
            new[mark] = kept
        return new

    def _add(self, new: Mapping[bytes, _Kept]) -> None:
        """Write what is new, and then the generation: with it the file counts as no older than the ledger."""
        end = max((kept.place for kept in (*self._kept.values(), *new.values())), default=0) + _RECORD.size
        os.posix_fallocate(self._fd, 0, end)  # a disk that fills up later stops no number from being reserved
        for mark, kept in new.items():
            self._write(kept, kept.number, mark)
        self._sync()
        self._kept.update(new)
        _write_whole(self._fd, _record(_STATE, self.generation, len(self._kept)), 0)
        os.fsync(self._fd)
        _sync_directory(self.path.parent)

    def resume(self, sa: SA | GatewaySA) -> int:
        """Return the number for `SA.sequence` to go on with, and reserve the first block of an outbound one.

        Outbound: the last number that may have been used. Inbound: the highest one received; the engine has to be told
        that nothing up to it is to be taken again (`Engine.close_window`).
        Raises OSError.
        """
        mark = fingerprint(sa)
        kept = self._kept[mark]
        kept.last = sa.profile.last_sequence
        used = max(kept.number, sa.sequence)
        if sa.direction is Direction.IN:
            return used
        kept.block = BLOCK if sa.profile.esn else SHORT_BLOCK
        self._put(kept, min(used + kept.block, kept.last), mark)
        self._sync()
        return used

    def reserved(self, sa: SA | GatewaySA) -> int:
        """Return the last number that an outbound SA may use."""
        return self._kept[fingerprint(sa)].number

    def top_up(self, used: Mapping[bytes, int]) -> dict[bytes, int]:
        """Reserve another block for each outbound SA that has used half of its last one.

        used: last numbers sent, by fingerprint.   Returns the new last numbers, which are on disk by then.
        Raises OSError, and then nothing is reserved.
        """
        raised = {}
        for mark, number in used.items():
            kept = self._kept[mark]
            if number + kept.block // 2 >= kept.number < kept.last:
                raised[mark] = min(max(number, kept.number) + kept.block, kept.last)
        for mark, number in raised.items():
            self._write(self._kept[mark], number, mark)
        if raised:
            self._sync()
        for mark, number in raised.items():
            self._kept[mark].number = number
        return raised

    def save_tops(self, tops: Mapping[bytes, int]) -> None:
        """Save the last numbers received, by fingerprint, where they have changed.   Raises OSError."""
        changed = [(mark, top) for mark, top in tops.items() if top > self._kept[mark].number]
        for mark, top in changed:
            self._put(self._kept[mark], top, mark)
        if changed:
            self._sync()

    def settle(self, used: Mapping[bytes, int]) -> None:
        """Give back what is reserved and unused, at an orderly end: no packet is sent any more.   Raises OSError.

        used: last numbers sent, by fingerprint.
        """
        for mark, number in used.items():
            kept = self._kept[mark]
            if number < kept.number:
                self._put(kept, number, mark)
        self._sync()

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _put(self, kept: _Kept, number: int, mark: bytes) -> None:
        self._write(kept, number, mark)
        kept.number = number

    def _write(self, kept: _Kept, number: int, mark: bytes) -> None:
        _write_whole(self._fd, _record(mark, number, kept.direction), kept.place)

    def _sync(self) -> None:
        os.fdatasync(self._fd)


class _Ledger:
    """Keys that were ever used, with the generation of the state that used them last; locked while it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self.known: dict[bytes, int] = {}
        self._places: dict[bytes, int] = {}

    def __enter__(self) -> _Ledger:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            for place, mark, generation, _ in _records(self._path, self._fd, _LEDGER):
                if place:
                    self.known[mark], self._places[mark] = generation, place
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def note(self, marks: Iterable[bytes], generation: int) -> None:
        """Write that these keys are in use by a state of this generation."""
        end = _RECORD.size * (1 + len(self._places))
        for mark in marks:
            place = self._places.setdefault(mark, end)
            if place == end:
                end += _RECORD.size
            _write_whole(self._fd, _record(mark, generation, 0), place)
        _write_whole(self._fd, _record(_LEDGER, len(self._places), 0), 0)
        os.fsync(self._fd)
        _sync_directory(self._path.parent)


def _records(path: Path, descriptor: int, kind: bytes) -> Iterator[tuple[int, bytes, int, int]]:
    """Yield (place, name, number, extra) of the header, whose place is 0, and of the records that it counts.

    Raises ConfigError for a file that is not whole; what was allocated and never written is passed over.
    """
    size = os.fstat(descriptor).st_size
    if size > _MAX_OCTETS:
        raise _damaged(path, 0)
    data = os.pread(descriptor, size, 0)
    if not any(data):
        return
    for place in range(0, size - _RECORD.size + 1, _RECORD.size):
        record = data[place : place + _RECORD.size]
        name, number, extra, check = _RECORD.unpack(record)
        if not any(record):
            continue
        if check != zlib.crc32(record[:-4]) or (place == 0 and name != kind):
            raise _damaged(path, place)
        yield place, name, number, extra


def _damaged(path: Path, place: int) -> KeyMaterialError:
    return KeyMaterialError(
        f"damaged at octet {place}: nobody knows which numbers its keys have used",
        path=path,
        expected="new keys for both ends (`wesper keygen`), then remove this file",
    )


def _record(name: bytes, number: int, extra: int) -> bytes:
    head = _RECORD.pack(name, number, extra, 0)[:-4]
    return head + zlib.crc32(head).to_bytes(4, "big")


def _write_whole(descriptor: int, data: bytes, place: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, place)
        data, place = data[written:], place + written


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
