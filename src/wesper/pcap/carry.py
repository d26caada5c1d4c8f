"""Packets and blocks carried from one capture into another as they are."""

from __future__ import annotations

from collections.abc import Callable

from .capture import Capture
from .pcapng_writer import PcapngWriter
from .record import Block, Interface, Record
from .writer import CaptureWriter


class Carrier:
    """Gives interfaces their numbers in the new capture and copies what is not changed.

    change: makes the new capture's interface of the old one's.
    """

    def __init__(
        self, capture: Capture, out: CaptureWriter, change: Callable[[Interface], Interface] = lambda same: same
    ) -> None:
        self._capture, self._out, self._change = capture, out, change
        self._numbers: dict[int, int] = {}

    def interface(self, number: int) -> int:
        """Return what an interface of the old capture is called in the new one."""
        found = self._numbers.get(number)
        if found is None:
            found = self._out.add_interface(self._change(self._capture.interfaces[number]))
            self._numbers[number] = found
        return found

    def record(self, record: Record) -> None:
        """Copy a packet."""
        self._out.write_record(record, interface=self.interface(record.interface))

    def block(self, block: Block) -> None:
        """Copy a block that is no packet, if the new capture's format and byte order can hold it."""
        if not isinstance(self._out, PcapngWriter) or block.byte_order != "little":
            return
        number = None if block.interface is None else self.interface(block.interface)
        self._out.write_block(block, interface=number)
