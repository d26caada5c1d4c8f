"""What became of a packet that was to be opened, whatever protocol protects it."""

from __future__ import annotations

from dataclasses import dataclass

from ..keying import PSPAssociation, PSPDevice, StaticSA
from ..verdict import DropReason

Opening = StaticSA | PSPAssociation | PSPDevice
"""An entry of a key file that opens packets."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What became of a packet.

    reason: None if it was opened; then packet is the inner one and sa, spi, sequence say by whom.
    sequence: PSP's is the IV.   suite: PSP's version, of authentic packets.   sampled: PSP's S bit.
    flow: EESP's Session ID, without which a Sub SA's number says little, or WESPv2's flow identifier, as people say it.
    """

    reason: DropReason | None
    packet: bytes = b""
    sa: Opening | None = None
    spi: int = 0
    sequence: int = 0
    suite: str = ""
    sampled: bool = False
    flow: str = ""
