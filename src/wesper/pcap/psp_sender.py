"""Packets protected with the PSP associations of a key file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import psp
from ..engine import Packets
from ..errors import ConfigError
from ..keying import PSPAssociation
from ..verdict import REASON_BY_CODE, DropReason

_IVS = 1 << 64
Sent = tuple[DropReason | None, bytes, int]
"""Why a packet was not sent, None if it was; then the protected packet, and its IV."""


class PSPSender:
    """Protects packets, each association with IVs that count up from the one after the file's.

    first_iv: of each association, instead of the file's.   Raises ConfigError.
    """

    def __init__(
        self, associations: Sequence[PSPAssociation], engine: str | None = None, first_iv: int | None = None
    ) -> None:
        if first_iv is not None and not 0 <= first_iv < _IVS:
            raise ConfigError(str(first_iv), key="sequence", expected=f"an IV, 0..{_IVS - 1:#x}")
        self.engine = psp.open_engine(engine)
        self._next = {id(each): each.iv + 1 if first_iv is None else first_iv for each in associations}

    def protect(self, packets: Sequence[bytes], associations: Sequence[PSPAssociation]) -> list[Sent]:
        """Protect packets, each with its association, in order.   packets: from their IP headers."""
        done: list[Sent] = [(DropReason.PSP_OUT_IV, b"", 0)] * len(packets)
        places: dict[int, list[int]] = {}
        for place, each in enumerate(associations):
            places.setdefault(id(each), []).append(place)
        for number, theirs in places.items():
            first = self._next[number]
            left = min(len(theirs), _IVS - first)
            if left < len(theirs):
                self.engine.count(DropReason.PSP_OUT_IV, len(theirs) - left)
            self._next[number] = first + left
            self._protect(packets, theirs[:left], associations[theirs[0]], first, done)
        return done

    def _protect(
        self, packets: Sequence[bytes], places: list[int], association: PSPAssociation, first: int, done: list[Sent]
    ) -> None:
        count = len(places)
        if not count:
            return
        sent = self.engine.encapsulate_many(
            association.profile,
            Packets.of(packets[place] for place in places),
            np.full(count, association.spi, np.uint32),
            np.broadcast_to(np.frombuffer(association.key, np.uint8), (count, len(association.key))),
            np.arange(count, dtype=np.uint64) + np.uint64(first),
        )
        for index, (place, code) in enumerate(zip(places, sent.codes.tolist(), strict=True)):
            done[place] = (REASON_BY_CODE[code], b"", 0) if code else (None, sent.packets[index], first + index)
