"""A capture read in batches: records and blocks in file order, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Self

from .capture import Capture, open_capture
from .classic import TruncationHandler
from .record import Block, Record
from .stream import Readable

PACKETS = 1024
OCTETS = 4 << 20
"""A batch is full when it has that many packets or octets: the engine's call is cheap then, and memory flat."""


class Batches:
    """Lists of the records and blocks of a capture, in file order.   A context manager that closes the file.

    on_truncated: as open_capture has it.   Iteration raises CaptureError.
    """

    def __init__(self, source: str | os.PathLike[str] | Readable, on_truncated: TruncationHandler) -> None:
        self._batch: list[Record | Block] = []
        self._octets = 0
        self.capture: Capture = open_capture(source, on_block=self._take_block, on_truncated=on_truncated)

    def __iter__(self) -> Iterator[list[Record | Block]]:
        for record in self.capture:
            self._batch.append(record)
            self._octets += len(record.data)
            if len(self._batch) >= PACKETS or self._octets >= OCTETS:
                yield self._taken()
        if self._batch:
            yield self._taken()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.capture.close()

    def _take_block(self, block: Block) -> None:
        self._batch.append(block)
        self._octets += len(block.body)

    def _taken(self) -> list[Record | Block]:
        batch, self._batch, self._octets = self._batch, [], 0
        return batch
